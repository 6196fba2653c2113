// Shuffles: every kind, width and type, and every way to get them wrong.
#pragma once

#include <cmath>
#include <limits>

#include "check.h"

namespace shuffles {

constexpr unsigned whole_warp = 0xffffffffu;

// Runs shuffle(lane) in each lane of one warp, which passes its own number as the value.
template <class Shuffle>
std::vector<int> in_each_lane(Shuffle shuffle) {
  std::vector<int> out(32);
  simt::launch(1, 32, 0, [&] { out[threadIdx.x] = shuffle(static_cast<int>(threadIdx.x)); });
  return out;
}

CHECK(shfl_reads_the_lane_that_is_named) {
  expect_each(in_each_lane([](int lane) { return __shfl_sync(whole_warp, lane, 7); }), [](size_t) { return 7; });
  expect_each(in_each_lane([](int lane) { return __shfl_sync(whole_warp, lane, lane * 5 % 32); }),
              [](size_t lane) { return lane * 5 % 32; });
}

CHECK(shfl_counts_modulo_the_width) {
  expect_each(in_each_lane([](int lane) { return __shfl_sync(whole_warp, lane, 33); }), [](size_t) { return 1; });
  expect_each(in_each_lane([](int lane) { return __shfl_sync(whole_warp, lane, -1); }), [](size_t) { return 31; });
  for (const int width : {1, 2, 4, 8, 16})
    expect_each(in_each_lane([=](int lane) { return __shfl_sync(whole_warp, lane, 5, width); }),
                [=](size_t lane) { return lane / width * width + 5 % width; });
}

CHECK(shfl_up_stays_in_its_group) {
  for (const int width : {1, 2, 4, 8, 16, 32})
    for (const int delta : {0, 1, 2, 3, 8, 31})
      expect_each(in_each_lane([=](int lane) { return __shfl_up_sync(whole_warp, lane, delta, width); }),
                  [=](int lane) { return lane % width >= delta ? lane - delta : lane; });
}

CHECK(shfl_down_stays_in_its_group) {
  for (const int width : {1, 2, 4, 8, 16, 32})
    for (const int delta : {0, 1, 2, 3, 8, 31})
      expect_each(in_each_lane([=](int lane) { return __shfl_down_sync(whole_warp, lane, delta, width); }),
                  [=](int lane) { return lane % width + delta < width ? lane + delta : lane; });
}

CHECK(shfl_xor_of_the_whole_warp) {
  for (const int mask : {0, 1, 2, 16, 21, 31})
    expect_each(in_each_lane([=](int lane) { return __shfl_xor_sync(whole_warp, lane, mask); }),
                [=](int lane) { return lane ^ mask; });
}

CHECK(shfl_xor_reads_earlier_groups_but_not_later_ones) {
  expect_each(in_each_lane([](int lane) { return __shfl_xor_sync(whole_warp, lane, 3, 8); }),
              [](int lane) { return lane ^ 3; });
  expect_each(in_each_lane([](int lane) { return __shfl_xor_sync(whole_warp, lane, 8, 8); }),
              [](int lane) { return lane & 8 ? lane - 8 : lane; });
}

CHECK(shuffles_of_some_lanes) {
  const std::vector<int> out = in_each_lane([](int lane) {
    if (lane % 3 == 0) return 100 + __shfl_sync(0x49249249u, lane, 30);
    if (lane % 3 == 1) return 200 + __shfl_sync(0x92492492u, lane, lane);
    return -1;
  });
  expect_each(out, [](int lane) { return lane % 3 == 0 ? 130 : lane % 3 == 1 ? 200 + lane : -1; });
}

template <class T>
void expect_exchanged(T first, T last) {
  std::vector<T> out(32);
  simt::launch(1, 32, 0, [&] {
    const T value = threadIdx.x == 31 ? last : first;
    static_assert(std::is_same_v<decltype(__shfl_sync(whole_warp, value, 0)), decltype(+value)>);
    out[threadIdx.x] = __shfl_sync(whole_warp, value, 31 - static_cast<int>(threadIdx.x));
  });
  expect_each(out, [=](size_t lane) { return lane == 0 ? last : first; });
}

CHECK(shuffles_of_every_type) {
  expect_exchanged<int>(-5, std::numeric_limits<int>::min());
  expect_exchanged<unsigned>(5, 0xfedcba98u);
  expect_exchanged<long>(-5, std::numeric_limits<long>::min());
  expect_exchanged<unsigned long>(5, 0xfedcba9876543210u);
  expect_exchanged<long long>(-5, std::numeric_limits<long long>::max());
  expect_exchanged<unsigned long long>(5, 0xfedcba9876543210u);
  expect_exchanged<float>(-0.25f, INFINITY);
  expect_exchanged<double>(0.1, 1e300);
  expect_exchanged<uint16_t>(7, 0xffff);
  expect_exchanged<short>(-7, -32768);
}

__global__ void row_sum_kernel(const float* in, float* out, int columns) {
  const unsigned row = blockIdx.x * blockDim.y + threadIdx.y;
  float sum = 0.0f;
  for (int column = static_cast<int>(threadIdx.x); column < columns; column += 32) sum += in[row * columns + column];
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(whole_warp, sum, distance);
  if (threadIdx.x == 0) out[row] = sum;
}

CHECK(row_sums_by_shuffles) {
  std::vector<float> in(40 * 101), out(40);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i % 101);
  LAUNCH(row_sum_kernel, 10, dim3(32, 4), 0, nullptr, in.data(), out.data(), 101);
  expect_each(out, [](size_t) { return 100.0f * 101.0f / 2.0f; });
}

