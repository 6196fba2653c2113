// All parameters of the fused network by one launch.
#pragma once

#include <type_traits>

#include "../core/fusing.h"
#include "element.cuh"
#include "warp.cuh"

namespace prunefuse::cuda {

// Neighbours that a thread works on: as many as share the words of one random draw.
constexpr int fuse_threads = 256, fuse_items = 4;

// Four neighbours: 16 bytes at a time, or all of them at once where they are fewer bytes.
template <class T>
struct alignas(sizeof(T) * fuse_items < 16 ? sizeof(T) * fuse_items : 16) Four {
  T element[fuse_items];
};

template <class T>
__device__ __forceinline__ bool is_aligned(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % alignof(Four<T>) == 0;
}

// The segments as the operator gets them: begins [count], laws [count], parameters [count, 2].
struct Segments {
  const int64_t* begins;
  const int32_t* laws;
  const float* parameters;
  int count;
};

__device__ __forceinline__ int segment_at(const Segments& segments, int64_t position) {
  int low = 0, high = segments.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (segments.begins[middle] <= position)
      low = middle;
    else
      high = middle;
  }
  return low;
}

template <class T, class Index>
__global__ void __launch_bounds__(fuse_threads, 6)
    fuse_elements(const T* __restrict__ dense, const Index* __restrict__ origin, const T* __restrict__ values,
                  int64_t count, Segments segments, uint64_t seed, T* __restrict__ fused) {
  const int64_t groups = (count + fuse_items - 1) / fuse_items;
  for (int64_t group = static_cast<int64_t>(blockIdx.x) * fuse_threads + threadIdx.x; group < groups;
       group += static_cast<int64_t>(gridDim.x) * fuse_threads) {
    const int64_t first = group * fuse_items;
    const bool whole = first + fuse_items <= count;
    Four<Index> from;
    if (whole && is_aligned(origin + first)) {
      from = *reinterpret_cast<const Four<Index>*>(origin + first);
    } else {
#pragma unroll
      for (int i = 0; i < fuse_items; ++i) from.element[i] = first + i < count ? origin[first + i] : 0;
    }
    bool draws = false;
#pragma unroll
    for (int i = 0; i < fuse_items; ++i) draws |= from.element[i] < 0;
    int segment = 0;
    FourWords words{};
    if (draws) {
      segment = segment_at(segments, first);
      words = philox(static_cast<uint64_t>(group), seed);
    }
    Four<T> result{};
#pragma unroll
    for (int i = 0; i < fuse_items; ++i) {
      const int64_t position = first + i;
      if (position >= count) continue;
      if (from.element[i] >= 0) {
        result.element[i] = values[from.element[i]];
        continue;
      }
      while (segment + 1 < segments.count && segments.begins[segment + 1] <= position) ++segment;
      const Law law = static_cast<Law>(segments.laws[segment]);
      const float a = segments.parameters[2 * segment], b = segments.parameters[2 * segment + 1];
      result.element[i] = law == Law::keep ? dense[position]
                                           : from_float<T>(draw_with({segments.begins[segment], law, a, b}, 0.0f,
                                                                     [&] { return uniform_of(words.word[i]); }));
    }
    if (whole && is_aligned(fused + first)) {
      *reinterpret_cast<Four<T>*>(fused + first) = result;
    } else {
#pragma unroll
      for (int i = 0; i < fuse_items; ++i)
        if (first + i < count) fused[first + i] = result.element[i];
    }
  }
}

template <class T, class Index>
void fuse_flat(const T* dense, const Index* origin, const T* values, int64_t count, Segments segments, uint64_t seed,
               T* fused, cudaStream_t stream) {
  if (count == 0) return;
  auto* const kernel = fuse_elements<T, Index>;
  LAUNCH(kernel, grid_for(pieces_of(count, fuse_threads * fuse_items)), fuse_threads, 0, stream, dense, origin, values,
         count, segments, seed, fused);
}

}  // namespace prunefuse::cuda
