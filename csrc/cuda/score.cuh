// Uncertainty of every row of logits: one read of the logits, no temporary.
#pragma once

#include "predict.cuh"
#include "warp.cuh"

namespace prunefuse::cuda {

constexpr int score_threads = 256;

// Few columns: a tile of rows at a time through shared memory, then a row to a thread.
template <class T>
__global__ void __launch_bounds__(staged_threads)
    score_staged_rows(const T* __restrict__ logits, int64_t rows, int columns, ScoreKind kind,
                      float* __restrict__ scores) {
  DYNAMIC_SHARED(float, staged);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * staged_threads; first < rows;
       first += static_cast<int64_t>(gridDim.x) * staged_threads) {
    const int tile = rows - first < staged_threads ? static_cast<int>(rows - first) : staged_threads;
    stage_rows(logits + first * columns, tile, columns, staged);
    __syncthreads();
    const int row = threadIdx.x;
    if (row < tile) scores[first + row] = predict_staged(staged + row * (columns | 1), columns).prediction.score(kind);
    __syncthreads();
  }
}

// A row to `lanes` neighbouring lanes, which hold all of it in registers, `elements` of it each.
template <class T, int lanes, int elements>
__global__ void __launch_bounds__(score_threads, 4)
    score_held_rows(const T* __restrict__ logits, int64_t rows, int64_t columns, ScoreKind kind,
                    float* __restrict__ scores) {
  constexpr int rows_of_block = score_threads / lanes;
  const int lane = threadIdx.x % lanes;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * rows_of_block; first < rows;
       first += static_cast<int64_t>(gridDim.x) * rows_of_block) {
    const int64_t row = first + threadIdx.x / lanes;
    Prediction sum;
    if (row < rows) {
      const T* const logit = logits + row * columns;
      sum = predict_packs<elements / pack_size<T>>(logit, columns, lane * pack_size<T> - past_boundary(logit),
                                                   lanes * pack_size<T>)
                .prediction;
    }
    sum = merge_lanes<lanes>(sum);
    if (lane == 0 && row < rows) scores[row] = sum.score(kind);
  }
}

// Many columns: a row to a block.
template <class T>
__global__ void __launch_bounds__(score_threads, 3)
    score_long_rows(const T* __restrict__ logits, int64_t rows, int64_t columns, ScoreKind kind,
                    float* __restrict__ scores) {
  constexpr int packs = 16 / pack_size<T> * 2, stride = score_threads * pack_size<T>;
  SHARED_ARRAY(Prediction, of_warp, score_threads / warp_lanes);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* const logit = logits + row * columns;
    Prediction sum;
    for (int64_t start = static_cast<int64_t>(threadIdx.x) * pack_size<T> - past_boundary(logit); start < columns;
         start += packs * stride)
      sum.merge(predict_packs<packs>(logit, columns, start, stride).prediction);
    sum = merge_block(sum, of_warp);
    if (threadIdx.x == 0) scores[row] = sum.score(kind);
    __syncthreads();
  }
}

template <class T>
void score(const T* logits, int64_t rows, int64_t columns, ScoreKind kind, float* scores, cudaStream_t stream) {
  if (rows == 0) return;
  // Rows that begin off a 16-byte boundary spread over one pack more.
  const bool on_boundary = reinterpret_cast<uintptr_t>(logits) % 16 == 0 && columns % pack_size<T> == 0;
  const int64_t spread = on_boundary ? columns : columns + pack_size<T> - 1;
  if (columns <= most_staged_columns) {
    auto* const kernel = score_staged_rows<T>;
    const int width = static_cast<int>(columns);
    const size_t shared = sizeof(float) * staged_threads * (width | 1);
    LAUNCH(kernel, grid_for(pieces_of(rows, staged_threads)), staged_threads, shared, stream, logits, rows, width, kind,
           scores);
  } else if (spread <= 8 * 16) {
    auto* const kernel = score_held_rows<T, 8, 16>;
    LAUNCH(kernel, grid_for(pieces_of(rows, score_threads / 8)), score_threads, 0, stream, logits, rows, columns, kind,
           scores);
  } else if (spread <= 32 * 32) {
    auto* const kernel = score_held_rows<T, 32, 32>;
    LAUNCH(kernel, grid_for(pieces_of(rows, score_threads / 32)), score_threads, 0, stream, logits, rows, columns, kind,
           scores);
  } else {
    auto* const kernel = score_long_rows<T>;
    LAUNCH(kernel, grid_for(rows), score_threads, 0, stream, logits, rows, columns, kind, scores);
  }
}

}  // namespace prunefuse::cuda
