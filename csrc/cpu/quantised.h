// Whole convolutional networks in 8 bits, depth first as in chain.h: for looking through a pool quickly, where who is
// near the threshold is looked at again. Activations are unsigned bytes, weights signed ones, sums whole numbers.
//
// A layer stores clamp(round(sum * scale + offset + residual * gain), 0, 255), with a scale, an offset and a gain of
// its own for every output channel; what is not a number is stored as 0. What ReLU did not end is stored off by 128,
// which the offsets of the layers that add it take back; 3x3 layers must not read it, since there are zeros around it.
#pragma once

#include <cstdint>
#include <string>

#include "parallel.h"
#include "pictures.h"

namespace prunefuse::cpu {

struct QuantisedChain : Program {  // `relu` of its layers says nothing: the clamping is one; as many images everywhere
  const int8_t* weights;           // of each layer [channels_out, channels_in, kernel, kernel]
  int64_t weight_count;
  const float* factors;  // [3, factor_count]: scale, offset, gain; a layer's begin at its `biases`
  int64_t factor_count;
};

// What is wrong with it, or nothing: a chain without fault reads and writes nothing but its own.
std::string fault_of(const QuantisedChain& chain);

// Whether this processor multiplies bytes faster (AVX512-VNNI) than all else that it has.
bool can_run_quantised_chains();

// Images uint8 [count, channels, height, width] -> means float32 [count, channels of the averaged picture], in units of
// its bytes. Around an image, a channel has the value that `around` [channels] gives it.
void run_quantised_chain(const QuantisedChain& chain, const uint8_t* images, int64_t channels, const uint8_t* around,
                         int64_t count, float* means, const Threads& threads);

}  // namespace prunefuse::cpu
