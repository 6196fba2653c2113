// Votes, matches and reductions of a warp.
#pragma once

#include <limits>

#include "check.h"

namespace votes {

constexpr unsigned whole_warp = 0xffffffffu;

// Runs body(lane) in each lane of one warp.
template <class Body>
auto in_each_lane(Body body) {
  std::vector<decltype(body(0))> out(32);
  simt::launch(1, 32, 0, [&] { out[threadIdx.x] = body(static_cast<int>(threadIdx.x)); });
  return out;
}

CHECK(ballot_has_a_bit_for_each_true_lane) {
  expect_each(in_each_lane([](int lane) { return __ballot_sync(whole_warp, lane % 4 == 1 ? -3 : 0); }),
              [](size_t) { return 0x22222222u; });
  expect_each(in_each_lane([](int) { return __ballot_sync(whole_warp, 0); }), [](size_t) { return 0u; });
}

CHECK(ballot_of_some_lanes) {
  const auto out = in_each_lane([](int lane) { return lane < 5 ? __ballot_sync(0x1fu, lane != 2) : 99u; });
  expect_each(out, [](size_t lane) { return lane < 5 ? 0x1bu : 99u; });
}

CHECK(any_and_all) {
  for (const int true_below : {0, 1, 31, 32}) {
    expect_each(in_each_lane([=](int lane) { return __any_sync(whole_warp, lane < true_below ? 4 : 0) != 0 ? 1 : 0; }),
                [=](size_t) { return true_below > 0; });
    expect_each(in_each_lane([=](int lane) { return __all_sync(whole_warp, lane < true_below ? 4 : 0) != 0 ? 1 : 0; }),
                [=](size_t) { return true_below == 32; });
  }
}

CHECK(any_and_all_of_some_lanes) {
  const auto out = in_each_lane([](int lane) {
    if (lane >= 16) return __all_sync(0xffff0000u, lane >= 16) != 0 ? 2 : 3;
    return __any_sync(0x0000ffffu, lane >= 16) != 0 ? 4 : 5;
  });
  expect_each(out, [](size_t lane) { return lane >= 16 ? 2 : 5; });
}

CHECK(match_any_finds_the_lanes_of_the_same_value) {
  const auto every_fourth = [](size_t lane) { return 0x11111111u << lane % 4; };
  expect_each(in_each_lane([](int lane) { return __match_any_sync(whole_warp, lane % 4 - 2); }), every_fourth);
  expect_each(in_each_lane([](int lane) { return __match_any_sync(whole_warp, lane % 4 * 0x100000000ull); }),
              every_fourth);
  expect_each(in_each_lane([](int lane) { return __match_any_sync(whole_warp, lane % 4 * 0.5f); }), every_fourth);
  expect_each(in_each_lane([](int lane) { return __match_any_sync(whole_warp, lane % 4 * 0.5); }), every_fourth);
}

CHECK(match_any_of_some_lanes) {
  const auto out = in_each_lane([](int lane) { return lane % 2 ? __match_any_sync(0xaaaaaaaau, lane / 16) : 0u; });
  expect_each(out, [](size_t lane) { return lane % 2 == 0 ? 0u : lane < 16 ? 0x0000aaaau : 0xaaaa0000u; });
}

CHECK(reduce_unsigned) {
  const auto value = [](int lane) { return 0xfffffff0u + static_cast<unsigned>(lane) % 8; };
  expect_each(in_each_lane([=](int lane) { return __reduce_max_sync(whole_warp, value(lane)); }),
              [](size_t) { return 0xfffffff7u; });
  expect_each(in_each_lane([=](int lane) { return __reduce_min_sync(whole_warp, value(lane)); }),
              [](size_t) { return 0xfffffff0u; });
  expect_each(in_each_lane([=](int lane) { return __reduce_add_sync(whole_warp, value(lane)); }),
              [](size_t) { return 32u * 0xfffffff0u + 4u * 28u; });
}

CHECK(reduce_int) {
  const auto value = [](int lane) { return lane == 13 ? std::numeric_limits<int>::max() : lane - 20; };
  expect_each(in_each_lane([=](int lane) { return __reduce_max_sync(whole_warp, value(lane)); }),
              [](size_t) { return std::numeric_limits<int>::max(); });
  expect_each(in_each_lane([=](int lane) { return __reduce_min_sync(whole_warp, value(lane)); }),
              [](size_t) { return -20; });
  expect_each(in_each_lane([](int lane) { return __reduce_add_sync(whole_warp, lane - 20); }),
              [](size_t) { return 496 - 640; });
  expect_each(in_each_lane([](int) { return __reduce_add_sync(whole_warp, 1 << 27); }), [](size_t) { return 0; });
}

CHECK(reduce_some_lanes) {
  const auto out = in_each_lane([](int lane) {
    if (lane % 4 == 0) return __reduce_add_sync(0x11111111u, lane);
    if (lane % 4 == 1) return __reduce_max_sync(0x22222222u, -lane);
    if (lane % 4 == 2) return __reduce_min_sync(0x44444444u, lane);
    return static_cast<int>(__reduce_max_sync(1u << lane, static_cast<unsigned>(lane)));
  });
  expect_each(out, [](int lane) { return lane % 4 == 0 ? 112 : lane % 4 == 1 ? -1 : lane % 4 == 2 ? 2 : lane; });
}

CHECK(refused_votes_that_differ) {
  expect_refused({"divergent warp", "waits in __any_sync", "waits in __all_sync"}, [] {
    simt::launch(1, 32, 0, [] { threadIdx.x % 2 ? __any_sync(whole_warp, 1) : __all_sync(whole_warp, 1); });
  });
  expect_refused({"divergent warp", "waits in __ballot_sync", "waits in __match_any_sync"}, [] {
    simt::launch(1, 32, 0, [] { threadIdx.x % 2 ? __ballot_sync(whole_warp, 1) : __match_any_sync(whole_warp, 1); });
  });
}

CHECK(refused_reduction_by_a_lane_outside_of_the_mask) {
  expect_refused({"block(2,0,0) thread(40,0,0): __reduce_max_sync with mask 0xfffffeff: the calling lane"}, [] {
    simt::launch(3, 64, 0, [] {
      if (blockIdx.x == 2 && threadIdx.x == 40) __reduce_max_sync(0xfffffeffu, 1u);
    });
  });
}

}  // namespace votes
