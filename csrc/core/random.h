// Random numbers that depend on nothing but (seed, position): the same on every device, in any order of evaluation.
//
// Only integer operations, correctly rounded square roots, divisions and fused multiply-adds are used, so that the host
// and a GPU agree to the bit.
#pragma once

#include "portable.h"

namespace prunefuse {

struct FourWords {
  uint32_t word[4];
};

// Philox 4x32 with ten rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
HOST_DEVICE FourWords philox(uint64_t counter, uint64_t seed) {
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = 0xD2511F53ull * c0, product1 = 0xCD9E8D57ull * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(product1);
    c3 = static_cast<uint32_t>(product0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in (0, 1), one of 2^23 equally spaced values: the odd multiples of 2^-24, all of which a float holds exactly.
HOST_DEVICE float uniform_of(uint32_t word) { return fmaf(static_cast<float>(word >> 9), 0x1p-23f, 0x1p-24f); }

// Natural logarithm of a positive normal number, to about 2e-7 relative of the result, or 1e-8 absolute near 1.
HOST_DEVICE float portable_log(float x) {
  const uint32_t bits = same_bits<uint32_t>(x);
  int exponent = static_cast<int>(bits >> 23) - 127;
  float mantissa = same_bits<float>((bits & 0x007fffffu) | 0x3f800000u);  // [1, 2)
  if (mantissa > 1.41421356f) {
    mantissa *= 0.5f;
    ++exponent;
  }
  // log(mantissa) = 2 artanh(r), r = (mantissa - 1) / (mantissa + 1), |r| < 0.1716
  const float r = (mantissa - 1.0f) / (mantissa + 1.0f);
  const float square = r * r;
  float series = fmaf(square, 2.0f / 9.0f, 2.0f / 7.0f);
  series = fmaf(square, series, 2.0f / 5.0f);
  series = fmaf(square, series, 2.0f / 3.0f);
  const float log_mantissa = fmaf(r * square, series, 2.0f * r);
  return fmaf(static_cast<float>(exponent), 0.693147181f, log_mantissa);
}

// Standard normal as the quantile of a uniform; the inverse error function is Giles' single precision approximation
// (2010, "Approximating the erfinv function").
HOST_DEVICE float normal_quantile(float uniform) {
  const float x = fmaf(2.0f, uniform, -1.0f);
  float w = -portable_log((1.0f - x) * (1.0f + x));
  float p;
  if (w < 5.0f) {
    w -= 2.5f;
    p = 2.81022636e-08f;
    p = fmaf(p, w, 3.43273939e-07f);
    p = fmaf(p, w, -3.5233877e-06f);
    p = fmaf(p, w, -4.39150654e-06f);
    p = fmaf(p, w, 0.00021858087f);
    p = fmaf(p, w, -0.00125372503f);
    p = fmaf(p, w, -0.00417768164f);
    p = fmaf(p, w, 0.246640727f);
    p = fmaf(p, w, 1.50140941f);
  } else {
    w = sqrtf(w) - 3.0f;
    p = -0.000200214257f;
    p = fmaf(p, w, 0.000100950558f);
    p = fmaf(p, w, 0.00134934322f);
    p = fmaf(p, w, -0.00367342844f);
    p = fmaf(p, w, 0.00573950773f);
    p = fmaf(p, w, -0.0076224613f);
    p = fmaf(p, w, 0.00943887047f);
    p = fmaf(p, w, 1.00167406f);
    p = fmaf(p, w, 2.83297682f);
  }
  return 1.41421356f * (p * x);
}

}  // namespace prunefuse
