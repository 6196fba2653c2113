// Bits and numbers. expf, log1pf, fmaf and the like are those of <cmath>; how far a GPU's differ is not modelled.
#pragma once

#include <bit>
#include <cmath>

inline int __popc(unsigned value) { return std::popcount(value); }
inline int __popcll(unsigned long long value) { return std::popcount(value); }
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline int __clzll(long long value) { return std::countl_zero(static_cast<unsigned long long>(value)); }

// The position of the lowest set bit, counted from 1; 0 if there is none.
inline int __ffs(int value) { return value ? std::countr_zero(static_cast<unsigned>(value)) + 1 : 0; }
inline int __ffsll(long long value) { return value ? std::countr_zero(static_cast<unsigned long long>(value)) + 1 : 0; }

inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float __uint_as_float(unsigned value) { return std::bit_cast<float>(value); }
inline float __int_as_float(int value) { return std::bit_cast<float>(value); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __longlong_as_double(long long value) { return std::bit_cast<double>(value); }

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
