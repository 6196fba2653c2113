// The CPU kernels against plain code in double, without torch: for sanitizers and for other processors.
//
// Prints `ok NAME` or `FAIL NAME: why` per check; returns 1 if any failed.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/core/fusing.h"
#include "../../csrc/cpu/batch_norm.h"
#include "../../csrc/cpu/chain.h"
#include "../../csrc/cpu/convolution.h"
#include "../../csrc/cpu/kcenters.h"
#include "../../csrc/cpu/kernels.h"
#include "../../csrc/cpu/quantised.h"
#include "../../csrc/cpu/top_k.h"

namespace cpu = prunefuse::cpu;
using prunefuse::CommitteeKind;
using prunefuse::ScoreKind;

namespace {

bool all_passed = true;
std::mt19937 generator(0);

void report(const std::string& name, const std::string& why) {
  if (why.empty()) {
    std::printf("ok %s\n", name.c_str());
  } else {
    std::printf("FAIL %s: %s\n", name.c_str(), why.c_str());
    all_passed = false;
  }
}

std::vector<float> normal(size_t count, float deviation = 1.0f) {
  std::normal_distribution<float> draw(0.0f, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = draw(generator);
  return values;
}

uint16_t to_bfloat16(float value) { return static_cast<uint16_t>(prunefuse::same_bits<uint32_t>(value) >> 16); }
float from_bfloat16(uint16_t bits) { return prunefuse::same_bits<float>(static_cast<uint32_t>(bits) << 16); }

std::vector<double> softmax(const float* logits, int64_t classes) {
  const double top = *std::max_element(logits, logits + classes);
  std::vector<double> p(static_cast<size_t>(classes));
  double sum = 0.0;
  for (int64_t c = 0; c < classes; ++c) sum += p[c] = std::exp(logits[c] - top);
  for (double& value : p) value /= sum;
  return p;
}

double entropy(const std::vector<double>& p) {
  double sum = 0.0;
  for (double value : p) sum -= value > 0 ? value * std::log(value) : 0.0;
  return sum;
}

double expected_score(const float* logits, int64_t classes, ScoreKind kind) {
  std::vector<double> p = softmax(logits, classes);
  if (kind == ScoreKind::entropy) return entropy(p);
  std::sort(p.rbegin(), p.rend());
  return kind == ScoreKind::least_confidence ? 1 - p[0] : (classes > 1 ? p[1] : 0.0) - p[0];
}

void check_scores(int64_t classes) {
  constexpr int64_t rows = 37;
  std::vector<float> logits = normal(static_cast<size_t>(rows * classes), 6.0f);
  for (int64_t c = 0; c + 1 < classes; c += 2) logits[3 * classes + c] = -INFINITY;
  std::vector<uint16_t> halves(logits.size());
  std::vector<float> rounded(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) rounded[i] = from_bfloat16(halves[i] = to_bfloat16(logits[i]));
  std::vector<float> scores(rows);
  for (ScoreKind kind : {ScoreKind::least_confidence, ScoreKind::entropy, ScoreKind::margin}) {
    std::string why;
    const auto compare = [&](const std::vector<float>& exact) {
      for (int64_t row = 0; row < rows; ++row) {
        const double expected = expected_score(&exact[row * classes], classes, kind);
        if (!(std::abs(scores[row] - expected) <= 1e-5))
          why = "row " + std::to_string(row) + ": expected " + std::to_string(expected) + ", got " +
                std::to_string(scores[row]);
      }
    };
    cpu::kernels().score(logits.data(), cpu::Element::float32, rows, classes, kind, scores.data());
    compare(logits);
    cpu::kernels().score(halves.data(), cpu::Element::bfloat16, rows, classes, kind, scores.data());
    compare(rounded);
    report("score " + std::to_string(static_cast<int>(kind)) + " of " + std::to_string(classes) + " classes", why);
  }
  std::string why;
  for (float bad : {NAN, INFINITY}) {
    std::vector<float> spoiled = logits;
    spoiled[5 * classes + classes - 1] = bad;
    cpu::kernels().score(spoiled.data(), cpu::Element::float32, rows, classes, ScoreKind::entropy, scores.data());
    for (int64_t row = 0; row < rows; ++row)
      if (std::isnan(scores[row]) != (row == 5)) why = "row " + std::to_string(row);
  }
  report("unrankable rows of " + std::to_string(classes) + " classes", why);
}

void check_committee(int64_t classes) {
  constexpr int64_t members = 5, samples = 11;
  const std::vector<float> logits = normal(static_cast<size_t>(members * samples * classes), 4.0f);
  std::vector<char> scratch(cpu::kernels().committee_scratch_bytes(members, classes) + 64);
  void* aligned = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) & ~uintptr_t{63});
  std::vector<float> scores(samples);
  std::string why;
  cpu::kernels().score_committee(logits.data(), cpu::Element::float32, members, samples, classes, 0, samples,
                                 CommitteeKind::bald, scores.data(), aligned);
  for (int64_t sample = 0; sample < samples; ++sample) {
    std::vector<double> mean(static_cast<size_t>(classes), 0.0);
    double entropies = 0.0;
    for (int64_t member = 0; member < members; ++member) {
      const std::vector<double> p = softmax(&logits[(member * samples + sample) * classes], classes);
      for (int64_t c = 0; c < classes; ++c) mean[c] += p[c] / members;
      entropies += entropy(p) / members;
    }
    if (!(std::abs(scores[sample] - (entropy(mean) - entropies)) <= 1e-5)) why = "sample " + std::to_string(sample);
  }
  report("BALD of " + std::to_string(classes) + " classes", why);
}

