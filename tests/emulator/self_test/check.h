// How the emulator's own tests are written: CHECK(name) { expect_equal(...); }
#pragma once

#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "launch.h"
#include "simt/sanitized.h"

// ThreadSanitizer takes half a millisecond for each thread beyond the first 512 of a launch.
constexpr bool threads_are_slow = SIMT_THREAD_SANITIZER;

struct Check {
  const char* name;
  void (*run)();
};

inline std::vector<Check>& checks() {
  static std::vector<Check> all;
  return all;
}

// Kernels with a fault that only a sanitizer finds.
inline std::vector<Check>& faults() {
  static std::vector<Check> all;
  return all;
}

struct Registration {
  Registration(std::vector<Check>& list, const char* name, void (*run)()) { list.push_back({name, run}); }
};

#define REGISTER(list, name)                                        \
  static void name();                                               \
  static const Registration name##_registration(list, #name, name); \
  static void name()
#define CHECK(name) REGISTER(checks(), name)
#define FAULT(name) REGISTER(faults(), name)

inline void expect(bool truth, const std::string& what) {
  if (!truth) throw std::runtime_error("expected " + what);
}

template <class T>
std::string written(const T& value) {
  std::ostringstream stream;
  stream << value;
  return stream.str();
}

template <class T>
void expect_equal(const T& got, const std::type_identity_t<T>& expected, const std::string& what) {
  if (!(got == expected)) throw std::runtime_error(what + ": expected " + written(expected) + ", got " + written(got));
}

// expected(i) for every element of `got`.
template <class T, class Expected>
void expect_each(const std::vector<T>& got, Expected expected) {
  for (size_t i = 0; i < got.size(); ++i) {
    const T value = static_cast<T>(expected(i));
    if (!(got[i] == value)) expect_equal(got[i], value, "element " + std::to_string(i));
  }
}

__global__ void count_kernel(int* count) {
  SHARED_ARRAY(int, partial, 1);
  if (threadIdx.x == 0) *partial = 0;
  __syncthreads();
  atomicAdd(partial, __reduce_add_sync(0xffffffffu, 1));
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(count, *partial);
}

inline void expect_working_emulator() {
  int count = 0;
  LAUNCH(count_kernel, 3, 64, 0, nullptr, &count);
  expect_equal(count, 3 * 64 * 32, "a correct kernel's count after an error");
}

// The launch must end with an Error that has all these words; the emulator must be usable after it.
template <class Launch>
void expect_refused(std::initializer_list<const char*> words, Launch launch) {
  std::string message;
  try {
    launch();
  } catch (const simt::Error& error) {
    message = error.what();
  }
  expect(!message.empty(), "an error, but the kernel ran to its end");
  for (const char* word : words)
    expect(message.find(word) != std::string::npos, "the words '" + std::string(word) + "' in the error: " + message);
  expect_working_emulator();
}
