// Batch norm in training, forward and backward, on [pixels, channels]. Sums are taken in blocks that do not depend on
// the number of threads, so neither do the results.
#pragma once

#include "kernels.h"
#include "parallel.h"

namespace prunefuse::cpu {

struct Pixels {
  Element element;  // float32 or bfloat16
  int64_t count;
  int64_t channels;
};

// Mean and 1 / sqrt(variance + epsilon) of each channel, variance over all pixels without correction.
void batch_statistics(const Pixels& shape, const void* x, float epsilon, float* mean, float* variance,
                      float* inverse_deviation, const Threads& threads);

// By channel, float32.
struct Parameters {
  const float *mean, *inverse_deviation, *weight, *bias;
};

enum class Rectified { no, yes, with_added };

// y = (x - mean) * inverse_deviation * weight + bias, or the ReLU of that, or of that and `added`.
void normalise(const Pixels& shape, const void* x, const Parameters& parameters, Rectified rectified, const void* added,
               void* y, const Threads& threads);

// Gradients by x, weight and bias from the gradient by y, and that by `added`. Both y and `dadded` are used with
// `added` only, the bias with a ReLU only.
void normalise_backward(const Pixels& shape, const void* dy, const void* x, const void* y, const Parameters& parameters,
                        Rectified rectified, void* dx, void* dadded, float* dweight, float* dbias,
                        const Threads& threads);

}  // namespace prunefuse::cpu
