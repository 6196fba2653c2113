// The inner loops for x86-64 processors with AVX-512.

#if defined(__x86_64__)

#define INSTRUCTION_SET avx512
#define WIDTH 16
#define TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"
#define SUPPORTED                                                                                                   \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && \
   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
#include "instruction_set.h"

// Whether the compiler knows these products.
#if defined(__linux__) && \
    ((defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11) || (defined(__clang__) && __clang_major__ >= 13))
#define HAS_PRODUCTS true
#else
#define HAS_PRODUCTS false
#endif

namespace prunefuse::cpu {
bool avx512_multiplies_bfloat16() {
#if HAS_PRODUCTS
  return avx512_kernels() != nullptr && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}
bool avx512_multiplies_bytes() {
#if HAS_PRODUCTS
  return avx512_kernels() != nullptr && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}
}  // namespace prunefuse::cpu

#else

#include "kernels.h"

namespace prunefuse::cpu {
const Kernels* avx512_kernels() { return nullptr; }
const Filter* avx512_filter() { return nullptr; }
bool avx512_multiplies_bfloat16() { return false; }
bool avx512_multiplies_bytes() { return false; }
}  // namespace prunefuse::cpu

#endif