// Lanes that left the loop early wait for nobody.
CHECK(groups_go_on_while_other_lanes_have_exited) {
  std::vector<int> out(32);
  simt::launch(1, 32, 0, [&] {
    const int lane = static_cast<int>(threadIdx.x), group = lane / 8;
    int value = lane;
    for (int round = 0; round < group; ++round) value = __shfl_xor_sync(0xffu << 8 * group, value, 7, 8);
    out[lane] = value;
  });
  expect_each(out, [](int lane) { return lane / 8 % 2 ? lane ^ 7 : lane; });
}

template <class Body>
void expect_refused_in_a_warp(std::initializer_list<const char*> words, Body body) {
  expect_refused(words, [&] { simt::launch(dim3(1, 2), 32, 0, [&] { body(static_cast<int>(threadIdx.x)); }); });
}

CHECK(refused_caller_outside_of_its_mask) {
  const auto words = {"block(0,", "thread(4,0,0): __shfl_xor_sync with mask 0xffffffef: the calling lane is not in it"};
  expect_refused_in_a_warp(words, [](int lane) { __shfl_xor_sync(lane == 4 ? 0xffffffefu : whole_warp, lane, 1); });
  expect_refused_in_a_warp({"__syncwarp with mask 0x00000000: the calling lane is not"}, [](int) { __syncwarp(0); });
}

CHECK(refused_mask_of_lanes_that_do_not_exist) {
  expect_refused({"block(0,0,0) thread(", "__shfl_down_sync with mask 0xffffffff", "fewer threads", "0x000fffff"},
                 [] { simt::launch(1, 20, 0, [] { __shfl_down_sync(whole_warp, 1, 1); }); });
}

