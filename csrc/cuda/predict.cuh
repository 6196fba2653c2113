// Predictions from rows of logits, several logits of a thread at a time: the largest first, then one exponential each.
#pragma once

#include "../core/prediction.h"
#include "element.cuh"

namespace prunefuse::cuda {

// Of a few logits; `top_at` is the position of the first that equals the largest.
struct Part {
  Prediction prediction;
  int top_at = -1;
};

// A caller that knows the count makes it a constant: the loops unroll then and `read` may index registers.
template <class Read>
__device__ __forceinline__ void find_top(Part& part, int first, int count, Read read) {
  Prediction& sum = part.prediction;
#pragma unroll
  for (int i = first; i < first + count; ++i) {
    const float logit = read(i);
    sum.unrankable |= !(logit < INFINITY);  // NaN compares false
    sum.top2 = fmaxf(sum.top2, fminf(sum.top1, logit));
    if (logit > sum.top1) {
      sum.top1 = logit;
      part.top_at = i;
    }
  }
}

template <class Read>
__device__ __forceinline__ void add_below_top(Part& part, int first, int count, Read read) {
  Prediction& sum = part.prediction;
#pragma unroll
  for (int i = first; i < first + count; ++i) {
    const float difference = read(i) - sum.top1;
    const float weight = i == part.top_at ? 0.0f : expf(difference);
    sum.others += weight;
    sum.shifted += weight > 0.0f ? difference * weight : 0.0f;  // a logit of -inf adds nothing
  }
}

// Of the packs of a row that begin at start, start + stride, ...
template <int packs, class T>
__device__ __forceinline__ Part predict_packs(const T* row, int64_t columns, int64_t start, int64_t stride) {
  constexpr int size = pack_size<T>;
  float logit[packs * size];
#pragma unroll
  for (int pack = 0; pack < packs; ++pack) {
    const Pack<T> loaded = load_pack(row, columns, start + pack * stride, from_float<T>(-INFINITY));
#pragma unroll
    for (int i = 0; i < size; ++i) logit[pack * size + i] = to_float(loaded.element[i]);
  }
  const auto read = [&logit](int i) { return logit[i]; };
  Part part;
  find_top(part, 0, packs * size, read);
  if (!(part.prediction.top1 > -INFINITY)) return part;
#pragma unroll
  for (int pack = 0; pack < packs; ++pack)
    if (start + pack * stride < columns) add_below_top(part, pack * size, size, read);
  return part;
}

// Rows of few columns go through shared memory, a tile of them at a time.
constexpr int staged_threads = 128, most_staged_columns = 32;

// Copies whole rows that lie one after another to shared memory, as floats and `columns | 1` apart: of that odd number
// of words, so that threads which read a row each do not meet in a bank.
template <class T>
__device__ __forceinline__ void stage_rows(const T* first, int rows, int columns, float* staged) {
  const int pitch = columns | 1, count = rows * columns;
  for (int start = static_cast<int>(threadIdx.x) * pack_size<T> - past_boundary(first); start < count;
       start += blockDim.x * pack_size<T>) {
    const Pack<T> pack = load_pack(first, count, start, T{});
    int row = start > 0 ? start / columns : 0, column = start > 0 ? start - row * columns : start;
#pragma unroll
    for (int i = 0; i < pack_size<T>; ++i) {
      if (column >= 0 && row < rows) staged[row * pitch + column] = to_float(pack.element[i]);
      if (++column == columns) {
        column = 0;
        ++row;
      }
    }
  }
}

__device__ __forceinline__ Part predict_staged(const float* row, int columns) {
  const auto read = [row](int i) { return row[i]; };
  Part part;
  find_top(part, 0, columns, read);
  if (part.prediction.top1 > -INFINITY) add_below_top(part, 0, columns, read);
  return part;
}

}  // namespace prunefuse::cuda