void check_top_k() {
  std::string why;
  for (int64_t count : {1, 100, 5000}) {
    std::vector<float> scores(static_cast<size_t>(count));
    for (float& score : scores) score = static_cast<float>(static_cast<int>(generator() % 7)) - 3.0f;
    std::vector<int64_t> order(scores.size());
    for (int64_t i = 0; i < count; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
    for (int64_t k : {int64_t{0}, int64_t{1}, count / 2, count}) {
      std::vector<int64_t> positions(static_cast<size_t>(k));
      cpu::top_k(scores.data(), count, k, positions.data());
      if (!std::equal(positions.begin(), positions.end(), order.begin())) why = "k = " + std::to_string(k);
    }
  }
  report("top k", why);
}

const cpu::Threads two_threads = {2, [](int64_t count, int64_t, const cpu::Range& run) {
                                    std::thread first([&] { run(0, count / 2); });
                                    run(count / 2, count);
                                    first.join();
                                  }};

void check_kcenters(const std::string& name, const std::vector<float>& features, int64_t width, int64_t labeled,
                    int64_t k) {
  const int64_t rows = static_cast<int64_t>(features.size()) / width;
  std::vector<int64_t> centers(static_cast<size_t>(labeled + k)), indices(static_cast<size_t>(k));
  for (int64_t i = 0; i < labeled; ++i) centers[i] = i * 3;
  std::vector<float> bounds(static_cast<size_t>(rows), INFINITY), radii(static_cast<size_t>(k));
  std::vector<int32_t> folded(static_cast<size_t>(rows), 0);
  cpu::KCentersState state = {labeled, centers.data(), bounds.data(), folded.data()};
  // In two parts: going on must change nothing.
  cpu::advance_kcenters(features.data(), cpu::Element::float32, rows, width, state, k / 3, indices.data(), radii.data(),
                        two_threads);
  cpu::advance_kcenters(features.data(), cpu::Element::float32, rows, width, state, k - k / 3, indices.data() + k / 3,
                        radii.data() + k / 3, two_threads);
  std::vector<double> nearest(static_cast<size_t>(rows), std::numeric_limits<double>::infinity());
  const auto add = [&](int64_t center) {
    for (int64_t row = 0; row < rows; ++row) {
      double sum = 0.0;
      for (int64_t c = 0; c < width; ++c) {
        const double difference = static_cast<double>(features[row * width + c]) - features[center * width + c];
        sum += difference * difference;
      }
      nearest[row] = std::min(nearest[row], sum);
    }
    nearest[center] = -1.0;
  };
  for (int64_t i = 0; i < labeled; ++i) add(i * 3);
  std::string why;
  for (int64_t pick = 0; pick < k && why.empty(); ++pick) {
    const double furthest = *std::max_element(nearest.begin(), nearest.end()), found = nearest[indices[pick]];
    if (found < 0 || (std::isfinite(furthest) && std::sqrt(found) < std::sqrt(furthest) * (1 - 1e-5)))
      why = "pick " + std::to_string(pick) + ": row " + std::to_string(indices[pick]);
    add(indices[pick]);
  }
  report("k-centers, " + name, why);
}

void check_draws() {
  // The known answer of Random123 for counter 0 and key 0, and quantiles of the normal distribution.
  std::string why;
  if (prunefuse::philox(0, 0).word[0] != 0x6627e8d5u) why = "Philox";
  const double quantiles[][2] = {{0.5, 0.0}, {0.975, 1.959963984540054}, {0.001, -3.090232306167813}};
  for (const auto& [p, z] : quantiles)
    if (!(std::abs(prunefuse::normal_quantile(static_cast<float>(p)) - z) < 1e-5)) why = "quantile";
  report("draws", why);
}

// relu(batch norm + added): y, and the gradients by x and by the bias.
void check_batch_norm(int64_t channels, cpu::Rectified rectified) {
  constexpr int64_t count = 531;
  const size_t size = static_cast<size_t>(count * channels), width = static_cast<size_t>(channels);
  const std::vector<float> x = normal(size, 3.0f), dy = normal(size), weight = normal(width), bias = normal(width);
  const std::vector<float> added = rectified == cpu::Rectified::with_added ? normal(size) : std::vector<float>(size);
  std::vector<float> mean(width), variance(width), inverse(width), y(size), dx(size), dadded(size), dweight(width),
      dbias(width);
  const cpu::Pixels shape = {cpu::Element::float32, count, channels};
  cpu::batch_statistics(shape, x.data(), 1e-5f, mean.data(), variance.data(), inverse.data(), two_threads);
  const cpu::Parameters parameters = {mean.data(), inverse.data(), weight.data(), bias.data()};
  cpu::normalise(shape, x.data(), parameters, rectified,
                 rectified == cpu::Rectified::with_added ? added.data() : nullptr, y.data(), two_threads);
  cpu::normalise_backward(shape, dy.data(), x.data(), y.data(), parameters, rectified, dx.data(), dadded.data(),
                          dweight.data(), dbias.data(), two_threads);
  std::string why;
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0.0, squares = 0.0, gradients = 0.0, products = 0.0;
    for (int64_t i = c; i < count * channels; i += channels) sum += x[i];
    const double middle = sum / count;
    for (int64_t i = c; i < count * channels; i += channels) squares += (x[i] - middle) * (x[i] - middle);
    const double deviation = std::sqrt(squares / count + 1e-5);
    const auto gradient = [&](int64_t i) { return rectified == cpu::Rectified::no || y[i] > 0 ? dy[i] : 0.0; };
    for (int64_t i = c; i < count * channels; i += channels) {
      const double before = (x[i] - middle) / deviation * weight[c] + bias[c] + added[i];
      const double wanted = rectified == cpu::Rectified::no ? before : std::max(before, 0.0);
      if (!(std::abs(y[i] - wanted) <= 1e-4)) why = "y";
      gradients += gradient(i);
      products += gradient(i) * (x[i] - middle) / deviation;
    }
    if (!(std::abs(dbias[c] - gradients) <= 1e-3 && std::abs(dweight[c] - products) <= 1e-3)) why = "dweight";
    for (int64_t i = c; i < count * channels; i += channels) {
      const double normalised = (x[i] - middle) / deviation;
      const double wanted = weight[c] / deviation * (gradient(i) - gradients / count - normalised * products / count);
      if (!(std::abs(dx[i] - wanted) <= 1e-4)) why = "dx";
    }
  }
  report("batch norm of " + std::to_string(channels), why);
}

