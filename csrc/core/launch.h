// The one header that kernels include in place of cuda_runtime.h, so that their sources compile for a GPU and, with
// SIMT_CPU defined, for the emulator under tests/emulator that runs them on the CPU.
#pragma once

#ifdef SIMT_CPU

#include "simt.h"

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  simt::launch(grid, block, shared_bytes, [&] { kernel(__VA_ARGS__); })
#define SHARED_ARRAY(type, name, count) \
  static char name##_key;               \
  type* const name = static_cast<type*>(simt::shared(&name##_key, sizeof(type) * (count), alignof(type)))
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(simt::dynamic_shared())

#else

#include <cuda_runtime.h>

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]
#define DYNAMIC_SHARED(type, name)                                        \
  extern __shared__ __align__(16) unsigned char shared_bytes_of_##name[]; \
  type* name = reinterpret_cast<type*>(shared_bytes_of_##name)

#endif
