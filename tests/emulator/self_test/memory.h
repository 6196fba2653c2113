// Loads, stores, vector types and shared memory.
#pragma once

#include <cmath>
#include <cstring>

#include "check.h"

namespace memory {

static_assert(sizeof(float2) == 8 && alignof(float2) == 8 && sizeof(float4) == 16 && alignof(float4) == 16);
static_assert(sizeof(int2) == 8 && alignof(int2) == 8 && sizeof(int4) == 16 && alignof(int4) == 16);
static_assert(sizeof(uint2) == 8 && alignof(uint2) == 8 && sizeof(uint4) == 16 && alignof(uint4) == 16);

struct __align__(32) Wide {
  float values[8];
};
static_assert(alignof(Wide) == 32);

__global__ void copy_kernel(const float4* in, float4* out) {
  const float4 value = __ldg(in + threadIdx.x);
  const float4 again = __ldcs(in + threadIdx.x);
  __stcs(out + threadIdx.x, make_float4(value.w, again.z, value.y, again.x));
}

CHECK(loads_and_stores_with_hints) {
  alignas(16) float in[4 * 8], out[4 * 8] = {};
  for (int i = 0; i < 32; ++i) in[i] = static_cast<float>(i);
  LAUNCH(copy_kernel, 1, 8, 0, nullptr, reinterpret_cast<float4*>(in), reinterpret_cast<float4*>(out));
  expect_each(std::vector<float>(out, out + 32), [](size_t i) { return i / 4 * 4 + 3 - i % 4; });
}

CHECK(vector_types_hold_their_parts) {
  simt::launch(1, 1, 0, [] {
    expect(make_float2(1, 2).y == 2 && make_float4(1, 2, 3, 4).w == 4, "floats");
    expect(make_int2(-1, -2).y == -2 && make_int4(1, 2, 3, -4).w == -4, "ints");
    expect(make_uint2(1, 2).x == 1 && make_uint4(1, 2, 3, 4).z == 3, "unsigned ints");
  });
}

CHECK(refused_misaligned_loads_and_stores) {
  alignas(16) float values[8] = {};
  const float4* const odd = reinterpret_cast<const float4*>(values + 1);
  expect_refused({"block(0,0,0) thread(0,0,0): misaligned __ldg", "an address divisible by 16, got one that leaves 4"},
                 [=] { simt::launch(1, 1, 0, [=] { __ldg(odd); }); });
  expect_refused({"misaligned __ldcs"}, [=] { simt::launch(1, 1, 0, [=] { __ldcs(odd); }); });
  expect_refused({"misaligned __stcs"}, [&] {
    simt::launch(1, 1, 0, [&] { __stcs(reinterpret_cast<float2*>(values + 1), make_float2(0, 0)); });
  });
}

__global__ void uninitialised_kernel(unsigned* seen, float* as_float) {
  SHARED_ARRAY(unsigned, words, 64);
  SHARED_ARRAY(float, numbers, 64);
  DYNAMIC_SHARED(unsigned, dynamic);
  const unsigned place = blockIdx.x * 64 + threadIdx.x;
  seen[place] = words[threadIdx.x] & dynamic[threadIdx.x];
  as_float[place] = numbers[threadIdx.x];
  __syncthreads();
  words[threadIdx.x] = dynamic[threadIdx.x] = 0;  // must not be there in the next block
  numbers[threadIdx.x] = 0.0f;
}

CHECK(shared_memory_starts_poisoned_in_every_block) {
  std::vector<unsigned> seen(4 * 64);
  std::vector<float> as_float(4 * 64);
  LAUNCH(uninitialised_kernel, 4, 64, 64 * sizeof(unsigned), nullptr, seen.data(), as_float.data());
  expect_each(seen, [](size_t) { return 0xffffffffu; });
  for (const float value : as_float) expect(std::isnan(value), "NaN in a float that was not initialised");
}

template <int number>
__device__ int* array_of(int value) {
  SHARED_ARRAY(int, values, 32);
  values[threadIdx.x] = value;
  return values;
}

CHECK(shared_arrays_are_one_for_the_block_and_apart_from_each_other) {
  std::vector<int> out(32);
  std::vector<int*> places(32);
  simt::launch(1, 32, 0, [&] {
    const int lane = static_cast<int>(threadIdx.x);
    const int* first = array_of<1>(lane);
    const int* second = array_of<2>(100 + lane);
    places[lane] = array_of<1>(lane);
    __syncwarp();
    out[lane] = first[31 - lane] * 1000 + second[lane ^ 1];
  });
  expect_each(out, [](int lane) { return (31 - lane) * 1000 + 100 + (lane ^ 1); });
  for (const int* place : places) expect(place == places[0], "one array for all threads");
}

CHECK(shared_arrays_have_the_alignment_of_their_type) {
  simt::launch(2, 1, 48, [] {
    SHARED_ARRAY(char, character, 3);
    SHARED_ARRAY(double, number, 1);
    SHARED_ARRAY(float4, vector, 1);
    SHARED_ARRAY(Wide, wide, 1);
    DYNAMIC_SHARED(float4, dynamic);
    const auto leaves = [](const void* pointer, uintptr_t alignment) {
      return reinterpret_cast<uintptr_t>(pointer) % alignment;
    };
    expect_equal(leaves(number, 8), 0u, "doubles");
    expect_equal(leaves(vector, 16), 0u, "float4s");
    expect_equal(leaves(wide, 32), 0u, "a type with its own alignment");
    expect_equal(leaves(dynamic, 16), 0u, "dynamic shared memory");
    expect(leaves(character, 16) && leaves(number, 16) && leaves(dynamic, 32), "no more alignment than was asked for");
  });
}

__global__ void dynamic_kernel(int* out) {
  DYNAMIC_SHARED(int, values);
  SHARED_ARRAY(int, offset, 1);
  if (threadIdx.x == 0) *offset = 5;
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + *offset) % 128];
}

