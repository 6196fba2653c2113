// Batches of images, ready for a network: gathered, cropped, flipped and normalised in one pass.
#pragma once

#include <cstdint>

namespace prunefuse::cpu {

struct ImageBatch {
  const uint8_t* images;  // [count, channels, height, width]
  int64_t channels, height, width;
  const int64_t* rows;  // which images
  // The random crop and flip of each row; null for none. An image has `padding` black pixels on each side before it is
  // cropped to its own size at (tops, lefts).
  const int64_t* tops;
  const int64_t* lefts;
  const bool* flips;
  int64_t padding;
};

// Rows begin to end of the batch into `to`, [rows, height, width, channels]: levels[channel, grey level] for each
// pixel.
template <class T>
void gather_images(const ImageBatch& batch, const T* levels, int64_t begin, int64_t end, T* to);

}  // namespace prunefuse::cpu
