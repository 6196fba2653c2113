// The runtime of the emulator: what tests call, and what the intrinsics under simt/ are made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "simt/types.h"

// References, so that kernels cannot write to them while the scheduler can.
extern const uint3& threadIdx;
extern const uint3& blockIdx;
extern const dim3& blockDim;
extern const dim3& gridDim;

namespace simt {

// ---- For tests ----

// What a kernel did that a GPU would have punished with a wrong result, a hang or an error; says where.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Blocks, warps and lanes run in an order drawn from the seed; every seed is reproducible.
void set_seed(uint64_t seed);

// How many kernels were launched so far.
uint64_t launches();

void launch_threads(dim3 grid, dim3 block, size_t dynamic_shared_bytes, void (*run)(const void*), const void* kernel);

// Runs kernel() once for each thread of the grid, and returns when all have ended.
template <class Kernel>
void launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes, const Kernel& kernel) {
  launch_threads(
      grid, block, dynamic_shared_bytes, [](const void* body) { (*static_cast<const Kernel*>(body))(); }, &kernel);
}

// ---- For the intrinsics: called by a thread of a kernel ----

// Ends the launch with an Error that names the calling thread.
[[noreturn]] void refuse(const std::string& reason);
std::string hex(unsigned mask);

unsigned lane_index();

// Waits for all threads of the block; returns for how many of them the predicate was true.
unsigned block_barrier(const char* name, bool predicate);

// Waits for the lanes of the mask; what they wrote before is visible to them after.
void warp_barrier(const char* name, unsigned mask);

struct WarpValues {
  uint64_t of_lane[32];  // only the lanes of the mask have one
};

// Waits for the lanes of the mask, which must come with the same name, mask, size of value and width. Unlike a barrier
// it orders no memory accesses. The values are valid until the thread's next call.
const WarpValues& exchange(const char* name, unsigned mask, uint64_t value, unsigned value_bytes, int width = 32);

// The block's array that the key stands for.
void* shared(const void* key, size_t bytes, size_t alignment);
void* dynamic_shared();

// Memory order between blocks: a fence publishes what was written before it to whoever sees a later atomic operation.
void fence();
void see_fenced_writes();

}  // namespace simt
