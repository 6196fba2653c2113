// Batch norm over tensors whose channels lie together, [pixels, channels]; included once per instruction set, inside
// its namespace. Element i belongs to lane i % period: the period is a multiple of the channels and of every vector
// width, so that narrow layers use whole vectors.

inline void store(BFloat16* to, Floats value) {
  Words bits = (Words)value;
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  bits = (Words)select(value == value, (Floats)bits, (Floats)(Words{} + 0x7fc0));
#if WIDTH == 16
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16((__m512i)bits));
#else
  const Shorts shorts = __builtin_convertvector(bits, Shorts);
  __builtin_memcpy(to, &shorts, sizeof shorts);
#endif
}
inline void store_one(float* to, float value) { *to = value; }
inline void store_one(BFloat16* to, float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  to->bits = value == value ? static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) : 0x7fc0;
}

// So many vectors side by side do not wait for each other, and what belongs to their lanes stays in registers.
template <int kCount>
struct Side {
  static constexpr int count = kCount;
};

template <int kCount>
struct Vectors {
  Floats of[kCount];

  explicit Vectors(const float* from) {
    for (int i = 0; i < kCount; ++i) of[i] = load(from + i * kWidth);
  }
  void store_to(float* to) const {
    for (int i = 0; i < kCount; ++i) store(to + i * kWidth, of[i]);
  }
};

// `block(side, lane, begin, end)` for vectors of lanes and the elements from `begin` to `end`, whole periods, in pieces
// that stay in the nearest cache; `single(i, lane)` for what is left over at the end.
template <class Block, class Single>
inline void for_lanes(int64_t elements, int64_t period, const Block& block, const Single& single) {
  constexpr int64_t kPiece = 4096;
  const int64_t whole = elements / period * period, piece = kPiece > period ? kPiece / period * period : period;
  for (int64_t begin = 0; begin < whole; begin += piece) {
    const int64_t end = begin + piece < whole ? begin + piece : whole;
    int64_t lane = 0;
    for (; lane + 4 * kWidth <= period; lane += 4 * kWidth) block(Side<4>(), lane, begin, end);
    for (; lane < period; lane += kWidth) block(Side<1>(), lane, begin, end);
  }
  for (int64_t i = whole; i < elements; ++i) single(i, i - whole);
}

template <class T>
inline void channel_sums_of(const T* x, int64_t elements, int64_t period, const float* shift, float* sums,
                            float* squares) {
  for_lanes(
      elements, period,
      [&](auto side, int64_t lane, int64_t begin, int64_t end) {
        constexpr int count = decltype(side)::count;
        const Vectors<count> shifts(shift + lane);
        Vectors<count> a(sums + lane), b(squares + lane);
        for (int64_t i = begin + lane; i < end; i += period)
          for (int v = 0; v < count; ++v) {
            const Floats value = load(x + i + v * kWidth) - shifts.of[v];
            a.of[v] += value;
            b.of[v] += value * value;
          }
        a.store_to(sums + lane);
        b.store_to(squares + lane);
      },
      [&](int64_t i, int64_t lane) {
        const float value = value_of(x[i]) - shift[lane];
        sums[lane] += value;
        squares[lane] += value * value;
      });
}

// The gradient before a ReLU of x * scale + offset, if kRectified: zero where that is not above zero, NaN kept.
template <bool kRectified>
inline Floats before_relu(Floats dy, Floats x, Floats scale, Floats offset) {
  return kRectified ? select(x * scale + offset <= 0.0f, Floats{}, dy) : dy;
}
template <bool kRectified>
inline float before_relu(float dy, float x, float scale, float offset) {
  return kRectified && x * scale + offset <= 0.0f ? 0.0f : dy;
}

