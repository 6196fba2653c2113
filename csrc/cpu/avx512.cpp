// The inner loops for x86-64 processors with AVX512.

#include <cmath>

#include "kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define WIDTH 16

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

namespace prunefuse::cpu::avx512 {

#include "vector.h"
#include "scoring.h"
#include "filter.h"

}  // namespace prunefuse::cpu::avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

namespace prunefuse::cpu {

#if defined(__x86_64__)

static bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}

const Kernels* avx512_kernels() {
  static const Kernels kernels = {"avx512",
                                  avx512::score,
                                  avx512::score_committee,
                                  avx512::committee_scratch_bytes,
                                  avx512::largest_magnitude,
                                  avx512::convert,
                                  avx512::approach,
                                  avx512::squared_distance};
  return supported() ? &kernels : nullptr;
}

const Filter* avx512_filter() {
  static const Filter filter = {"avx512 float32", avx512::panel_bytes, avx512::filter_scratch_bytes, avx512::pack_block,
                                avx512::fold};
  return supported() ? &filter : nullptr;
}

#else

const Kernels* avx512_kernels() { return nullptr; }
const Filter* avx512_filter() { return nullptr; }

#endif

}  // namespace prunefuse::cpu
