// Atomic operations for the types that CUDA has them for. uint64_t is none of them on Linux (it is unsigned long).
//
// They are relaxed, as on the device: what another thread wrote before its atomic operation is visible only if it wrote
// it before a __threadfence(). ThreadSanitizer is told exactly that.
#pragma once

#include <algorithm>
#include <concepts>
#include <type_traits>

#include "../simt_runtime.h"
#include "memory.h"

namespace simt {

template <class T, class... Allowed>
concept OneOf = (std::same_as<T, Allowed> || ...);

template <class T>
concept AtomicInteger = OneOf<T, int, unsigned, unsigned long long>;

// Replaces the value by update(value), returns the old one.
template <class T, class Update>
T atomic_update(const char* name, T* address, Update update) {
  require_alignment(name, address);
  T old;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  T replacement = update(old);
  while (!__atomic_compare_exchange(address, &old, &replacement, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
    replacement = update(old);
  see_fenced_writes();
  return old;
}

}  // namespace simt

// The second argument converts to the type of the first one, as with CUDA's overloads.
template <class T>
  requires(simt::AtomicInteger<T> || simt::OneOf<T, float, double>)
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return simt::atomic_update("atomicAdd", address, [value](T old) { return static_cast<T>(old + value); });
}

template <class T>
  requires(simt::AtomicInteger<T> || simt::OneOf<T, long long>)
T atomicMax(T* address, std::type_identity_t<T> value) {
  return simt::atomic_update("atomicMax", address, [value](T old) { return std::max(old, value); });
}

template <class T>
  requires(simt::AtomicInteger<T> || simt::OneOf<T, long long>)
T atomicMin(T* address, std::type_identity_t<T> value) {
  return simt::atomic_update("atomicMin", address, [value](T old) { return std::min(old, value); });
}

template <simt::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return simt::atomic_update("atomicOr", address, [value](T old) { return old | value; });
}

template <class T>
  requires(simt::AtomicInteger<T> || simt::OneOf<T, float>)
T atomicExch(T* address, std::type_identity_t<T> value) {
  return simt::atomic_update("atomicExch", address, [value](T) { return value; });
}

template <simt::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return simt::atomic_update("atomicCAS", address, [=](T old) { return old == expected ? value : old; });
}

inline void __threadfence() { simt::fence(); }
