// Launches: positions, counting, order, limits.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>

#include "check.h"

namespace launching {

__global__ void positions_kernel(std::array<unsigned, 6>* seen) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  seen[block * blockDim.x * blockDim.y * blockDim.z + thread] = {blockIdx.x,  blockIdx.y,  blockIdx.z,
                                                                 threadIdx.x, threadIdx.y, threadIdx.z};
}

CHECK(every_thread_of_a_three_dimensional_grid_runs_once) {
  std::vector<std::array<unsigned, 6>> seen(2 * 3 * 4 * 5 * 3 * 2);
  LAUNCH(positions_kernel, dim3(2, 3, 4), dim3(5, 3, 2), 0, nullptr, seen.data());
  size_t i = 0;
  for (unsigned bz = 0; bz < 4; ++bz)
    for (unsigned by = 0; by < 3; ++by)
      for (unsigned bx = 0; bx < 2; ++bx)
        for (unsigned z = 0; z < 2; ++z)
          for (unsigned y = 0; y < 3; ++y)
            for (unsigned x = 0; x < 5; ++x)
              expect(seen[i++] == std::array<unsigned, 6>{bx, by, bz, x, y, z}, "every thread at its place");
}

__global__ void lanes_kernel(unsigned* first_of_warp) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  first_of_warp[thread] = __shfl_sync(0xffffffffu, thread, 0);
}

CHECK(warps_follow_the_order_of_x_then_y_then_z) {
  std::vector<unsigned> first(4 * 4 * 4);
  LAUNCH(lanes_kernel, 1, dim3(4, 4, 4), 0, nullptr, first.data());
  expect_each(first, [](size_t thread) { return thread / 32 * 32; });
}

template <int factor, class T>
__global__ void __launch_bounds__(64) scale_kernel(const T* __restrict__ in, T* __restrict__ out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) out[i] = factor * in[i];
}

CHECK(kernels_can_be_templates) {
  std::vector<float> in(100, 2.0f), out(100);
  LAUNCH((scale_kernel<3, float>), 2, 64, 0, nullptr, in.data(), out.data(), 100);
  expect_each(out, [](size_t) { return 6.0f; });
}

__constant__ int powers[] = {1, 10, 100, 1000};
__global__ void constant_kernel(int* out) { out[threadIdx.x] = powers[threadIdx.x]; }

CHECK(constant_memory_is_read) {
  std::vector<int> out(4);
  LAUNCH(constant_kernel, 1, 4, 0, nullptr, out.data());
  expect_each(out, [](size_t i) { return powers[i]; });
}

CHECK(launches_are_counted) {
  std::vector<float> one(1);
  const uint64_t before = simt::launches();
  const auto launch = [&](int threads) {
    LAUNCH((scale_kernel<1, float>), 1, threads, 0, nullptr, one.data(), one.data(), 1);
  };
  for (int i = 0; i < 3; ++i) launch(1);
  expect_equal(simt::launches() - before, 3u, "launches");
  expect_refused({"blockDim.x"}, [&] { launch(0); });
  expect_equal(simt::launches() - before, 4u, "launches with the one that follows the refused one");
}

