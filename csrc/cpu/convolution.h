// Convolutions in training on what multiplies bfloat16 numbers (AMX or AVX512-BF16): forward, and gradients by input
// and by weight.
//
// Images and their gradients are bfloat16 [images, height, width, channels], weights float32 [channels out, kernel,
// kernel, channels in], rounded to bfloat16 here; sums are float32. What is summed in which order depends on the shape
// alone, so results are the same bits for any number of threads. What is not finite stays so, and an infinity can make
// NaN of neighbouring outputs, whose weights for it are zero.
#pragma once

#include <cstdint>
#include <string>

#include "parallel.h"

namespace prunefuse::cpu {

// Padding kernel / 2; outputs are [images, (height - 1) / stride + 1, (width - 1) / stride + 1, channels out].
struct ConvolutionShape {
  int64_t images, height, width, channels_in, channels_out;
  int64_t kernel, stride;  // 1 or 3; 1 or 2
};

std::string fault_of(const ConvolutionShape& shape);  // what is wrong with it, or nothing

// All of these need can_run_chains().
void convolve(const ConvolutionShape& shape, const uint16_t* x, const float* weight, uint16_t* y,
              const Threads& threads);
void convolve_input_gradient(const ConvolutionShape& shape, const uint16_t* dy, const float* weight, uint16_t* dx,
                             const Threads& threads);
void convolve_weight_gradient(const ConvolutionShape& shape, const uint16_t* dy, const uint16_t* x, float* dweight,
                              const Threads& threads);

}  // namespace prunefuse::cpu
