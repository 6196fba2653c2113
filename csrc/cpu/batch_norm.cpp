#include "batch_norm.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace prunefuse::cpu {
namespace {

constexpr int64_t kLanes = 64;  // a period has at least so many: sums side by side do not wait for each other
constexpr int64_t kBlockElements = 1 << 15;  // of one block of sums, about

// A multiple of the channels and of every vector width.
int64_t period_of(int64_t channels) {
  int64_t period = std::lcm(channels, int64_t{16});
  while (period < kLanes) period *= 2;
  return period;
}

std::vector<float> repeated(const float* values, int64_t channels, int64_t period) {
  std::vector<float> lanes(static_cast<size_t>(period));
  for (int64_t i = 0; i < period; ++i) lanes[static_cast<size_t>(i)] = values[i % channels];
  return lanes;
}

int64_t bytes_of(Element element) { return element == Element::float32 ? 4 : 2; }

const char* at(const void* tensor, const Pixels& shape, int64_t index) {
  return static_cast<const char*>(tensor) + index * bytes_of(shape.element);
}

float value_at(const void* tensor, const Pixels& shape, int64_t index) {
  if (shape.element == Element::float32) return static_cast<const float*>(tensor)[index];
  return same_bits<float>(static_cast<uint32_t>(static_cast<const uint16_t*>(tensor)[index]) << 16);
}

// Two sums for each channel: `run(first, elements, lanes_a, lanes_b)` adds a block's elements to its lanes.
template <class Run>
void sum_blocks(const Pixels& shape, int64_t period, const Threads& threads, const Run& run, std::vector<double>& a,
                std::vector<double>& b) {
  const int64_t elements = shape.count * shape.channels;
  const int64_t block = std::max<int64_t>(1, kBlockElements / period) * period;
  const int64_t blocks = (elements + block - 1) / block;
  std::vector<float> lanes(static_cast<size_t>(2 * period * blocks), 0.0f);
  threads.parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* own = lanes.data() + 2 * period * i;
      run(i * block, std::min(block, elements - i * block), own, own + period);
    }
  });
  a.assign(static_cast<size_t>(shape.channels), 0.0);
  b.assign(static_cast<size_t>(shape.channels), 0.0);
  for (int64_t i = 0; i < blocks; ++i) {
    const float* own = lanes.data() + 2 * period * i;
    for (int64_t lane = 0; lane < period; ++lane) {
      a[static_cast<size_t>(lane % shape.channels)] += own[lane];
      b[static_cast<size_t>(lane % shape.channels)] += own[period + lane];
    }
  }
}

// `run(first, elements)` over all elements, in parts that begin with channel 0.
template <class Run>
void for_parts(const Pixels& shape, int64_t period, const Threads& threads, const Run& run) {
  const int64_t elements = shape.count * shape.channels, periods = (elements + period - 1) / period;
  threads.parallel_for(periods, std::max<int64_t>(1, kBlockElements / period), [&](int64_t begin, int64_t end) {
    run(begin * period, std::min(end * period, elements) - begin * period);
  });
}

}  // namespace

void batch_statistics(const Pixels& shape, const void* x, float epsilon, float* mean, float* variance,
                      float* inverse_deviation, const Threads& threads) {
  const int64_t channels = shape.channels, period = period_of(channels);
  // Differences from one pixel: a mean far from zero would cost the variance its digits.
  std::vector<float> first(static_cast<size_t>(channels));
  for (int64_t c = 0; c < channels; ++c) first[static_cast<size_t>(c)] = value_at(x, shape, c);
  const std::vector<float> shift = repeated(first.data(), channels, period);
  std::vector<double> sums, squares;
  sum_blocks(
      shape, period, threads,
      [&](int64_t begin, int64_t elements, float* a, float* b) {
        kernels().channel_sums(at(x, shape, begin), shape.element, elements, period, shift.data(), a, b);
      },
      sums, squares);
  const double count = static_cast<double>(shape.count);
  for (int64_t c = 0; c < channels; ++c) {
    const size_t i = static_cast<size_t>(c);
    const double from_first = sums[i] / count, spread = squares[i] / count - from_first * from_first;
    mean[c] = static_cast<float>(first[i] + from_first);
    variance[c] = static_cast<float>(spread > 0.0 || spread != spread ? spread : 0.0);
    inverse_deviation[c] = static_cast<float>(1.0 / std::sqrt(static_cast<double>(variance[c]) + epsilon));
  }
}

