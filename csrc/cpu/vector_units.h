// Products of bfloat16 numbers by vectors that add them in pairs (AVX512-BF16); included inside a namespace.

// Sums [rows][16 outputs], instead of what is there or added to it.
template <int kRows>
inline void add_pairs(const uint16_t* rows, int64_t distance, const uint16_t* weights, const ValuePair* pairs,
                      int64_t count, bool first, float* to) {
  constexpr int kOutputs = 16;
  __m512 sums[kRows];
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) sums[row] = first ? _mm512_setzero_ps() : _mm512_load_ps(to + row * kOutputs);
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t* values = rows + pairs[i].values;
    const __m512bh of_outputs = (__m512bh)_mm512_loadu_si512(weights + pairs[i].weights);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      int32_t both;
      __builtin_memcpy(&both, values + row * distance, sizeof both);
      sums[row] = _mm512_dpbf16_ps(sums[row], (__m512bh)_mm512_set1_epi32(both), of_outputs);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) _mm512_store_ps(to + row * kOutputs, sums[row]);
}
