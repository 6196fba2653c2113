// Barriers of a block and of a warp.
#pragma once

#include "check.h"

namespace barriers {

__global__ void reverse_kernel(const int* in, int* out, int rounds) {
  SHARED_ARRAY(int, values, 96);
  int value = in[blockIdx.x * 96 + threadIdx.x];
  for (int round = 0; round < rounds; ++round) {
    values[threadIdx.x] = value;
    __syncthreads();
    value = values[95 - threadIdx.x];
    __syncthreads();
  }
  out[blockIdx.x * 96 + threadIdx.x] = value;
}

CHECK(syncthreads_separates_writes_from_reads) {
  std::vector<int> in(5 * 96), out(5 * 96);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int>(i);
  LAUNCH(reverse_kernel, 5, 96, 0, nullptr, in.data(), out.data(), 7);
  expect_each(out, [](size_t i) { return i / 96 * 96 + 95 - i % 96; });
}

struct Answers {
  int any, all, count;
};

__global__ void predicate_kernel(unsigned true_below, Answers* answers) {
  const int predicate = threadIdx.x < true_below ? 6 : 0;  // any value but 0 is true
  const int any = __syncthreads_or(predicate), all = __syncthreads_and(predicate);
  answers[threadIdx.x] = {any != 0, all != 0, __syncthreads_count(predicate)};
}

CHECK(syncthreads_or_and_count) {
  for (const unsigned true_below : {0u, 1u, 37u, 69u, 70u}) {
    std::vector<Answers> answers(70);
    LAUNCH(predicate_kernel, 1, 70, 0, nullptr, true_below, answers.data());
    for (const Answers& answer : answers) {
      expect_equal(answer.any, true_below > 0, "or");
      expect_equal(answer.all, true_below == 70, "and");
      expect_equal(answer.count, static_cast<int>(true_below), "count");
    }
  }
}

__global__ void neighbour_kernel(int* out) {
  SHARED_ARRAY(int, values, 64);
  const unsigned thread = threadIdx.x;
  values[thread] = static_cast<int>(thread) * 3;
  __syncwarp();
  const int from_warp = values[thread ^ 31];
  __syncwarp();
  values[thread] += 1;
  __syncwarp(thread % 32 < 8 ? 0x000000ffu : 0xffffff00u);
  const int from_group = values[thread % 32 < 8 ? thread ^ 7 : thread / 32 * 32 + 39 - thread % 32];
  out[thread] = from_warp * 1000 + from_group;
}

CHECK(syncwarp_separates_writes_from_reads) {
  std::vector<int> out(64);
  LAUNCH(neighbour_kernel, 1, 64, 0, nullptr, out.data());
  expect_each(out, [](size_t i) {
    const size_t partner = i % 32 < 8 ? i ^ 7 : i / 32 * 32 + 39 - i % 32;
    return (i ^ 31) * 3 * 1000 + partner * 3 + 1;
  });
}

__global__ void alone_kernel(int* out) {
  const unsigned lane = threadIdx.x;
  if (lane % 2) __syncwarp(1u << lane);
  if (lane == 5) __syncwarp(1u << lane);
  out[lane] = __reduce_add_sync(0xffffffffu, 1);
}

CHECK(lanes_may_wait_for_fewer_before_they_wait_for_all) {
  std::vector<int> out(32);
  LAUNCH(alone_kernel, 1, 32, 0, nullptr, out.data());
  expect_each(out, [](size_t) { return 32; });
}

CHECK(refused_barrier_after_threads_have_exited) {
  expect_refused({"block(1,0,0) thread(0,0,0) waits in __syncthreads", "2 of the 40 threads have exited"}, [] {
    simt::launch(2, 40, 0, [] {
      if (blockIdx.x == 1 && threadIdx.x >= 38) return;
      __syncthreads();
    });
  });
}

CHECK(refused_barriers_that_differ) {
  const auto words = {"different barriers", "thread(0,0,0) waits in __syncthreads_or",
                      "thread(33,0,0) waits in __syncthreads"};
  expect_refused(words, [] {
    simt::launch(1, 64, 0, [] {
      if (threadIdx.x < 33)
        __syncthreads_or(1);
      else
        __syncthreads();
    });
  });
}

CHECK(refused_barrier_of_the_block_while_the_warp_waits) {
  const auto words = {"deadlock", "block(0,0,0) thread(0,0,0) waits in __syncwarp with mask 0xffffffff",
                      "thread(1,3,0) waits in __syncthreads"};
  expect_refused(words, [] {
    simt::launch(1, dim3(2, 16), 0, [] {
      if (threadIdx.y == 3 && threadIdx.x == 1)
        __syncthreads();
      else
        __syncwarp();
    });
  });
}

CHECK(refused_warp_barrier_of_which_a_lane_has_exited) {
  expect_refused({"deadlock", "thread(32,0,0) waits in __syncwarp", "block(0,0,0) thread(37,0,0) has exited"}, [] {
    simt::launch(1, 64, 0, [] {
      if (threadIdx.x == 37) return;
      __syncwarp();
    });
  });
}

}  // namespace barriers