// Forward and both gradients: y, dx and dw of the same three sums. Where there are no such units, nothing to check.
void check_convolution(const cpu::ConvolutionShape& shape) {
  const int64_t k = shape.kernel, s = shape.stride, in = shape.channels_in, out = shape.channels_out;
  const int64_t height = (shape.height - 1) / s + 1, width = (shape.width - 1) / s + 1;
  const std::string name = "convolution " + std::to_string(shape.width) + ", " + std::to_string(in) + " to " +
                           std::to_string(out) + ", stride " + std::to_string(s);
  if (!cpu::can_run_chains()) return report(name, "");
  const auto rounded = [](size_t count, std::vector<uint16_t>& bits) {
    std::vector<float> values = normal(count);
    bits.resize(count);
    for (size_t i = 0; i < count; ++i) values[i] = from_bfloat16(bits[i] = to_bfloat16(values[i]));
    return values;
  };
  std::vector<uint16_t> x_bits, dy_bits, w_bits;
  const std::vector<float> x = rounded(static_cast<size_t>(shape.images * shape.height * shape.width * in), x_bits),
                           dy = rounded(static_cast<size_t>(shape.images * height * width * out), dy_bits),
                           w = rounded(static_cast<size_t>(out * k * k * in), w_bits);
  std::vector<double> y(dy.size()), dx(x.size()), dw(w.size());
  for (int64_t n = 0; n < shape.images; ++n)
    for (int64_t a = 0; a < height; ++a)
      for (int64_t b = 0; b < width; ++b)
        for (int64_t tap = 0; tap < k * k; ++tap) {
          const int64_t row = a * s + tap / k - k / 2, column = b * s + tap % k - k / 2;
          if (row < 0 || row >= shape.height || column < 0 || column >= shape.width) continue;
          for (int64_t o = 0; o < out; ++o)
            for (int64_t i = 0; i < in; ++i) {
              const int64_t from = ((n * shape.height + row) * shape.width + column) * in + i,
                            to = ((n * height + a) * width + b) * out + o, weight = (o * k * k + tap) * in + i;
              y[to] += static_cast<double>(x[from]) * w[weight];
              dx[from] += static_cast<double>(dy[to]) * w[weight];
              dw[weight] += static_cast<double>(dy[to]) * x[from];
            }
        }
  std::vector<uint16_t> found_y(y.size()), found_dx(dx.size());
  std::vector<float> found_dw(dw.size());
  cpu::convolve(shape, x_bits.data(), w.data(), found_y.data(), two_threads);
  cpu::convolve_input_gradient(shape, dy_bits.data(), w.data(), found_dx.data(), two_threads);
  cpu::convolve_weight_gradient(shape, dy_bits.data(), x_bits.data(), found_dw.data(), two_threads);
  std::string why;
  const auto compare = [&](const char* what, double found, double wanted) {
    if (!(std::abs(found - wanted) <= 0.004 * std::abs(wanted) + 1e-3)) why = what;
  };
  for (size_t i = 0; i < y.size(); ++i) compare("y", from_bfloat16(found_y[i]), y[i]);
  for (size_t i = 0; i < dx.size(); ++i) compare("dx", from_bfloat16(found_dx[i]), dx[i]);
  for (size_t i = 0; i < dw.size(); ++i) compare("dw", found_dw[i], dw[i]);
  report(name, why);
}