__global__ void order_kernel(unsigned* next, unsigned* order) {
  order[atomicAdd(next, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

std::vector<unsigned> order_for(uint64_t seed) {
  unsigned next = 0;
  std::vector<unsigned> order(4 * 96);
  simt::set_seed(seed);
  LAUNCH(order_kernel, 4, 96, 0, nullptr, &next, order.data());
  return order;
}

CHECK(the_seed_decides_the_order) {
  const std::vector<unsigned> first = order_for(1), second = order_for(2);
  expect(first != second, "another order for another seed");
  expect(first == order_for(1), "the same order for the same seed");
  std::vector<unsigned> sorted = first;
  std::sort(sorted.begin(), sorted.end());
  expect_each(sorted, [](size_t i) { return i; });
}

CHECK(blocks_and_warps_and_lanes_change_places) {
  bool block = false, warp = false, lane = false;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const unsigned first = order_for(seed).front();
    block |= first / 96 != 0;
    warp |= first % 96 / 32 != 0;
    lane |= first % 32 != 0;
  }
  expect(block && warp && lane, "blocks, warps and lanes other than the first to run first");
}

CHECK(a_hundred_thousand_threads_run) {
  const int count = threads_are_slow ? 1000 : 100000;
  std::vector<double> in(count, 1.5), out(count);
  LAUNCH((scale_kernel<2, double>), (count + 63) / 64, 64, 0, nullptr, in.data(), out.data(), count);
  expect_each(out, [](size_t) { return 3.0; });
}

void expect_launch_refused(std::initializer_list<const char*> words, dim3 grid, dim3 block, size_t bytes = 0) {
  expect_refused(words, [=] { simt::launch(grid, block, bytes, [] {}); });
}

CHECK(refused_sizes_of_blocks) {
  expect_launch_refused({"blockDim.x", "expected 1 to 1024, got 0"}, 1, 0);
  expect_launch_refused({"blockDim.x", "expected 1 to 1024, got 1025"}, 1, 1025);
  expect_launch_refused({"blockDim.y", "expected 1 to 1024, got 1025"}, 1, dim3(1, 1025));
  expect_launch_refused({"blockDim.z", "expected 1 to 64, got 65"}, 1, dim3(1, 1, 65));
  expect_launch_refused({"threads of a block", "expected 1 to 1024, got 1056"}, 1, dim3(32, 33));
  simt::launch(1, dim3(16, 1, 64), 0, [] {});
}

CHECK(refused_sizes_of_grids) {
  expect_launch_refused({"gridDim.x", "got 0"}, 0, 1);
  expect_launch_refused({"gridDim.x", "got 2147483648"}, 0x80000000u, 1);
  expect_launch_refused({"gridDim.y", "expected 1 to 65535, got 65536"}, dim3(1, 65536), 1);
  expect_launch_refused({"gridDim.z", "expected 1 to 65535, got 65536"}, dim3(1, 1, 65536), 1);
  if (!threads_are_slow) simt::launch(dim3(1, 1, 65535), 1, 0, [] {});
}

CHECK(refused_launch_from_a_kernel) {
  expect_refused({"another kernel is running"}, [] { simt::launch(1, 1, 0, [] { simt::launch(1, 1, 0, [] {}); }); });
}

CHECK(refused_intrinsics_outside_of_kernels) {
  expect_refused({"outside of a kernel"}, [] { __syncthreads(); });
  expect_refused({"outside of a kernel"}, [] { __syncwarp(); });
  expect_refused({"outside of a kernel"}, [] { __ballot_sync(0xffffffffu, 1); });
}

CHECK(other_exceptions_of_a_kernel_reach_the_caller) {
  std::string message;
  try {
    simt::launch(2, 64, 0, [] {
      __syncthreads();
      if (threadIdx.x == 40) throw std::out_of_range("thread 40");
      __syncthreads();
    });
  } catch (const std::out_of_range& error) {
    message = error.what();
  }
  expect_equal(message, "thread 40", "the exception");
  expect_working_emulator();
}

struct Alive {
  std::atomic<int>* count;
  explicit Alive(std::atomic<int>* count) : count(count) { ++*count; }
  ~Alive() { --*count; }
};

CHECK(refused_kernels_are_left_in_order) {
  std::atomic<int> alive = 0, gone_on = 0;
  expect_refused({"waits in __syncthreads"}, [&] {
    simt::launch(1, 64, 0, [&] {
      const Alive here(&alive);
      if (threadIdx.x == 50) return;
      __syncthreads();
      ++gone_on;
    });
  });
  expect_equal(alive.load(), 0, "locals that were not destroyed");
  expect_equal(gone_on.load(), 0, "threads that went on after the refusal");
}

}  // namespace launching
