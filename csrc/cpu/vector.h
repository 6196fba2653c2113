// Vectors of WIDTH floats on the compiler's own vector types, so that one source serves every instruction set.
//
// Included once per instruction set, inside its namespace; WIDTH is defined there. No function of a standard header may
// be instantiated here first: the linker could keep the wide version for a machine that cannot run it.

constexpr int kWidth = WIDTH;

typedef float Floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t Shorts __attribute__((vector_size(2 * WIDTH)));

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

inline Floats all(float value) { return Floats{} + value; }
inline Floats select(Ints condition, Floats yes, Floats no) { return condition ? yes : no; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }

inline Floats load(const float* from) {
  Floats result;
  __builtin_memcpy(&result, from, sizeof result);
  return result;
}
inline void store(float* to, Floats value) { __builtin_memcpy(to, &value, sizeof value); }

inline Words load_words(const uint16_t* from) {
  // Compilers make several instructions of a conversion of the whole vector.
#if WIDTH == 16
  return (Words)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif WIDTH == 8
  return (Words)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  Shorts shorts;
  __builtin_memcpy(&shorts, from, sizeof shorts);
  return __builtin_convertvector(shorts, Words);
#endif
}
inline Floats load(const BFloat16* from) { return (Floats)(load_words(&from->bits) << 16); }
inline Floats load(const Half* from) {
  const Words bits = load_words(&from->bits);
  // Exponent and mantissa shifted into place are the value over 2^112, denormals included.
  const Floats magnitude = (Floats)((bits & 0x7fff) << 13) * 0x1p112f;
  const Words special = (Words)((bits & 0x7c00) == 0x7c00) & 0x7f800000;
  return (Floats)((Words)magnitude | special | (bits & 0x8000) << 16);
}

inline float value_of(float element) { return element; }
inline float value_of(BFloat16 element) {
  const uint32_t bits = static_cast<uint32_t>(element.bits) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
inline float value_of(Half element) {
  uint16_t lanes[WIDTH] = {element.bits};
  return load(reinterpret_cast<const Half*>(lanes))[0];
}

#if WIDTH == 16
typedef float HalfFloats __attribute__((vector_size(32)));
inline HalfFloats low_half(Floats v) { return (HalfFloats)_mm512_castps512_ps256((__m512)v); }
inline HalfFloats high_half(Floats v) { return (HalfFloats)_mm512_extractf32x8_ps((__m512)v, 1); }
#elif WIDTH == 8
typedef Floats HalfFloats;
#endif

#if WIDTH >= 8
inline float sum_of_half(HalfFloats v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}
inline float largest_of_half(HalfFloats v) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}
#endif

#if WIDTH == 16
inline float sum_of(Floats v) { return sum_of_half(low_half(v) + high_half(v)); }
inline float largest_of(Floats v) {
  return largest_of_half((HalfFloats)_mm256_max_ps((__m256)low_half(v), (__m256)high_half(v)));
}
#elif WIDTH == 8
inline float sum_of(Floats v) { return sum_of_half(v); }
inline float largest_of(Floats v) { return largest_of_half(v); }
#else
inline float sum_of(Floats v) {
  float lanes[WIDTH];
  store(lanes, v);
  for (int half = WIDTH / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}
inline float largest_of(Floats v) {
  float lanes[WIDTH];
  store(lanes, v);
  for (int half = WIDTH / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  return lanes[0];
}
#endif

// One bit per lane of a comparison.
inline uint32_t bits_of(Ints condition) {
#if WIDTH == 16
  return _mm512_movepi32_mask((__m512i)condition);
#elif WIDTH == 8
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)condition));
#else
  uint32_t bits = 0;
  for (int i = 0; i < WIDTH; ++i) bits |= (condition[i] ? 1u : 0u) << i;
  return bits;
#endif
}
inline bool any(Ints condition) { return bits_of(condition) != 0; }

// One bit per lane where a - b > c.
inline uint32_t bits_where_above(Floats a, Floats b, Floats c) {
#if WIDTH == 16
  return _mm512_cmp_ps_mask((__m512)(a - b), (__m512)c, _CMP_GT_OQ);
#else
  return bits_of(a - b > c);
#endif
}

// max(x, -87), NaN kept.
inline Floats clamp_exponent(Floats x) { return all(-87.0f) > x ? all(-87.0f) : x; }

// e^x for -87 <= x <= 0, to about one unit in the last place; NaN stays NaN.
inline Floats exp_of_clamped(Floats clamped) {
  // Adding and taking away 1.5 * 2^23 rounds to an integer.
  const Floats shifted = clamped * 1.44269504f + 12582912.0f;
  const Floats n = shifted - 12582912.0f;
  Floats r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Floats p = all(1.98756915e-4f);  // the classic single precision polynomial of Cephes
  p = p * r + 1.39819995e-3f;
  p = p * r + 8.33345190e-3f;
  p = p * r + 4.16657963e-2f;
  p = p * r + 1.66666654e-1f;
  p = p * r + 5.00000012e-1f;
  const Floats value = r * r * p + r + 1.0f;
  return value * (Floats)(((Ints)shifted - 0x4B400000 + 127) << 23);
}

// Natural logarithm of normal positive numbers.
inline Floats log_positive(Floats x) {
  const Words bits = (Words)x;
  Floats mantissa = (Floats)((bits & 0x007fffff) | 0x3f800000);
  Floats exponent = __builtin_convertvector((Ints)(bits >> 23) - 127, Floats);
  const Ints high = mantissa > 1.41421356f;
  mantissa = select(high, mantissa * 0.5f, mantissa);
  exponent = select(high, exponent + 1.0f, exponent);
  const Floats r = (mantissa - 1.0f) / (mantissa + 1.0f);
  const Floats square = r * r;
  Floats series = square * (2.0f / 9.0f) + 2.0f / 7.0f;
  series = series * square + 2.0f / 5.0f;
  series = series * square + 2.0f / 3.0f;
  return exponent * 0.693147181f + (r * square * series + 2.0f * r);
}
