// What a kernel's source sees in place of cuda_runtime.h when it is compiled for the CPU: see README.md.
#pragma once

#include "simt/arithmetic.h"
#include "simt/atomics.h"
#include "simt/collectives.h"
#include "simt/memory.h"
#include "simt/types.h"
#include "simt_runtime.h"

// Kernels are static as they are in CUDA: two sources may use one name.
// __shared__ stays undefined on purpose: its memory must come from SHARED_ARRAY or DYNAMIC_SHARED (launch.h), which
// give every block memory of its own. __noinline__ does too: as a macro it breaks the headers of libstdc++.
#define __global__ static
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

using cudaStream_t = void*;
