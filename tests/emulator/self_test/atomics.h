// Atomic operations.
#pragma once

#include <algorithm>
#include <limits>

#include "check.h"

namespace atomics {

// Runs operation(address, thread) in 4 x 64 threads on one value; returns the value, and checks that the old values
// that the operations returned are those of some order.
template <class T, class Operation>
T after_all(T start, Operation operation) {
  T value = start;
  simt::launch(4, 64, 0, [&] { operation(&value, blockIdx.x * 64 + threadIdx.x); });
  return value;
}

template <class T>
void expect_tickets() {
  T next = 10;
  std::vector<T> tickets(256);
  simt::launch(4, 64, 0, [&] { tickets[blockIdx.x * 64 + threadIdx.x] = atomicAdd(&next, 2); });
  std::sort(tickets.begin(), tickets.end());
  expect_each(tickets, [](size_t i) { return 10 + 2 * i; });
  expect_equal(next, static_cast<T>(10 + 2 * 256), "the sum");
}

CHECK(atomic_add) {
  expect_tickets<int>();
  expect_tickets<unsigned>();
  expect_tickets<unsigned long long>();
  expect_tickets<float>();
  expect_tickets<double>();
  expect_equal(after_all(0xffffffffu, [](unsigned* at, unsigned) { atomicAdd(at, 1); }), 255u, "a sum that wraps");
}

template <class T>
void expect_extremes(T low, T high) {
  const auto value = [=](unsigned thread) { return thread == 77 ? low : thread == 78 ? high : T{5}; };
  expect_equal(after_all(T{6}, [=](T* at, unsigned thread) { atomicMax(at, value(thread)); }), high, "the maximum");
  expect_equal(after_all(T{6}, [=](T* at, unsigned thread) { atomicMin(at, value(thread)); }), low, "the minimum");
  T limit = high;
  T old{};
  simt::launch(1, 1, 0, [&] { old = atomicMax(&limit, low); });
  expect_equal(limit, high, "a maximum that stays");
  expect_equal(old, high, "the old value");
}

CHECK(atomic_max_and_min) {
  expect_extremes<int>(std::numeric_limits<int>::min(), std::numeric_limits<int>::max());
  expect_extremes<unsigned>(0, 0xffffffffu);
  expect_extremes<unsigned long long>(0, ~0ull);
  expect_extremes<long long>(std::numeric_limits<long long>::min(), std::numeric_limits<long long>::max());
}

template <class T>
void expect_bits() {
  const T all = after_all(T{1} << 20, [](T* at, unsigned thread) { atomicOr(at, T{1} << thread % 16); });
  expect_equal(all, static_cast<T>(T{1} << 20 | 0xffff), "the bits");
}

CHECK(atomic_or) {
  expect_bits<int>();
  expect_bits<unsigned>();
  expect_bits<unsigned long long>();
}

// Each thread takes one number out and puts its own in: in the end all of them but one were taken.
template <class T>
void expect_exchanges() {
  T place = 1000;
  std::vector<T> taken(256);
  simt::launch(4, 64, 0, [&] {
    const unsigned thread = blockIdx.x * 64 + threadIdx.x;
    taken[thread] = atomicExch(&place, static_cast<T>(thread));
  });
  taken.push_back(place);
  std::sort(taken.begin(), taken.end());
  expect_each(taken, [](size_t i) { return i < 256 ? i : 1000; });
}

CHECK(atomic_exchange) {
  expect_exchanges<int>();
  expect_exchanges<unsigned>();
  expect_exchanges<unsigned long long>();
  expect_exchanges<float>();
}

template <class T>
void expect_compare_and_swap() {
  int winners = 0;
  const T last = after_all(T{3}, [&](T* at, unsigned thread) {
    if (atomicCAS(at, T{3}, static_cast<T>(thread + 100)) == T{3}) atomicAdd(&winners, 1);
  });
  expect_equal(winners, 1, "threads that swapped");
  expect(last >= 100 && last < 356, "the winner's number");
  const T sum = after_all(T{0}, [](T* at, unsigned) {
    T assumed = 0;
    for (T seen; (seen = atomicCAS(at, assumed, assumed + 1)) != assumed;) assumed = seen;
  });
  expect_equal(sum, T{256}, "a sum by compare and swap");
}

CHECK(atomic_compare_and_swap) {
  expect_compare_and_swap<int>();
  expect_compare_and_swap<unsigned>();
  expect_compare_and_swap<unsigned long long>();
}

__global__ void histogram_kernel(const unsigned* in, unsigned count, unsigned* out) {
  SHARED_ARRAY(unsigned, bins, 16);
  if (threadIdx.x < 16) bins[threadIdx.x] = 0;
  __syncthreads();
  for (unsigned i = threadIdx.x; i < count; i += blockDim.x) atomicAdd(&bins[in[i] % 16], 1u);
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&out[threadIdx.x], bins[threadIdx.x]);
}

CHECK(atomics_in_shared_memory) {
  std::vector<unsigned> in(1600), out(16);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<unsigned>(i * 7);
  LAUNCH(histogram_kernel, 3, 96, 0, nullptr, in.data(), 1600u, out.data());
  expect_each(out, [](size_t) { return 300u; });
}

// The block that comes last adds up what the others have left.
__global__ void last_block_kernel(int* partial, unsigned* finished, int* total) {
  SHARED_ARRAY(bool, is_last, 1);
  const int sum = __reduce_add_sync(0xffffffffu, static_cast<int>(threadIdx.x));
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = sum;
    __threadfence();
    *is_last = atomicAdd(finished, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (*is_last && threadIdx.x == 0)
    for (unsigned block = 0; block < gridDim.x; ++block) *total += partial[block];
}

CHECK(the_last_block_sees_what_was_fenced) {
  std::vector<int> partial(6);
  unsigned finished = 0;
  int total = 0;
  LAUNCH(last_block_kernel, 6, 32, 0, nullptr, partial.data(), &finished, &total);
  expect_equal(total, 6 * 496, "the sum over blocks");
}

// As in CUDA, where uint64_t is unsigned long and has no atomics.
template <class T>
concept HasAdd = requires(T* address) { atomicAdd(address, T{}); };
template <class T>
concept HasMax = requires(T* address) { atomicMax(address, T{}); };
static_assert(!HasAdd<unsigned long> && !HasAdd<long long> && !HasAdd<short> && HasAdd<double>);
static_assert(!HasMax<float> && HasMax<long long> && !HasMax<unsigned long>);

CHECK(refused_misaligned_atomics) {
  alignas(8) unsigned char bytes[16] = {};
  expect_refused({"block(0,0,0) thread(0,0,0): misaligned atomicAdd: expected an address divisible by 4"},
                 [&] { simt::launch(1, 1, 0, [&] { atomicAdd(reinterpret_cast<unsigned*>(bytes + 2), 1u); }); });
}

}  // namespace atomics
