// The inner loops for x86-64 processors with AVX2.

#include <cmath>

#include "kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define WIDTH 8

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace prunefuse::cpu::avx2 {

#include "vector.h"
#include "scoring.h"
#include "filter.h"

}  // namespace prunefuse::cpu::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

namespace prunefuse::cpu {

#if defined(__x86_64__)

static bool supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

const Kernels* avx2_kernels() {
  static const Kernels kernels = {"avx2",
                                  avx2::score,
                                  avx2::score_committee,
                                  avx2::committee_scratch_bytes,
                                  avx2::largest_magnitude,
                                  avx2::convert,
                                  avx2::approach,
                                  avx2::squared_distance};
  return supported() ? &kernels : nullptr;
}

const Filter* avx2_filter() {
  static const Filter filter = {"avx2 float32", avx2::panel_bytes, avx2::filter_scratch_bytes, avx2::pack_block,
                                avx2::fold};
  return supported() ? &filter : nullptr;
}

#else

const Kernels* avx2_kernels() { return nullptr; }
const Filter* avx2_filter() { return nullptr; }

#endif

}  // namespace prunefuse::cpu
