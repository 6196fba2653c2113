// Whole convolutional networks, depth first: a few images go through all layers before the next ones begin, so that
// what passes between layers stays in the processor's own caches.
//
// A *picture* holds the activations of a few images side by side, bfloat16, channels together, with pixels of zeros
// around every image. So every tap of every output is at a fixed distance in memory, and no edge needs handling.
//
// Values must be finite: an infinity in one image can make a NaN in the one beside it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parallel.h"

namespace prunefuse::cpu {

struct Picture {
  int64_t channels, height, width;
  int64_t images;  // side by side
};

// relu(convolution(input) + bias + residual): 3x3 with one pixel of padding, or 1x1.
struct ChainLayer {
  int64_t input, output, residual;  // pictures; residual -1 for none, or the output itself
  int64_t kernel, stride;           // 3 or 1; 1 or 2
  int64_t relu;
  int64_t weights;  // where its tiles begin, see pack_weight
  int64_t biases;   // where its biases begin, one per output channel
};

struct Chain {
  std::vector<Picture> pictures;  // the first takes the images
  std::vector<ChainLayer> layers;
  int64_t averaged;  // the picture whose means over the pixels are the features
  const uint16_t* weights;
  int64_t weight_count;
  const float* biases;
  int64_t bias_count;
};

struct Geometry {
  int64_t channels_in, channels_out;  // 8 or a multiple of 16; 8 outputs of 8 inputs only
  int64_t kernel, stride;
};

std::string fault_of(const Geometry& geometry);  // what is wrong with it, or nothing

// Weights bfloat16 [channels_out, channels_in, kernel, kernel] as the tiles that a layer takes, and how many numbers.
int64_t weight_count(const Geometry& geometry);
void pack_weight(const Geometry& geometry, const uint16_t* weight, uint16_t* tiles);

// What is wrong with it, or nothing: a chain without fault reads and writes nothing but its own.
std::string fault_of(const Chain& chain);

// Whether this processor multiplies bfloat16 numbers (AMX or AVX512-BF16) and this process may use what does.
bool can_run_chains();

// Images bfloat16 [count, height, width, channels] -> features float32 [count, channels of the averaged picture].
void run_chain(const Chain& chain, const uint16_t* images, int64_t channels, int64_t count, float* features,
               const Threads& threads);

}  // namespace prunefuse::cpu
