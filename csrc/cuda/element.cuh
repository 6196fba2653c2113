// Storage types, and how kernels read rows of them: 16 bytes at a time where the address permits.
#pragma once

#include "../core/launch.h"
#include "../core/portable.h"

namespace prunefuse::cuda {

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

HOST_DEVICE float to_float(float value) { return value; }

HOST_DEVICE float to_float(bfloat16 value) { return same_bits<float>(static_cast<uint32_t>(value.bits) << 16); }

HOST_DEVICE float to_float(float16 value) {
  const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = (value.bits & 0x7fffu) << 13;
  // Rebias the exponent by a product, which is exact and serves subnormal numbers too.
  uint32_t bits = same_bits<uint32_t>(same_bits<float>(magnitude) * 0x1p112f);
  if (magnitude >= 0x0f800000u) bits |= 0x7f800000u;  // infinity and NaN
  return same_bits<float>(sign | bits);
}

// Rounds to nearest, ties to even.
template <class T>
HOST_DEVICE T from_float(float value);

template <>
HOST_DEVICE float from_float<float>(float value) {
  return value;
}

template <>
HOST_DEVICE double from_float<double>(float value) {
  return value;
}

template <>
HOST_DEVICE bfloat16 from_float<bfloat16>(float value) {
  const uint32_t bits = same_bits<uint32_t>(value);
  if (value != value) return {0x7fc0};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
HOST_DEVICE float16 from_float<float16>(float value) {
  const uint32_t bits = same_bits<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = bits >> 16 & 0x8000u;
  uint32_t rounded;
  if (value != value)
    rounded = 0x7e00u;
  else if (magnitude >= 0x477ff000u)  // 65520 and above
    rounded = 0x7c00u;
  else if (magnitude < 0x38800000u)  // below 2^-14: one unit of 0.5 is the smallest subnormal, the sum rounds to it
    rounded = same_bits<uint32_t>(same_bits<float>(magnitude) + 0.5f) - 0x3f000000u;
  else
    rounded = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  return {static_cast<uint16_t>(sign | rounded)};
}

// What one 16-byte load brings.
template <class T>
constexpr int pack_size = 16 / static_cast<int>(sizeof(T));

template <class T>
struct alignas(16) Pack {
  T element[pack_size<T>];
};

template <class T>
__device__ __forceinline__ bool starts_a_pack(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// Elements from the last 16-byte boundary to the address.
template <class T>
__device__ __forceinline__ int past_boundary(const T* address) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(address) % 16 / sizeof(T));
}

// row[start], ..., with `outside` for what lies beyond the row on either side.
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* row, int64_t count, int64_t start, T outside) {
  if (start >= 0 && start + pack_size<T> <= count && starts_a_pack(row + start))
    return *reinterpret_cast<const Pack<T>*>(row + start);
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < pack_size<T>; ++i)
    pack.element[i] = start + i >= 0 && start + i < count ? row[start + i] : outside;
  return pack;
}

}  // namespace prunefuse::cuda