CHECK(refused_read_of_a_lane_outside_the_mask) {
  expect_refused_in_a_warp({"__shfl_sync reads lane 9, which is outside the mask 0x000000ff"}, [](int lane) {
    if (lane < 8) __shfl_sync(0xffu, lane, 9);
  });
  expect_refused_in_a_warp({"thread(7,0,0)", "__shfl_down_sync reads lane 8"}, [](int lane) {
    if (lane < 8) __shfl_down_sync(0xffu, lane, 1);
  });
  expect_refused_in_a_warp({"thread(24,0,0)", "__shfl_up_sync reads lane 23"}, [](int lane) {
    if (lane >= 24) __shfl_up_sync(0xff000000u, lane, 1);
  });
  expect_refused_in_a_warp({"__shfl_xor_sync reads lane"}, [](int lane) {
    if (lane < 8) __shfl_xor_sync(0xffu, lane, 16);
  });
}

CHECK(refused_masks_that_differ) {
  expect_refused_in_a_warp({"divergent warp", "thread(0,0,0) waits in __shfl_sync with mask 0xffffffff on 32 bits",
                            "thread(16,0,0) waits in __shfl_sync with mask 0xffff0001"},
                           [](int lane) { __shfl_sync(lane < 16 ? whole_warp : 0xffff0001u, lane, lane); });
}

CHECK(refused_calls_that_differ) {
  expect_refused_in_a_warp({"divergent warp", "waits in __shfl_up_sync", "waits in __shfl_down_sync"}, [](int lane) {
    if (lane < 7)
      __shfl_up_sync(whole_warp, lane, 1);
    else
      __shfl_down_sync(whole_warp, lane, 1);
  });
}

CHECK(refused_widths_that_differ) {
  expect_refused_in_a_warp({"divergent warp", "and width 16"},
                           [](int lane) { __shfl_sync(whole_warp, lane, 0, lane % 2 ? 16 : 32); });
}

CHECK(refused_sizes_of_values_that_differ) {
  expect_refused_in_a_warp({"divergent warp", "on 32 bits", "on 64 bits"}, [](int lane) {
    if (lane == 3)
      __shfl_sync(whole_warp, 1.0, 0);
    else
      __shfl_sync(whole_warp, 1.0f, 0);
  });
}

CHECK(refused_shuffle_of_which_a_lane_has_exited) {
  expect_refused_in_a_warp({"deadlock", "thread(0,0,0) waits in __shfl_xor_sync", "thread(31,0,0) has exited"},
                           [](int lane) {
                             if (lane < 31) __shfl_xor_sync(whole_warp, lane, 1);
                           });
}

CHECK(refused_shuffle_of_which_a_lane_has_exited_after_an_equal_one) {
  const auto words = {"deadlock", "thread(0,0,0) waits in __shfl_sync", "thread(9,0,0) has exited"};
  expect_refused_in_a_warp(words, [](int lane) {
    __shfl_sync(whole_warp, lane, 0);
    if (lane != 9) __shfl_sync(whole_warp, lane, 0);
  });
}

CHECK(refused_shuffle_while_others_wait_for_the_block) {
  expect_refused_in_a_warp({"deadlock", "waits in __shfl_xor_sync", "thread(30,0,0) waits in __syncthreads"},
                           [](int lane) {
                             if (lane == 30) __syncthreads();
                             __shfl_xor_sync(whole_warp, lane, 1);
                           });
}

CHECK(refused_widths) {
  for (const int width : {-8, 0, 3, 24, 64})
    expect_refused_in_a_warp({"__shfl_sync with a width of", "expected 1, 2, 4, 8, 16 or 32"},
                             [=](int lane) { __shfl_sync(whole_warp, lane, 0, width); });
}

CHECK(refused_offsets) {
  expect_refused_in_a_warp({"__shfl_up_sync over 32 lanes"}, [](int lane) { __shfl_up_sync(whole_warp, lane, 32); });
  expect_refused_in_a_warp({"__shfl_down_sync over 4294967295 lanes"},
                           [](int lane) { __shfl_down_sync(whole_warp, lane, -1); });
  expect_refused_in_a_warp({"__shfl_xor_sync over -1 lanes"}, [](int lane) { __shfl_xor_sync(whole_warp, lane, -1); });
}

}  // namespace shuffles
