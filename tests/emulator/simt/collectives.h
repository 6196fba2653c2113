// What the threads of a warp or of a block do together. The runtime makes sure that they all come, and exchanges a
// value of each lane; what the operations make of these values is here.
#pragma once

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "../simt_runtime.h"

constexpr int warpSize = 32;

inline void __syncthreads() { simt::block_barrier("__syncthreads", false); }
inline int __syncthreads_count(int predicate) {
  return static_cast<int>(simt::block_barrier("__syncthreads_count", predicate != 0));
}
inline int __syncthreads_or(int predicate) { return simt::block_barrier("__syncthreads_or", predicate != 0) > 0; }
inline int __syncthreads_and(int predicate) { return simt::block_barrier("__syncthreads_and", predicate == 0) == 0; }

inline void __syncwarp(unsigned mask = 0xffffffffu) { simt::warp_barrier("__syncwarp", mask); }

namespace simt {

template <class T>
uint64_t to_bits(T value) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "CUDA exchanges 32 or 64 bits");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// `source` gives the lane to read from, for the calling lane and the first and last lane of its group of `width`.
template <class T, class Source>
T shuffle(const char* name, unsigned mask, T value, int width, Source source) {
  if (width < 1 || width > 32 || !std::has_single_bit(static_cast<unsigned>(width)))
    refuse(std::string(name) + " with a width of " + std::to_string(width) + ": expected 1, 2, 4, 8, 16 or 32");
  const WarpValues& values = exchange(name, mask, to_bits(value), sizeof value, width);
  const int lane = static_cast<int>(lane_index()), first = lane & ~(width - 1), last = first + width - 1;
  const int from = source(lane, first, last);
  if (!(mask >> from & 1))
    refuse(std::string(name) + " reads lane " + std::to_string(from) + ", which is outside the mask " + hex(mask));
  return from_bits<T>(values.of_lane[from]);
}

// The device uses the lowest five bits of an offset: whoever passes more did not mean that.
inline int lane_offset(const char* name, int64_t offset) {
  if (offset < 0 || offset > 31)
    refuse(std::string(name) + " over " + std::to_string(offset) + " lanes: expected 0 to 31");
  return static_cast<int>(offset);
}

template <std::integral T, class Combine>
T reduce(const char* name, unsigned mask, T value, Combine combine) {
  const WarpValues& values = exchange(name, mask, to_bits(value), sizeof value);
  unsigned lanes = mask;
  T result = from_bits<T>(values.of_lane[std::countr_zero(lanes)]);
  while (lanes &= lanes - 1) result = combine(result, from_bits<T>(values.of_lane[std::countr_zero(lanes)]));
  return result;
}

inline unsigned lanes_that_say(const char* name, unsigned mask, uint64_t answer, uint64_t value, unsigned bytes) {
  const WarpValues& values = exchange(name, mask, value, bytes);
  unsigned result = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1 && values.of_lane[lane] == answer) result |= 1u << lane;
  return result;
}

}  // namespace simt

// Narrow integers are promoted (+value), as CUDA's overloads do. A lane beyond its group's end reads itself.

template <class T>
auto __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return simt::shuffle("__shfl_sync", mask, +value, width,
                       [=](int, int first, int) { return first + (source & (width - 1)); });
}

template <class T>
auto __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int offset = simt::lane_offset("__shfl_up_sync", delta);
  return simt::shuffle("__shfl_up_sync", mask, +value, width,
                       [=](int lane, int first, int) { return lane - offset < first ? lane : lane - offset; });
}

template <class T>
auto __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int offset = simt::lane_offset("__shfl_down_sync", delta);
  return simt::shuffle("__shfl_down_sync", mask, +value, width,
                       [=](int lane, int, int last) { return lane + offset > last ? lane : lane + offset; });
}

// Earlier groups of `width` lanes can be read, later ones cannot: so says CUDA.
template <class T>
auto __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const int offset = simt::lane_offset("__shfl_xor_sync", lane_mask);
  return simt::shuffle("__shfl_xor_sync", mask, +value, width,
                       [=](int lane, int, int last) { return (lane ^ offset) > last ? lane : lane ^ offset; });
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return simt::lanes_that_say("__ballot_sync", mask, 1, predicate != 0, 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return simt::lanes_that_say("__any_sync", mask, 1, predicate != 0, 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return simt::lanes_that_say("__all_sync", mask, 0, predicate != 0, 0) == 0;
}

// The lanes whose value has the same bits.
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  const uint64_t bits = simt::to_bits(+value);
  return simt::lanes_that_say("__match_any_sync", mask, bits, bits, sizeof +value);
}

inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return simt::reduce("__reduce_add_sync", mask, value, [](unsigned a, unsigned b) { return a + b; });
}
inline int __reduce_add_sync(unsigned mask, int value) {  // wraps around
  return static_cast<int>(__reduce_add_sync(mask, static_cast<unsigned>(value)));
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
  return simt::reduce("__reduce_min_sync", mask, value, [](unsigned a, unsigned b) { return std::min(a, b); });
}
inline int __reduce_min_sync(unsigned mask, int value) {
  return simt::reduce("__reduce_min_sync", mask, value, [](int a, int b) { return std::min(a, b); });
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return simt::reduce("__reduce_max_sync", mask, value, [](unsigned a, unsigned b) { return std::max(a, b); });
}
inline int __reduce_max_sync(unsigned mask, int value) {
  return simt::reduce("__reduce_max_sync", mask, value, [](int a, int b) { return std::max(a, b); });
}