CHECK(dynamic_shared_memory) {
  std::vector<int> out(128);
  LAUNCH(dynamic_kernel, 1, 128, 128 * sizeof(int), nullptr, out.data());
  expect_each(out, [](size_t i) { return (i + 5) % 128; });
}

template <int kilobytes>
__global__ void static_kernel() {
  SHARED_ARRAY(char, first, 1024 * kilobytes - 16);
  SHARED_ARRAY(float4, rest, 1);
  first[threadIdx.x] = 1;
  rest[0].x = 1.0f;
}

CHECK(shared_memory_up_to_the_limits) {
  LAUNCH(static_kernel<48>, 1, 1, 0, nullptr);
  LAUNCH(static_kernel<48>, 1, 1, 179 << 10, nullptr);
  LAUNCH(static_kernel<1>, 1, 1, 226 << 10, nullptr);
  simt::launch(1, 1, 227 << 10, [] {
    DYNAMIC_SHARED(char, bytes);
    bytes[(227 << 10) - 1] = 1;
  });
}

CHECK(refused_amounts_of_shared_memory) {
  expect_refused({"block(0,0,0) thread(0,0,0): too much static shared memory", "at most 49152", "got 50160"},
                 [] { LAUNCH(static_kernel<49>, 1, 1, 0, nullptr); });
  expect_refused({"block(0,0,0) thread(0,0,0): too much shared memory", "232448", "49136 static and 184320 dynamic"},
                 [] { LAUNCH(static_kernel<48>, 1, 1, 180 << 10, nullptr); });
  expect_refused({"bytes of dynamic shared memory", "expected 0 to 232448, got 232449"},
                 [] { LAUNCH(static_kernel<1>, 1, 1, (227 << 10) + 1, nullptr); });
}

CHECK(refused_dynamic_shared_memory_that_was_not_asked_for) {
  std::vector<int> out(128);
  expect_refused({"block(0,0,0) thread(", "dynamic shared memory is used, but the launch gave it 0 bytes"},
                 [&] { LAUNCH(dynamic_kernel, 1, 128, 0, nullptr, out.data()); });
}

#if !SIMT_ADDRESS_SANITIZER  // which ends the program at the write
CHECK(refused_writes_outside_of_shared_arrays) {
  const auto write = [](int block, int place) {
    simt::launch(2, 32, 0, [=] {
      SHARED_ARRAY(int, values, 32);
      values[threadIdx.x] = 0;
      __syncthreads();
      if (static_cast<int>(blockIdx.x) == block && threadIdx.x == 3) values[place] = 7;
    });
  };
  write(1, 31);
  expect_refused({"block(1,0,0)", "wrote outside of its shared array of 128 bytes"}, [&] { write(1, 32); });
  expect_refused({"block(0,0,0)", "wrote outside of its shared array of 128 bytes"}, [&] { write(0, -1); });
}
#endif

// Locals of threads of different blocks lie in the same place, one after the other.
[[gnu::noinline]] void fill(int* values, int count) {
  for (int i = 0; i < count; ++i) values[i] = i;
}

CHECK(locals_belong_to_their_thread) {
  std::vector<int> out(8 * 32);
  simt::launch(8, 32, 0, [&] {
    int values[20];
    fill(values, 20);
    __syncthreads();
    out[blockIdx.x * 32 + threadIdx.x] = values[threadIdx.x % 20];
  });
  expect_each(out, [](size_t i) { return i % 32 % 20; });
}

}  // namespace memory
