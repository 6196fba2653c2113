// The inner loops for x86-64 processors with AVX-512.

#if defined(__x86_64__)

#define INSTRUCTION_SET avx512
#define WIDTH 16
#define TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"
#define SUPPORTED                                                                                                   \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && \
   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
#include "instruction_set.h"

#else

#include "kernels.h"

namespace prunefuse::cpu {
const Kernels* avx512_kernels() { return nullptr; }
const Filter* avx512_filter() { return nullptr; }
}  // namespace prunefuse::cpu

#endif
