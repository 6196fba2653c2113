// Batch norm over tensors whose channels lie together, [pixels, channels]; included once per instruction set, inside
// its namespace. Element i belongs to lane i % period: the period is a multiple of the channels and of every vector
// width, so that narrow layers use whole vectors.

inline void store(BFloat16* to, Floats value) {
  Words bits = (Words)value;
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  bits = (Words)select(value == value, (Floats)bits, (Floats)(Words{} + 0x7fc0));
  const Shorts shorts = __builtin_convertvector(bits, Shorts);
  __builtin_memcpy(to, &shorts, sizeof shorts);
}
inline void store_one(float* to, float value) { *to = value; }
inline void store_one(BFloat16* to, float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  to->bits = value == value ? static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) : 0x7fc0;
}

// Both take a vector or a single number, so that what is left over at the end is computed like the rest.
template <class T, class Vector, class Single>
inline void for_lanes(int64_t elements, int64_t period, const Vector& vector, const Single& single) {
  int64_t first = 0;
  for (; first + period <= elements; first += period)
    for (int64_t lane = 0; lane < period; lane += kWidth) vector(first + lane, lane);
  for (int64_t i = first; i < elements; ++i) single(i, i - first);
}

template <class T>
inline void channel_sums_of(const T* x, int64_t elements, int64_t period, const float* shift, float* sums,
                            float* squares) {
  for_lanes<T>(
      elements, period,
      [&](int64_t i, int64_t lane) {
        const Floats value = load(x + i) - load(shift + lane);
        store(sums + lane, load(sums + lane) + value);
        store(squares + lane, load(squares + lane) + value * value);
      },
      [&](int64_t i, int64_t lane) {
        const float value = value_of(x[i]) - shift[lane];
        sums[lane] += value;
        squares[lane] += value * value;
      });
}

template <class T>
inline void gradient_sums_of(const T* dy, const T* x, int64_t elements, int64_t period, const float* mean, float* sums,
                             float* products) {
  for_lanes<T>(
      elements, period,
      [&](int64_t i, int64_t lane) {
        const Floats gradient = load(dy + i);
        store(sums + lane, load(sums + lane) + gradient);
        store(products + lane, load(products + lane) + gradient * (load(x + i) - load(mean + lane)));
      },
      [&](int64_t i, int64_t lane) {
        const float gradient = value_of(dy[i]);
        sums[lane] += gradient;
        products[lane] += gradient * (value_of(x[i]) - mean[lane]);
      });
}

template <class T>
inline void scale_channels_of(const T* x, int64_t elements, int64_t period, const float* scale, const float* offset,
                              T* y) {
  for_lanes<T>(
      elements, period,
      [&](int64_t i, int64_t lane) { store(y + i, load(x + i) * load(scale + lane) + load(offset + lane)); },
      [&](int64_t i, int64_t lane) { store_one(y + i, value_of(x[i]) * scale[lane] + offset[lane]); });
}

template <class T>
inline void combine_channels_of(const T* dy, const T* x, int64_t elements, int64_t period, const float* of_dy,
                                const float* of_x, const float* offset, T* dx) {
  for_lanes<T>(
      elements, period,
      [&](int64_t i, int64_t lane) {
        store(dx + i, load(dy + i) * load(of_dy + lane) + (load(x + i) * load(of_x + lane) + load(offset + lane)));
      },
      [&](int64_t i, int64_t lane) {
        store_one(dx + i, value_of(dy[i]) * of_dy[lane] + (value_of(x[i]) * of_x[lane] + offset[lane]));
      });
}

inline void channel_sums(const void* x, Element element, int64_t elements, int64_t period, const float* shift,
                         float* sums, float* squares) {
  if (element == Element::float32)
    channel_sums_of(static_cast<const float*>(x), elements, period, shift, sums, squares);
  else
    channel_sums_of(static_cast<const BFloat16*>(x), elements, period, shift, sums, squares);
}

inline void gradient_sums(const void* dy, const void* x, Element element, int64_t elements, int64_t period,
                          const float* mean, float* sums, float* products) {
  if (element == Element::float32)
    gradient_sums_of(static_cast<const float*>(dy), static_cast<const float*>(x), elements, period, mean, sums,
                     products);
  else
    gradient_sums_of(static_cast<const BFloat16*>(dy), static_cast<const BFloat16*>(x), elements, period, mean, sums,
                     products);
}

inline void scale_channels(const void* x, Element element, int64_t elements, int64_t period, const float* scale,
                           const float* offset, void* y) {
  if (element == Element::float32)
    scale_channels_of(static_cast<const float*>(x), elements, period, scale, offset, static_cast<float*>(y));
  else
    scale_channels_of(static_cast<const BFloat16*>(x), elements, period, scale, offset, static_cast<BFloat16*>(y));
}

inline void combine_channels(const void* dy, const void* x, Element element, int64_t elements, int64_t period,
                             const float* of_dy, const float* of_x, const float* offset, void* dx) {
  if (element == Element::float32)
    combine_channels_of(static_cast<const float*>(dy), static_cast<const float*>(x), elements, period, of_dy, of_x,
                        offset, static_cast<float*>(dx));
  else
    combine_channels_of(static_cast<const BFloat16*>(dy), static_cast<const BFloat16*>(x), elements, period, of_dy,
                        of_x, offset, static_cast<BFloat16*>(dx));
}
