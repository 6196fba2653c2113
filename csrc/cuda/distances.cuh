// Squared distances between rows of features, as sums of squared differences in single precision.
//
// A block computes a tile of distances from slabs of a few columns, which it copies to shared memory, transposed, one
// slab ahead. Every distance is summed in the same order whatever tile it belongs to: it is the same number wherever it
// is computed.
#pragma once

#include "element.cuh"
#include "warp.cuh"

namespace prunefuse::cuda {

constexpr int distance_threads = 256, tile_rows = 128, slab_depth = 16;
constexpr int rows_of_thread = 8;        // two runs of four, half a tile apart
constexpr int thread_columns = 16;       // threads side by side in a tile
constexpr int slabs_of_partial_sum = 8;  // a sum of thousands of terms loses digits: it is made of shorter ones
constexpr int row_pitch = tile_rows + 4;

// Squares of very large or very small numbers leave the range of floats; a power of two brings them back, exactly.
HOST_DEVICE float scale_for(uint32_t bits_of_largest) {
  const float largest = same_bits<float>(bits_of_largest);
  if (largest == 0.0f || (largest >= 0x1p-30f && largest <= 0x1p30f)) return 1.0f;
  const int exponent = static_cast<int>(bits_of_largest >> 23) - 127;
  if (exponent == 127) return 0x1p-126f;
  return same_bits<float>(static_cast<uint32_t>((exponent < -126 ? 126 : -exponent) + 127) << 23);
}

template <int columns>
struct Slab {
  alignas(16) float row[slab_depth][row_pitch];
  alignas(16) float column[slab_depth][columns + 4];
};

// One side of the tile: `count` rows of features, of which the thread copies some packs of every slab.
template <class T, int count>
struct Side {
  static constexpr int packs_of_row = slab_depth / pack_size<T>, packs = count * packs_of_row;
  static constexpr int packs_of_thread = (packs + distance_threads - 1) / distance_threads;

  const T* from[packs_of_thread];
  Pack<T> held[packs_of_thread];

  // `row_at` gives the row of features, or -1 beyond the last.
  template <class RowAt>
  __device__ __forceinline__ void begin(const T* features, int64_t dimensions, RowAt row_at) {
#pragma unroll
    for (int i = 0; i < packs_of_thread; ++i) {
      const int pack = threadIdx.x + i * distance_threads;
      const int64_t row = pack < packs ? row_at(pack / packs_of_row) : -1;
      from[i] = row < 0 ? nullptr : features + row * dimensions;
    }
  }

  __device__ __forceinline__ void load(int64_t dimensions, int64_t first_dimension) {
#pragma unroll
    for (int i = 0; i < packs_of_thread; ++i) {
      const int pack = threadIdx.x + i * distance_threads;
      held[i] = Pack<T>();
      if (from[i] != nullptr)
        held[i] = load_pack(from[i], dimensions, first_dimension + pack % packs_of_row * pack_size<T>, T{});
    }
  }

  __device__ __forceinline__ void store(float* transposed, int pitch, float scale) const {
#pragma unroll
    for (int i = 0; i < packs_of_thread; ++i) {
      const int pack = threadIdx.x + i * distance_threads;
      if (packs % distance_threads != 0 && pack >= packs) continue;
      float* const to = transposed + pack % packs_of_row * pack_size<T> * pitch + pack / packs_of_row;
#pragma unroll
      for (int e = 0; e < pack_size<T>; ++e) to[e * pitch] = to_float(held[i].element[e]) * scale;
    }
  }
};

// Where the thread's distances lie in the tile.
__device__ __forceinline__ int tile_row(int i) {
  return threadIdx.x / thread_columns * 4 + i % 4 + i / 4 * (tile_rows / 2);
}

template <int columns>
__device__ __forceinline__ int tile_column(int j) {
  return threadIdx.x % thread_columns * (columns / thread_columns) + j;
}

// All threads of the block have to call it; `slabs` are two, free to be written, and free again when it returns.
template <class T, int columns, class RowAt, class ColumnAt>
__device__ __forceinline__ void tile_distances(const T* features, int64_t dimensions, float scale, RowAt row_at,
                                               ColumnAt column_at, Slab<columns>* slabs,
                                               float (&distance)[rows_of_thread][columns / thread_columns]) {
  constexpr int own_columns = columns / thread_columns;
  Side<T, tile_rows> rows;
  Side<T, columns> others;
  rows.begin(features, dimensions, row_at);
  others.begin(features, dimensions, column_at);

  float partial[rows_of_thread][own_columns];
#pragma unroll
  for (int i = 0; i < rows_of_thread; ++i)
#pragma unroll
    for (int j = 0; j < own_columns; ++j) distance[i][j] = partial[i][j] = 0.0f;

  const auto copy = [&](Slab<columns>& slab) {
    rows.store(&slab.row[0][0], row_pitch, scale);
    others.store(&slab.column[0][0], columns + 4, scale);
  };
  rows.load(dimensions, 0);
  others.load(dimensions, 0);
  copy(slabs[0]);
  __syncthreads();
  const int64_t count = (dimensions + slab_depth - 1) / slab_depth;
  for (int64_t s = 0; s < count; ++s) {
    if (s + 1 < count) {
      rows.load(dimensions, (s + 1) * slab_depth);
      others.load(dimensions, (s + 1) * slab_depth);
    }
    const Slab<columns>& slab = slabs[s % 2];
#pragma unroll
    for (int d = 0; d < slab_depth; ++d) {
      float a[rows_of_thread], b[own_columns];
#pragma unroll
      for (int i = 0; i < rows_of_thread; i += 4) {
        const Pack<float> run = *reinterpret_cast<const Pack<float>*>(&slab.row[d][tile_row(i)]);
#pragma unroll
        for (int e = 0; e < 4; ++e) a[i + e] = run.element[e];
      }
      if constexpr (own_columns == 4) {
        const Pack<float> run = *reinterpret_cast<const Pack<float>*>(&slab.column[d][tile_column<columns>(0)]);
#pragma unroll
        for (int e = 0; e < 4; ++e) b[e] = run.element[e];
      } else {
        static_assert(own_columns == 1, "a thread has one column or four");
        b[0] = slab.column[d][tile_column<columns>(0)];
      }
#pragma unroll
      for (int i = 0; i < rows_of_thread; ++i)
#pragma unroll
        for (int j = 0; j < own_columns; ++j) {
          const float difference = a[i] - b[j];
          partial[i][j] = fmaf(difference, difference, partial[i][j]);
        }
    }
    if (s % slabs_of_partial_sum == slabs_of_partial_sum - 1 || s + 1 == count) {
#pragma unroll
      for (int i = 0; i < rows_of_thread; ++i)
#pragma unroll
        for (int j = 0; j < own_columns; ++j) {
          distance[i][j] += partial[i][j];
          partial[i][j] = 0.0f;
        }
    }
    if (s + 1 < count) copy(slabs[(s + 1) % 2]);
    __syncthreads();
  }
}

}  // namespace prunefuse::cuda
