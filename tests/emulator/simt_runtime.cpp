// The emulator's runtime, in one translation unit.
//
// It must never be compiled with -fsanitize: it switches stacks in the middle of functions, and instrumentation keeps
// its own account of stacks and calls. It finds out by itself which sanitizer the kernels were compiled with.
#include "simt_runtime.h"

#include <atomic>
#include <cstdio>
#include <numeric>
#include <vector>

#include "runtime/block.h"
#include "simt/sanitized.h"

#if SIMT_ADDRESS_SANITIZER || SIMT_THREAD_SANITIZER
#error "simt_runtime.cpp must be compiled without -fsanitize; the kernels and tests linked to it may have it"
#endif

const uint3& threadIdx = simt::position.thread;
const uint3& blockIdx = simt::position.block;
const dim3& blockDim = simt::position.block_size;
const dim3& gridDim = simt::position.grid_size;

namespace simt {
namespace {

Block block;
Random order(0);
std::atomic<uint64_t> launch_count{0};
std::atomic<bool> in_launch{false};
char* fence_tag = nullptr;  // a new one for each launch

struct Limit {
  const char* what;
  uint64_t got, least, most;
};

void check_limits(dim3 grid, dim3 size, size_t dynamic_shared_bytes) {
  const Limit limits[] = {
      {"gridDim.x", grid.x, 1, 0x7fffffff},
      {"gridDim.y", grid.y, 1, 65535},
      {"gridDim.z", grid.z, 1, 65535},
      {"blockDim.x", size.x, 1, kMaxThreads},
      {"blockDim.y", size.y, 1, kMaxThreads},
      {"blockDim.z", size.z, 1, 64},
      {"threads of a block", uint64_t{size.x} * size.y * size.z, 1, kMaxThreads},
      {"bytes of dynamic shared memory", dynamic_shared_bytes, 0, SharedMemory::kTotalLimit},
  };
  for (const Limit& limit : limits)
    if (limit.got < limit.least || limit.got > limit.most)
      throw Error(std::string("simt: launch refused: ") + limit.what + ": expected " + std::to_string(limit.least) +
                  " to " + std::to_string(limit.most) + ", got " + std::to_string(limit.got));
}

// What every launch needs, and gives back however it ends.
class Launch {
 public:
  Launch(dim3 grid, dim3 size) {
    if (in_launch.exchange(true))
      throw Error("simt: launch refused: another kernel is running, and the emulator runs one at a time");
    ++launch_count;
    position.grid_size = grid;
    position.block_size = size;
    fence_tag = static_cast<char*>(std::malloc(1));
    end_tag_ = std::malloc(1);
    block.begin_launch();
  }

  ~Launch() {
    tsan::acquire(end_tag_);  // the host sees what the threads wrote
    block.end_launch();
    std::free(end_tag_);
    std::free(std::exchange(fence_tag, nullptr));
    in_launch = false;
  }

  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  void run(size_t dynamic_shared_bytes, void (*kernel)(const void*), const void* arguments) {
    const dim3 grid = position.grid_size;
    std::vector<uint64_t> blocks(uint64_t{grid.x} * grid.y * grid.z);
    std::iota(blocks.begin(), blocks.end(), 0);
    order.shuffle(blocks.data(), blocks.size());
    for (const uint64_t index : blocks) {
      const uint3 place{static_cast<unsigned>(index % grid.x), static_cast<unsigned>(index / grid.x % grid.y),
                        static_cast<unsigned>(index / grid.x / grid.y)};
      block.run(place, dynamic_shared_bytes, kernel, arguments, end_tag_, order);
    }
  }

 private:
  void* end_tag_;
};

Thread& current_thread() {
  if (!block.is_running()) throw Error("simt: an intrinsic was called outside of a kernel");
  return block.current();
}

}  // namespace

void set_seed(uint64_t seed) { order = Random(seed); }

uint64_t launches() { return launch_count; }

void launch_threads(dim3 grid, dim3 size, size_t dynamic_shared_bytes, void (*run)(const void*), const void* kernel) {
  check_limits(grid, size, dynamic_shared_bytes);
  Launch(grid, size).run(dynamic_shared_bytes, run, kernel);
}

void refuse(const std::string& reason) { throw Error("simt: " + block.describe(current_thread()) + ": " + reason); }

std::string hex(unsigned mask) {
  char text[11];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

unsigned lane_index() { return current_thread().lane; }

unsigned block_barrier(const char* name, bool predicate) {
  current_thread();
  return block.wait_for_block({.name = name, .value = predicate, .orders_memory = true});
}

void warp_barrier(const char* name, unsigned mask) {
  current_thread();
  block.wait_for_lanes({.name = name, .mask = mask, .orders_memory = true});
}

const WarpValues& exchange(const char* name, unsigned mask, uint64_t value, unsigned value_bytes, int width) {
  Thread& thread = current_thread();
  block.wait_for_lanes({.name = name, .mask = mask, .value = value, .value_bytes = value_bytes, .width = width});
  return thread.warp->values;
}

void* shared(const void* key, size_t bytes, size_t alignment) {
  current_thread();
  return block.shared(key, bytes, alignment);
}

void* dynamic_shared() {
  current_thread();
  return block.dynamic_shared();
}

void fence() {
  current_thread();
  tsan::release(fence_tag);
  tsan::acquire(fence_tag);
}

void see_fenced_writes() {
  if (block.is_running()) tsan::acquire(fence_tag);
}

}  // namespace simt

extern "C" void simt_fiber_entry() { simt::block.run_kernel(); }
