// Bits and numbers, against known answers.
#pragma once

#include <cmath>

#include "check.h"

namespace arithmetic {

CHECK(bit_counts) {
  simt::launch(1, 1, 0, [] {
    expect_equal(__popc(0u), 0, "__popc(0)");
    expect_equal(__popc(0xf0f0f0f1u), 17, "__popc");
    expect_equal(__popcll(0xffffffff00000001ull), 33, "__popcll");
    expect_equal(__clz(0), 32, "__clz(0)");
    expect_equal(__clz(1), 31, "__clz(1)");
    expect_equal(__clz(-1), 0, "__clz(-1)");
    expect_equal(__clzll(0), 64, "__clzll(0)");
    expect_equal(__clzll(1ll << 40), 23, "__clzll");
    expect_equal(__ffs(0), 0, "__ffs(0)");
    expect_equal(__ffs(0x50), 5, "__ffs");
    expect_equal(__ffs(static_cast<int>(0x80000000u)), 32, "__ffs of the highest bit");
    expect_equal(__ffsll(0), 0, "__ffsll(0)");
    expect_equal(__ffsll(1ll << 40), 41, "__ffsll");
  });
}

CHECK(bits_of_numbers) {
  simt::launch(1, 1, 0, [] {
    expect_equal(__float_as_uint(-2.0f), 0xc0000000u, "__float_as_uint");
    expect_equal(__float_as_int(1.0f), 0x3f800000, "__float_as_int");
    expect_equal(__uint_as_float(0x7f800000u), INFINITY, "__uint_as_float");
    expect_equal(__int_as_float(0x40400000), 3.0f, "__int_as_float");
    expect_equal(__double_as_longlong(1.0), 0x3ff0000000000000ll, "__double_as_longlong");
    expect_equal(__longlong_as_double(0x4000000000000000ll), 2.0, "__longlong_as_double");
  });
}

CHECK(fused_multiply_add_rounds_once) {
  simt::launch(1, 1, 0, [] {
    const float a = 1.0f + 0x1p-12f;  // a * a has 25 bits: 1 + 2^-11 + 2^-24
    expect_equal(__fmaf_rn(a, a, -1.0f), 0x1p-11f + 0x1p-24f, "__fmaf_rn");
    expect_equal(fmaf(a, a, -1.0f), 0x1p-11f + 0x1p-24f, "fmaf");
  });
}

CHECK(functions_of_cmath_are_global) {
  simt::launch(1, 1, 0, [] {
    expect_equal(expf(0.0f), 1.0f, "expf");
    expect_equal(expm1f(1e-10f), 1e-10f, "expm1f");
    expect_equal(log1pf(1e-10f), 1e-10f, "log1pf");
    expect_equal(sqrtf(2.25f), 1.5f, "sqrtf");
  });
}

}  // namespace arithmetic