// Five layers in 8 bits, the third added to what the second has stored, the fourth at every other pixel; all factors
// are powers of two, so that nothing but the means is rounded. Where there are no such products, nothing to check.
void check_quantised_chain(int64_t channels, int64_t height, int64_t width, int64_t count) {
  const std::string name = "chain of " + std::to_string(channels) + " channels in 8 bits";
  if (!cpu::can_run_quantised_chains()) return report(name, "");
  const int64_t colours = 3, first = 8, pixels = height * width;
  const cpu::Picture whole = {channels, height, width, 4}, half = {channels, (height + 1) / 2, (width + 1) / 2, 4};
  cpu::QuantisedChain chain;
  chain.pictures = {{first, height, width, 4}, whole, whole, half, half};
  chain.layers = {{0, 1, -1, 3, 1, 1, 0, 0},
                  {0, 2, -1, 3, 1, 1, 0, 0},
                  {1, 2, 2, 3, 1, 1, 0, 0},
                  {2, 3, -1, 3, 2, 1, 0, 0},
                  {3, 4, -1, 3, 1, 1, 0, 0}};
  chain.averaged = 4;
  chain.weight_count = 0;
  for (size_t l = 0; l < 5; ++l) {
    chain.layers[l].weights = chain.weight_count;
    chain.layers[l].biases = static_cast<int64_t>(l) * channels;
    chain.weight_count += channels * (l < 2 ? first : channels) * 9;
  }
  chain.factor_count = 5 * channels;
  const auto draw = [](int least, int most) { return std::uniform_int_distribution<int>(least, most)(generator); };
  std::vector<int8_t> weights(static_cast<size_t>(chain.weight_count));
  for (int8_t& weight : weights) weight = static_cast<int8_t>(draw(-127, 127));
  std::vector<float> factors(static_cast<size_t>(3 * chain.factor_count));
  for (int64_t i = 0; i < chain.factor_count; ++i) {
    factors[i] = std::ldexp(1.0f, -draw(9, 12));
    factors[chain.factor_count + i] = static_cast<float>(draw(-100, 200)) / 2;
    factors[2 * chain.factor_count + i] = std::ldexp(1.0f, -draw(0, 2));
  }
  chain.weights = weights.data();
  chain.factors = factors.data();
  std::vector<uint8_t> images(static_cast<size_t>(count * colours * pixels)), around(colours);
  for (uint8_t& pixel : images) pixel = static_cast<uint8_t>(draw(0, 255));
  for (uint8_t& pixel : around) pixel = static_cast<uint8_t>(draw(0, 255));
  std::string why = cpu::fault_of(chain);
  if (!why.empty()) return report(name, why);
  std::vector<float> means(static_cast<size_t>(count * channels));
  cpu::run_quantised_chain(chain, images.data(), colours, around.data(), count, means.data(), two_threads);

  using Values = std::vector<double>;  // [channels, rows, columns]
  const auto compute = [&](size_t l, const Values& values, const Values& outside, const Values* residual) {
    const cpu::ChainLayer& layer = chain.layers[l];
    const cpu::Picture &from = chain.pictures[layer.input], &to = chain.pictures[layer.output];
    Values found(static_cast<size_t>(channels * to.height * to.width));
    for (int64_t o = 0; o < channels; ++o)
      for (int64_t y = 0; y < to.height; ++y)
        for (int64_t x = 0; x < to.width; ++x) {
          double sum = 0;
          for (int64_t i = 0; i < from.channels; ++i)
            for (int64_t tap = 0; tap < 9; ++tap) {
              const int64_t row = y * layer.stride + tap / 3 - 1, column = x * layer.stride + tap % 3 - 1;
              const bool inside = 0 <= row && row < from.height && 0 <= column && column < from.width;
              sum += weights[layer.weights + (o * from.channels + i) * 9 + tap] *
                     (inside ? values[(i * from.height + row) * from.width + column] : outside[i]);
            }
          const int64_t at = (o * to.height + y) * to.width + x, factor = layer.biases + o;
          double value = sum * factors[factor] + factors[chain.factor_count + factor];
          if (residual != nullptr) value += (*residual)[at] * factors[2 * chain.factor_count + factor];
          found[at] = std::min(255.0, std::max(0.0, std::nearbyint(value)));
        }
    return found;
  };
  for (int64_t n = 0; n < count; ++n) {
    Values image(static_cast<size_t>(first * pixels)), mean(first);
    std::copy(around.begin(), around.end(), mean.begin());
    std::copy_n(images.begin() + n * colours * pixels, colours * pixels, image.begin());
    const Values zero(static_cast<size_t>(channels)),
        one = compute(0, image, mean, nullptr), two = compute(1, image, mean, nullptr),
        sum = compute(2, one, zero, &two), fourth = compute(3, sum, zero, nullptr),
        last = compute(4, fourth, zero, nullptr);
    const int64_t size = half.height * half.width;
    for (int64_t c = 0; c < channels; ++c) {
      double wanted = 0;
      for (int64_t i = 0; i < size; ++i) wanted += last[c * size + i] / static_cast<double>(size);
      if (!(std::abs(means[n * channels + c] - wanted) <= 1e-4)) why = "image " + std::to_string(n);
    }
  }
  report(name, why);
}

}  // namespace

