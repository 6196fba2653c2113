// Kernels with a fault that the emulator alone does not see, for the sanitizers to find. Each is named in their reports
// by the function that has the fault.
#pragma once

#include "check.h"

namespace faults_of_kernels {

__global__ void shared_overrun_kernel(int* out, int place) {
  SHARED_ARRAY(int, values, 32);
  values[threadIdx.x] = 1;
  __syncwarp();
  out[threadIdx.x] = values[static_cast<int>(threadIdx.x) + place];
}

void read_shared(int place) {
  std::vector<int> out(32);
  LAUNCH(shared_overrun_kernel, 1, 32, 0, nullptr, out.data(), place);
}

FAULT(shared_overrun_by_one) { read_shared(1); }
FAULT(shared_overrun_by_far) { read_shared(200); }
FAULT(shared_underrun) { read_shared(-1); }

__global__ void dynamic_overrun_kernel(int* out) {
  DYNAMIC_SHARED(int, values);
  values[threadIdx.x] = 1;
  *out = values[0];
}

FAULT(dynamic_shared_overrun) {
  int out = 0;
  LAUNCH(dynamic_overrun_kernel, 1, 32, 31 * sizeof(int), nullptr, &out);
}

__global__ void global_overrun_kernel(int* out) { out[blockIdx.x * 32 + threadIdx.x] = 1; }

FAULT(global_overrun) {
  std::vector<int> out(63);
  LAUNCH(global_overrun_kernel, 2, 32, 0, nullptr, out.data());
}

__global__ void misaligned_load_kernel(const float* in, float* out) {
  const float4 value = *reinterpret_cast<const float4*>(in + threadIdx.x);
  out[threadIdx.x] = value.x + value.w;
}

FAULT(misaligned_vector_load) {
  alignas(16) float in[8] = {};
  float out[2];
  LAUNCH(misaligned_load_kernel, 1, 2, 0, nullptr, in, out);
}

__global__ void misaligned_shared_kernel(float* out) {
  SHARED_ARRAY(float, values, 32);  // aligned for float, and no more
  for (int i = 0; i < 32; ++i) values[i] = 1.0f;
  *out = reinterpret_cast<const float4*>(values)->x;
}

FAULT(misaligned_shared_vector_load) {
  float out = 0.0f;
  LAUNCH(misaligned_shared_kernel, 1, 1, 0, nullptr, &out);
}

__global__ void missing_barrier_kernel(int* out) {
  SHARED_ARRAY(int, values, 64);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = values[63 - threadIdx.x];
}

FAULT(missing_syncthreads) {
  std::vector<int> out(64);
  LAUNCH(missing_barrier_kernel, 1, 64, 0, nullptr, out.data());
}

__global__ void missing_second_barrier_kernel(int* out) {
  SHARED_ARRAY(int, values, 64);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  const int value = values[63 - threadIdx.x];
  values[threadIdx.x] = value;  // others may not have read it yet
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

FAULT(missing_syncthreads_after_others) {
  std::vector<int> out(64);
  LAUNCH(missing_second_barrier_kernel, 1, 64, 0, nullptr, out.data());
}

// A barrier of each warp does not order the two warps.
__global__ void warp_barrier_kernel(int* out) {
  SHARED_ARRAY(int, values, 64);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncwarp();
  out[threadIdx.x] = values[63 - threadIdx.x];
}

FAULT(syncwarp_in_place_of_syncthreads) {
  std::vector<int> out(64);
  LAUNCH(warp_barrier_kernel, 1, 64, 0, nullptr, out.data());
}

// A shuffle waits for the lanes, but orders no memory accesses.
__global__ void shuffle_as_barrier_kernel(int* out) {
  SHARED_ARRAY(int, values, 32);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  const int offset = __shfl_sync(0xffffffffu, 31, 0);
  out[threadIdx.x] = values[offset - static_cast<int>(threadIdx.x)];
}

FAULT(shuffle_in_place_of_syncwarp) {
  std::vector<int> out(32);
  LAUNCH(shuffle_as_barrier_kernel, 1, 32, 0, nullptr, out.data());
}

__global__ void same_place_kernel(int* out) {
  __syncthreads();
  if (threadIdx.x == 0) *out = static_cast<int>(blockIdx.x);
  __syncthreads();
}

FAULT(two_blocks_write_to_one_place) {
  int out = 0;
  LAUNCH(same_place_kernel, 2, 32, 0, nullptr, &out);
}

__global__ void missing_fence_kernel(int* partial, unsigned* finished, int* total) {
  partial[blockIdx.x] = 1;
  if (atomicAdd(finished, 1u) == gridDim.x - 1)
    for (unsigned block = 0; block < gridDim.x; ++block) *total += partial[block];
}

FAULT(missing_threadfence) {
  std::vector<int> partial(4);
  unsigned finished = 0;
  int total = 0;
  LAUNCH(missing_fence_kernel, 4, 1, 0, nullptr, partial.data(), &finished, &total);
}

__global__ void plain_and_atomic_kernel(int* count) {
  if (threadIdx.x == 0) *count = 0;  // a barrier must follow
  atomicAdd(count, 1);
}

FAULT(plain_write_beside_atomics) {
  int count = 0;
  LAUNCH(plain_and_atomic_kernel, 1, 32, 0, nullptr, &count);
}

}  // namespace faults_of_kernels
