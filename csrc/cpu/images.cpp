#include "images.h"

#include <algorithm>

namespace prunefuse::cpu {
namespace {

constexpr int64_t kLevels = 256;

// Pixels of one line, from `first` on; `step` is -1 for a flipped image. With `kChannels` known, the loop is unrolled.
template <int kChannels, class T>
void gather_line(const uint8_t* first, int64_t step, int64_t plane, int64_t pixels, int64_t channels, const T* levels,
                 T* to) {
  const int64_t count = kChannels > 0 ? kChannels : channels;
  for (int64_t x = 0; x < pixels; ++x, first += step, to += count)
    for (int64_t c = 0; c < count; ++c) to[c] = levels[c * kLevels + first[c * plane]];
}

template <class T>
void fill_black(int64_t pixels, int64_t channels, const T* levels, T* to) {
  for (int64_t x = 0; x < pixels; ++x)
    for (int64_t c = 0; c < channels; ++c) *to++ = levels[c * kLevels];
}

}  // namespace

template <class T>
void gather_images(const ImageBatch& batch, const T* levels, int64_t begin, int64_t end, T* to) {
  const int64_t channels = batch.channels, height = batch.height, width = batch.width, plane = height * width;
  const auto line = channels == 3 ? gather_line<3, T> : channels == 1 ? gather_line<1, T> : gather_line<0, T>;
  for (int64_t row = begin; row < end; ++row) {
    const uint8_t* image = batch.images + batch.rows[row] * channels * plane;
    const int64_t top = batch.tops ? batch.tops[row] - batch.padding : 0;
    const int64_t left = batch.lefts ? batch.lefts[row] - batch.padding : 0;
    const bool flip = batch.flips && batch.flips[row];
    // Columns of the crop that lie inside the image.
    const int64_t from = std::clamp<int64_t>(-left, 0, width), until = std::clamp<int64_t>(width - left, 0, width);
    for (int64_t y = 0; y < height; ++y) {
      T* target = to + (row * height + y) * width * channels;
      const int64_t source = y + top;
      if (source < 0 || source >= height || from >= until) {
        fill_black(width, channels, levels, target);
        continue;
      }
      const uint8_t* pixels = image + source * width + left;
      if (flip) {
        fill_black(width - until, channels, levels, target);
        line(pixels + until - 1, -1, plane, until - from, channels, levels, target + (width - until) * channels);
        fill_black(from, channels, levels, target + (width - from) * channels);
      } else {
        fill_black(from, channels, levels, target);
        line(pixels + from, 1, plane, until - from, channels, levels, target + from * channels);
        fill_black(width - until, channels, levels, target + until * channels);
      }
    }
  }
}

template void gather_images(const ImageBatch&, const float*, int64_t, int64_t, float*);
template void gather_images(const ImageBatch&, const uint16_t*, int64_t, int64_t, uint16_t*);

}  // namespace prunefuse::cpu