int main() {
  const char* units[] = {"", " and bfloat16 vectors", " and bfloat16 matrix units"};
  std::printf("kernels: %s, %s%s\n", cpu::kernels().name, cpu::single_filter().name,
              units[static_cast<int>(cpu::bfloat16_units())]);
  for (int64_t classes : {1, 2, 10, 63, 64, 65, 100, 1000, 3000}) {
    check_scores(classes);
    check_committee(classes);
  }
  check_top_k();
  for (int64_t width : {1, 3, 16, 33, 70, 300})
    check_kcenters("width " + std::to_string(width), normal(static_cast<size_t>(611 * width)), width, 40, 90);
  check_kcenters("no center", normal(500 * 20), 20, 0, 60);
  check_kcenters("constant", std::vector<float>(300 * 5, 2.5f), 5, 2, 50);
  std::vector<float> far = normal(400 * 8);
  for (float& value : far) value += 1e4f;
  check_kcenters("far from the origin", far, 8, 10, 60);
  check_draws();
  for (int64_t channels : {1, 8, 24, 64, 100})
    for (cpu::Rectified rectified : {cpu::Rectified::no, cpu::Rectified::yes, cpu::Rectified::with_added})
      check_batch_norm(channels, rectified);
  for (const cpu::ConvolutionShape& shape :
       {cpu::ConvolutionShape{3, 9, 7, 8, 8, 3, 1}, cpu::ConvolutionShape{2, 6, 32, 16, 16, 3, 1},
        cpu::ConvolutionShape{5, 3, 5, 5, 13, 3, 2}, cpu::ConvolutionShape{3, 8, 8, 32, 48, 3, 2},
        cpu::ConvolutionShape{2, 4, 33, 24, 8, 1, 2}, cpu::ConvolutionShape{4, 1, 1, 64, 16, 3, 1}})
    check_convolution(shape);
  check_quantised_chain(8, 9, 7, 5);
  check_quantised_chain(8, 9, 9, 5);
  check_quantised_chain(16, 6, 32, 6);
  check_quantised_chain(48, 5, 13, 3);
  return all_passed ? 0 : 1;
}
