// Reductions and sums over the threads of a warp or a block, always in the same order.
#pragma once

#include "../core/launch.h"
#include "../core/portable.h"

namespace prunefuse::cuda {

constexpr int warp_lanes = 32;
constexpr unsigned whole_warp = 0xffffffffu;

inline int64_t pieces_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

#ifndef PRUNEFUSE_MOST_BLOCKS  // tests let a few blocks do all the work
#define PRUNEFUSE_MOST_BLOCKS (1 << 20)
#endif

// For kernels whose blocks stride over the pieces of their work: a block for each, up to a limit.
inline unsigned grid_for(int64_t pieces, int64_t most = PRUNEFUSE_MOST_BLOCKS) {
  const int64_t limit = most < PRUNEFUSE_MOST_BLOCKS ? most : PRUNEFUSE_MOST_BLOCKS;
  return static_cast<unsigned>(pieces < limit ? pieces : limit);
}

// For kernels that have one piece of work for a block.
inline unsigned blocks_for(int64_t count, int64_t size) { return static_cast<unsigned>(pieces_of(count, size)); }

// The value of the lane whose number differs in the bits of `distance`, for any type of whole words.
template <class T>
__device__ __forceinline__ T shuffle_xor(const T& value, int distance) {
  static_assert(sizeof(T) % 4 == 0, "shuffles move words");
  uint32_t word[sizeof(T) / 4];
  memcpy(word, &value, sizeof(T));
#pragma unroll
  for (uint32_t& each : word) each = __shfl_xor_sync(whole_warp, each, distance);
  T result;
  memcpy(&result, word, sizeof(T));
  return result;
}

// Merges the values of each group of `lanes` neighbours; the first lane of a group holds the result. All lanes of the
// warp have to call it.
template <int lanes, class T>
__device__ __forceinline__ T merge_lanes(T value) {
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) value.merge(shuffle_xor(value, distance));
  return value;
}

// Merges the values of a block of whole warps; thread 0 holds the result. `shared` has room for one value of each warp
// and may be written again after the next barrier.
template <class T>
__device__ __forceinline__ T merge_block(T value, T* shared) {
  const int warp = threadIdx.x / warp_lanes, lane = threadIdx.x % warp_lanes;
  value = merge_lanes<warp_lanes>(value);
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  if (warp == 0) {
    value = T();
    if (lane < static_cast<int>(blockDim.x) / warp_lanes) value = shared[lane];
    value = merge_lanes<warp_lanes>(value);
  }
  return value;
}

struct Total {
  double value = 0.0;
  __device__ __forceinline__ void merge(const Total& other) { value += other.value; }
};

struct Most {
  uint32_t value = 0;
  __device__ __forceinline__ void merge(const Most& other) { value = other.value > value ? other.value : value; }
};

struct Least {
  uint64_t value = ~uint64_t{0};
  __device__ __forceinline__ void merge(const Least& other) { value = other.value < value ? other.value : value; }
};

// The sum of the values of all threads before this one in a block of whole warps, and that of all. `shared` has room
// for one value of each warp and may be written again after the next barrier.
__device__ __forceinline__ uint64_t sum_before(uint64_t value, uint64_t* shared, uint64_t& all) {
  const int warp = threadIdx.x / warp_lanes, lane = threadIdx.x % warp_lanes;
  uint64_t sum = value;
#pragma unroll
  for (int distance = 1; distance < warp_lanes; distance *= 2) {
    const uint64_t other = __shfl_up_sync(whole_warp, sum, distance);
    if (lane >= distance) sum += other;
  }
  if (lane == warp_lanes - 1) shared[warp] = sum;
  __syncthreads();
  uint64_t before = 0;
  all = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / warp_lanes; ++i) {
    if (i == warp) before = all;
    all += shared[i];
  }
  return before + sum - value;
}

}  // namespace prunefuse::cuda
