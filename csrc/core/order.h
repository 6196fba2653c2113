// Floats as unsigned integers of the same order, so that ranking is integer work with explicit ties.
#pragma once

#include "portable.h"

namespace prunefuse {

// Larger value, larger key; -0 and +0 share a key. NaN must have been refused before.
HOST_DEVICE uint32_t order_key(float value) {
  const uint32_t bits = same_bits<uint32_t>(value == 0.0f ? 0.0f : value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

HOST_DEVICE uint64_t order_key(double value) {
  const uint64_t bits = same_bits<uint64_t>(value == 0.0 ? 0.0 : value);
  return bits & 0x8000000000000000u ? ~bits : bits | 0x8000000000000000u;
}

}  // namespace prunefuse