template <bool kRectified, class T>
inline void gradient_sums_of(const T* dy, const T* x, int64_t elements, int64_t period, const float* mean,
                             const float* scale, const float* offset, float* sums, float* products) {
  for_lanes(
      elements, period,
      [&](auto side, int64_t lane, int64_t begin, int64_t end) {
        constexpr int count = decltype(side)::count;
        const Vectors<count> means(mean + lane), scales(scale + lane), offsets(offset + lane);
        Vectors<count> a(sums + lane), b(products + lane);
        for (int64_t i = begin + lane; i < end; i += period)
          for (int v = 0; v < count; ++v) {
            const Floats value = load(x + i + v * kWidth);
            const Floats gradient =
                before_relu<kRectified>(load(dy + i + v * kWidth), value, scales.of[v], offsets.of[v]);
            a.of[v] += gradient;
            b.of[v] += gradient * (value - means.of[v]);
          }
        a.store_to(sums + lane);
        b.store_to(products + lane);
      },
      [&](int64_t i, int64_t lane) {
        const float value = value_of(x[i]);
        const float gradient = before_relu<kRectified>(value_of(dy[i]), value, scale[lane], offset[lane]);
        sums[lane] += gradient;
        products[lane] += gradient * (value - mean[lane]);
      });
}

// The same where y is kept, and the gradient before the ReLU is wanted.
template <class T>
inline void kept_gradient_sums_of(const T* dy, const T* y, const T* x, int64_t elements, int64_t period,
                                  const float* mean, T* gradients, float* sums, float* products) {
  for_lanes(
      elements, period,
      [&](auto side, int64_t lane, int64_t begin, int64_t end) {
        constexpr int count = decltype(side)::count;
        const Vectors<count> means(mean + lane);
        Vectors<count> a(sums + lane), b(products + lane);
        for (int64_t i = begin + lane; i < end; i += period)
          for (int v = 0; v < count; ++v) {
            const int64_t at = i + v * kWidth;
            const Floats gradient = select(load(y + at) <= 0.0f, Floats{}, load(dy + at));
            store(gradients + at, gradient);
            a.of[v] += gradient;
            b.of[v] += gradient * (load(x + at) - means.of[v]);
          }
        a.store_to(sums + lane);
        b.store_to(products + lane);
      },
      [&](int64_t i, int64_t lane) {
        const float gradient = value_of(y[i]) <= 0.0f ? 0.0f : value_of(dy[i]);
        store_one(gradients + i, gradient);
        sums[lane] += gradient;
        products[lane] += gradient * (value_of(x[i]) - mean[lane]);
      });
}

template <bool kRectified, bool kAdded, class T>
inline void scale_channels_of(const T* x, const T* added, int64_t elements, int64_t period, const float* scale,
                              const float* offset, T* y) {
  for_lanes(
      elements, period,
      [&](auto side, int64_t lane, int64_t begin, int64_t end) {
        constexpr int count = decltype(side)::count;
        const Vectors<count> scales(scale + lane), offsets(offset + lane);
        for (int64_t i = begin + lane; i < end; i += period)
          for (int v = 0; v < count; ++v) {
            const int64_t at = i + v * kWidth;
            Floats value = load(x + at) * scales.of[v] + offsets.of[v];
            if constexpr (kAdded) value += load(added + at);
            store(y + at, kRectified ? select(value <= 0.0f, Floats{}, value) : value);
          }
      },
      [&](int64_t i, int64_t lane) {
        float value = value_of(x[i]) * scale[lane] + offset[lane];
        if (kAdded) value += value_of(added[i]);
        store_one(y + i, kRectified && value <= 0.0f ? 0.0f : value);
      });
}

template <bool kRectified, class T>
inline void combine_channels_of(const T* dy, const T* x, int64_t elements, int64_t period, const float* of_dy,
                                const float* of_x, const float* shift, const float* scale, const float* offset, T* dx) {
  for_lanes(
      elements, period,
      [&](auto side, int64_t lane, int64_t begin, int64_t end) {
        constexpr int count = decltype(side)::count;
        const Vectors<count> a(of_dy + lane), b(of_x + lane), c(shift + lane), scales(scale + lane),
            offsets(offset + lane);
        for (int64_t i = begin + lane; i < end; i += period)
          for (int v = 0; v < count; ++v) {
            const int64_t at = i + v * kWidth;
            const Floats value = load(x + at);
            const Floats gradient = before_relu<kRectified>(load(dy + at), value, scales.of[v], offsets.of[v]);
            store(dx + at, gradient * a.of[v] + (value * b.of[v] + c.of[v]));
          }
      },
      [&](int64_t i, int64_t lane) {
        const float value = value_of(x[i]);
        const float gradient = before_relu<kRectified>(value_of(dy[i]), value, scale[lane], offset[lane]);
        store_one(dx + i, gradient * of_dy[lane] + (value * of_x[lane] + shift[lane]));
      });
}

