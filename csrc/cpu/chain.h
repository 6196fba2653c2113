// Whole convolutional networks, depth first: a few images go through all layers before the next ones begin, so that
// what passes between layers stays in the processor's own caches.
//
// Values must be finite: an infinity in one image can make a NaN in the one beside it.
#pragma once

#include <cstdint>
#include <string>

#include "parallel.h"
#include "pictures.h"

namespace prunefuse::cpu {

struct Chain : Program {
  const uint16_t* weights;  // of each layer as pack_weight made them
  int64_t weight_count;
  const float* biases;
  int64_t bias_count;
};

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
