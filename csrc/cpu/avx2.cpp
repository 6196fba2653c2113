// The inner loops for x86-64 processors with AVX2.

#if defined(__x86_64__)

#define INSTRUCTION_SET avx2
#define WIDTH 8
#define TARGET "avx2,fma"
#define SUPPORTED (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#include "instruction_set.h"

#else

#include "kernels.h"

namespace prunefuse::cpu {
const Kernels* avx2_kernels() { return nullptr; }
const Filter* avx2_filter() { return nullptr; }
}  // namespace prunefuse::cpu

#endif
