// What lets one header serve the host compiler, nvcc and the emulator.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace prunefuse {

template <class To, class From>
HOST_DEVICE To same_bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "same_bits keeps the size");
  To result;
  memcpy(&result, &value, sizeof result);
  return result;
}

}  // namespace prunefuse