namespace {

// y = x * scale + offset, by lane.
struct Line {
  std::vector<float> scales, offsets;
};

Line line_of(const Pixels& shape, const Parameters& of, int64_t period) {
  std::vector<float> scale(static_cast<size_t>(shape.channels)), offset(scale);
  for (int64_t c = 0; c < shape.channels; ++c) {
    const size_t i = static_cast<size_t>(c);
    scale[i] = of.weight[c] * of.inverse_deviation[c];
    offset[i] = of.bias[c] - of.mean[c] * scale[i];
  }
  return {repeated(scale.data(), shape.channels, period), repeated(offset.data(), shape.channels, period)};
}

}  // namespace

void normalise(const Pixels& shape, const void* x, const Parameters& parameters, Rectified rectified, const void* added,
               void* y, const Threads& threads) {
  const int64_t period = period_of(shape.channels);
  const Line line = line_of(shape, parameters, period);
  for_parts(shape, period, threads, [&](int64_t begin, int64_t elements) {
    kernels().scale_channels(at(x, shape, begin), added == nullptr ? nullptr : at(added, shape, begin),
                             rectified != Rectified::no, shape.element, elements, period, line.scales.data(),
                             line.offsets.data(), const_cast<char*>(at(y, shape, begin)));
  });
}

void normalise_backward(const Pixels& shape, const void* dy, const void* x, const void* y, const Parameters& parameters,
                        Rectified rectified, void* dx, void* dadded, float* dweight, float* dbias,
                        const Threads& threads) {
  const int64_t channels = shape.channels, period = period_of(channels);
  const std::vector<float> means = repeated(parameters.mean, channels, period);
  const Line line = rectified == Rectified::yes ? line_of(shape, parameters, period) : Line{};
  const float *scales = rectified == Rectified::yes ? line.scales.data() : nullptr, *offsets = line.offsets.data();
  const bool kept = rectified == Rectified::with_added;
  std::vector<double> sums, products;
  sum_blocks(
      shape, period, threads,
      [&](int64_t begin, int64_t elements, float* a, float* b) {
        kernels().gradient_sums(at(dy, shape, begin), kept ? at(y, shape, begin) : nullptr, at(x, shape, begin),
                                shape.element, elements, period, means.data(), scales, offsets,
                                kept ? const_cast<char*>(at(dadded, shape, begin)) : nullptr, a, b);
      },
      sums, products);
  // dx = weight * inverse_deviation * (dy - mean of dy - normalised x * mean of (dy * normalised x))
  std::vector<float> of_dy(static_cast<size_t>(channels)), of_x(of_dy), offset(of_dy);
  const double count = static_cast<double>(shape.count);
  for (int64_t c = 0; c < channels; ++c) {
    const size_t i = static_cast<size_t>(c);
    const double inverse = parameters.inverse_deviation[c], factor = parameters.weight[c] * inverse;
    dbias[c] = static_cast<float>(sums[i]);
    dweight[c] = static_cast<float>(products[i] * inverse);
    const double slope = factor * inverse * inverse * products[i] / count;
    of_dy[i] = static_cast<float>(factor);
    of_x[i] = static_cast<float>(-slope);
    offset[i] = static_cast<float>(slope * parameters.mean[c] - factor * sums[i] / count);
  }
  const std::vector<float> a = repeated(of_dy.data(), channels, period), b = repeated(of_x.data(), channels, period),
                           c = repeated(offset.data(), channels, period);
  const void* gradient = kept ? dadded : dy;
  for_parts(shape, period, threads, [&](int64_t begin, int64_t elements) {
    kernels().combine_channels(at(gradient, shape, begin), at(x, shape, begin), shape.element, elements, period,
                               a.data(), b.data(), c.data(), scales, offsets, const_cast<char*>(at(dx, shape, begin)));
  });
}

}  // namespace prunefuse::cpu
