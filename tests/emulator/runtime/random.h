// Random orders that are the same with every compiler and standard library (std::shuffle's are not).
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace simt {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t below(uint64_t bound) { return static_cast<uint64_t>(static_cast<unsigned __int128>(next()) * bound >> 64); }

  template <class T>
  void shuffle(T* items, size_t count) {
    for (size_t rest = count; rest > 1; --rest) std::swap(items[rest - 1], items[below(rest)]);
  }

 private:
  uint64_t next() {  // splitmix64
    uint64_t word = state_ += 0x9e3779b97f4a7c15u;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9u;
    word = (word ^ word >> 27) * 0x94d049bb133111ebu;
    return word ^ word >> 31;
  }

  uint64_t state_;
};

}  // namespace simt