inline void channel_sums(const void* x, Element element, int64_t elements, int64_t period, const float* shift,
                         float* sums, float* squares) {
  if (element == Element::float32)
    channel_sums_of(static_cast<const float*>(x), elements, period, shift, sums, squares);
  else
    channel_sums_of(static_cast<const BFloat16*>(x), elements, period, shift, sums, squares);
}

template <class T>
inline void gradient_sums_in(const void* dy, const void* y, const void* x, int64_t elements, int64_t period,
                             const float* mean, const float* scale, const float* offset, void* gradients, float* sums,
                             float* products) {
  const T *from = static_cast<const T*>(dy), *input = static_cast<const T*>(x);
  if (y != nullptr)
    kept_gradient_sums_of(from, static_cast<const T*>(y), input, elements, period, mean, static_cast<T*>(gradients),
                          sums, products);
  else if (scale != nullptr)
    gradient_sums_of<true>(from, input, elements, period, mean, scale, offset, sums, products);
  else
    gradient_sums_of<false>(from, input, elements, period, mean, mean, mean, sums, products);
}

inline void gradient_sums(const void* dy, const void* y, const void* x, Element element, int64_t elements,
                          int64_t period, const float* mean, const float* scale, const float* offset, void* gradients,
                          float* sums, float* products) {
  (element == Element::float32 ? gradient_sums_in<float> : gradient_sums_in<BFloat16>)(dy, y, x, elements, period, mean,
                                                                                       scale, offset, gradients, sums,
                                                                                       products);
}

template <class T>
inline void scale_channels_in(const void* x, const void* added, bool rectified, int64_t elements, int64_t period,
                              const float* scale, const float* offset, void* y) {
  const T *from = static_cast<const T*>(x), *other = static_cast<const T*>(added);
  T* to = static_cast<T*>(y);
  if (added != nullptr)
    scale_channels_of<true, true>(from, other, elements, period, scale, offset, to);
  else if (rectified)
    scale_channels_of<true, false>(from, other, elements, period, scale, offset, to);
  else
    scale_channels_of<false, false>(from, other, elements, period, scale, offset, to);
}

inline void scale_channels(const void* x, const void* added, bool rectified, Element element, int64_t elements,
                           int64_t period, const float* scale, const float* offset, void* y) {
  (element == Element::float32 ? scale_channels_in<float> : scale_channels_in<BFloat16>)(x, added, rectified, elements,
                                                                                         period, scale, offset, y);
}

template <class T>
inline void combine_channels_in(const void* dy, const void* x, int64_t elements, int64_t period, const float* of_dy,
                                const float* of_x, const float* shift, const float* scale, const float* offset,
                                void* dx) {
  const T *from = static_cast<const T*>(dy), *input = static_cast<const T*>(x);
  T* to = static_cast<T*>(dx);
  if (scale != nullptr)
    combine_channels_of<true>(from, input, elements, period, of_dy, of_x, shift, scale, offset, to);
  else
    combine_channels_of<false>(from, input, elements, period, of_dy, of_x, shift, shift, shift, to);
}

inline void combine_channels(const void* dy, const void* x, Element element, int64_t elements, int64_t period,
                             const float* of_dy, const float* of_x, const float* shift, const float* scale,
                             const float* offset, void* dx) {
  (element == Element::float32 ? combine_channels_in<float> : combine_channels_in<BFloat16>)(dy, x, elements, period,
                                                                                             of_dy, of_x, shift, scale,
                                                                                             offset, dx);
}
