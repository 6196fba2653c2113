// Loads and stores with a cache hint. The hint has no meaning here, but the alignment that the device demands does.
#pragma once

#include <cstdint>
#include <string>

#include "../simt_runtime.h"

namespace simt {

template <class T>
void require_alignment(const char* name, const T* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (address % sizeof(T) != 0)
    refuse(std::string("misaligned ") + name + ": expected an address divisible by " + std::to_string(sizeof(T)) +
           ", got one that leaves " + std::to_string(address % sizeof(T)));
}

}  // namespace simt

template <class T>
T __ldg(const T* pointer) {
  simt::require_alignment("__ldg", pointer);
  return *pointer;
}

template <class T>
T __ldcs(const T* pointer) {
  simt::require_alignment("__ldcs", pointer);
  return *pointer;
}

template <class T>
void __stcs(T* pointer, T value) {
  simt::require_alignment("__stcs", pointer);
  *pointer = value;
}
