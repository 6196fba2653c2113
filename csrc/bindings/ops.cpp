// The operators, registered with torch's dispatcher through its stable ABI: one build serves every later torch and
// Python.
//
// Messages are for callers of torch.ops; prunefuse_bench.ops checks its arguments before.

#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "../core/fusing.h"
#include "../cpu/batch_norm.h"
#include "../cpu/chain.h"
#include "../cpu/convolution.h"
#include "../cpu/images.h"
#include "../cpu/kcenters.h"
#include "../cpu/kernels.h"
#include "../cpu/quantised.h"
#include "../cpu/top_k.h"

namespace {

using prunefuse::CommitteeKind;
using prunefuse::ScoreKind;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
namespace cpu = prunefuse::cpu;

cpu::Threads torch_threads() {
  return {static_cast<int>(torch::stable::get_num_threads()), [](int64_t count, int64_t grain, const cpu::Range& run) {
            torch::stable::parallel_for(0, count, grain, run);
          }};
}

cpu::Element element_of(const Tensor& tensor, const char* what) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return cpu::Element::float32;
    case ScalarType::BFloat16:
      return cpu::Element::bfloat16;
    case ScalarType::Half:
      return cpu::Element::float16;
    default:
      STD_TORCH_CHECK(false, what, ": expected float32, bfloat16 or float16, got ",
                      torch::headeronly::toString(tensor.scalar_type()));
  }
}

int64_t bytes_of(cpu::Element element) { return element == cpu::Element::float32 ? 4 : 2; }

void check_rank(const Tensor& tensor, int64_t rank, const char* what) {
  STD_TORCH_CHECK(tensor.dim() == rank, what, ": expected ", rank, " dimensions, got ", tensor.dim());
}

Tensor empty_like_on(const Tensor& other, int64_t count, ScalarType type) {
  const std::array<int64_t, 1> shape = {count};
  return torch::stable::new_empty(other, torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), 1), type);
}

// Which inner loops run here: 0 baseline, 1 AVX2, 2 AVX-512, 3 with bfloat16 vectors, 4 with AMX.
int64_t instruction_set() {
  if (cpu::bfloat16_units() == cpu::Bfloat16Units::matrix) return 4;
  if (cpu::bfloat16_units() == cpu::Bfloat16Units::vector) return 3;
  if (&cpu::kernels() == cpu::avx512_kernels()) return 2;
  return &cpu::kernels() == cpu::avx2_kernels() ? 1 : 0;
}

void check_kind(int64_t kind, int64_t last) {
  STD_TORCH_CHECK(0 <= kind && kind <= last, "kind: expected from 0 to ", last, ", got ", kind);
}

// ---- scores ----

constexpr int64_t kElementsPerTask = 1 << 15;

Tensor score(const Tensor& logits, int64_t kind) {
  check_rank(logits, 2, "logits");
  check_kind(kind, static_cast<int64_t>(ScoreKind::margin));
  const cpu::Element element = element_of(logits, "logits");
  const int64_t rows = logits.size(0), classes = logits.size(1);
  STD_TORCH_CHECK(classes > 0, "logits: expected at least one class, got none");
  const Tensor from = torch::stable::contiguous(logits);
  Tensor scores = empty_like_on(from, rows, ScalarType::Float);
  const char* data = static_cast<const char*>(from.const_data_ptr());
  float* to = static_cast<float*>(scores.mutable_data_ptr());
  torch::stable::parallel_for(0, rows, std::max<int64_t>(1, kElementsPerTask / classes),
                              [&](int64_t begin, int64_t end) {
                                cpu::kernels().score(data + begin * classes * bytes_of(element), element, end - begin,
                                                     classes, static_cast<ScoreKind>(kind), to + begin);
                              });
  return scores;
}

Tensor score_committee(const Tensor& logits, int64_t kind) {
  check_rank(logits, 3, "logits");
  check_kind(kind, static_cast<int64_t>(CommitteeKind::mean_least_confidence));
  const cpu::Element element = element_of(logits, "logits");
  const int64_t members = logits.size(0), samples = logits.size(1), classes = logits.size(2);
  STD_TORCH_CHECK(members > 0 && classes > 0, "logits: expected at least one member and one class, got [", members,
                  ", ", samples, ", ", classes, "]");
  const Tensor from = torch::stable::contiguous(logits);
  Tensor scores = empty_like_on(from, samples, ScalarType::Float);
  float* to = static_cast<float*>(scores.mutable_data_ptr());
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / (members * classes));
  torch::stable::parallel_for(0, samples, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(cpu::kernels().committee_scratch_bytes(members, classes) / sizeof(float) + 1);
    cpu::kernels().score_committee(from.const_data_ptr(), element, members, samples, classes, begin, end,
                                   static_cast<CommitteeKind>(kind), to, scratch.data());
  });
  return scores;
}

Tensor top_k(const Tensor& scores, int64_t k) {
  check_rank(scores, 1, "scores");
  STD_TORCH_CHECK(0 <= k && k <= scores.size(0), "k: expected from 0 to ", scores.size(0), ", got ", k);
  const Tensor from = torch::stable::contiguous(scores);
  Tensor positions = empty_like_on(from, k, ScalarType::Long);
  int64_t* to = static_cast<int64_t*>(positions.mutable_data_ptr());
  if (from.scalar_type() == ScalarType::Float)
    cpu::top_k(static_cast<const float*>(from.const_data_ptr()), from.size(0), k, to);
  else if (from.scalar_type() == ScalarType::Double)
    cpu::top_k(static_cast<const double*>(from.const_data_ptr()), from.size(0), k, to);
  else
    STD_TORCH_CHECK(false, "scores: expected float32 or float64, got ",
                    torch::headeronly::toString(from.scalar_type()));
  return positions;
}

// ---- greedy k-centers ----

std::tuple<Tensor, Tensor> advance_kcenters(const Tensor& features, const Tensor& centers, Tensor bounds, Tensor folded,
                                            int64_t k) {
  check_rank(features, 2, "features");
  check_rank(centers, 1, "centers");
  const cpu::Element element = element_of(features, "features");
  const int64_t rows = features.size(0), width = features.size(1), known = centers.size(0);
  STD_TORCH_CHECK(centers.scalar_type() == ScalarType::Long, "centers: expected int64");
  STD_TORCH_CHECK(bounds.scalar_type() == ScalarType::Float && bounds.is_contiguous() && bounds.dim() == 1 &&
                      bounds.size(0) == rows,
                  "bounds: expected contiguous float32 [", rows, "]");
  STD_TORCH_CHECK(
      folded.scalar_type() == ScalarType::Int && folded.is_contiguous() && folded.dim() == 1 && folded.size(0) == rows,
      "folded: expected contiguous int32 [", rows, "]");
  STD_TORCH_CHECK(0 <= k && k + known <= rows, "k: expected from 0 to ", rows - known, ", got ", k);
  const Tensor points = torch::stable::contiguous(features), given = torch::stable::contiguous(centers);
  std::vector<int64_t> all_centers(static_cast<size_t>(known + k));
  const int64_t* given_rows = static_cast<const int64_t*>(given.const_data_ptr());
  for (int64_t i = 0; i < known; ++i) {
    STD_TORCH_CHECK(0 <= given_rows[i] && given_rows[i] < rows, "centers: expected rows from 0 to ", rows - 1, ", got ",
                    given_rows[i]);
    all_centers[static_cast<size_t>(i)] = given_rows[i];
  }
  Tensor indices = empty_like_on(points, k, ScalarType::Long), radii = empty_like_on(points, k, ScalarType::Float);
  cpu::KCentersState state = {known, all_centers.data(), static_cast<float*>(bounds.mutable_data_ptr()),
                              static_cast<int32_t*>(folded.mutable_data_ptr())};
  cpu::advance_kcenters(points.const_data_ptr(), element, rows, width, state, k,
                        static_cast<int64_t*>(indices.mutable_data_ptr()),
                        static_cast<float*>(radii.mutable_data_ptr()), torch_threads());
  return {indices, radii};
}

// ---- fusion ----

template <class T>
struct Stored {
  T value;
  float as_float() const { return static_cast<float>(value); }
  static Stored from_float(float value) { return {static_cast<T>(value)}; }
};

struct StoredBFloat16 {
  uint16_t bits;
  float as_float() const { return prunefuse::same_bits<float>(static_cast<uint32_t>(bits) << 16); }
  static StoredBFloat16 from_float(float value) {
    const uint32_t word = prunefuse::same_bits<uint32_t>(value);
    return {static_cast<uint16_t>((word + 0x7fff + ((word >> 16) & 1)) >> 16)};
  }
};

struct StoredHalf {
  uint16_t bits;
  float as_float() const { return torch::headeronly::detail::fp16_ieee_to_fp32_value(bits); }
  static StoredHalf from_float(float value) { return {torch::headeronly::detail::fp16_ieee_from_fp32_value(value)}; }
};

template <class T, class Index>
void fuse_elements(const void* dense, const void* origin, const void* values, const prunefuse::Segment* segments,
                   int segment_count, uint64_t seed, int64_t begin, int64_t end, void* fused) {
  const T* kept = static_cast<const T*>(dense);
  const Index* from = static_cast<const Index*>(origin);
  const T* pruned = static_cast<const T*>(values);
  T* to = static_cast<T*>(fused);
  constexpr int64_t kAtOnce = 1024;
  float drawn[kAtOnce];
  for (int64_t first = begin; first < end;) {
    const int segment = prunefuse::segment_of(segments, segment_count, first);
    const int64_t segment_end = segment + 1 < segment_count ? segments[segment + 1].begin : end;
    const int64_t last = std::min({first + kAtOnce, segment_end, end});
    const bool keep = segments[segment].law == prunefuse::Law::keep;
    if (!keep) cpu::kernels().draw(segments[segment], static_cast<uint64_t>(first), last - first, seed, drawn);
    for (int64_t i = first; i < last; ++i)
      to[i] = from[i] >= 0 ? pruned[from[i]] : (keep ? kept[i] : T::from_float(drawn[i - first]));
    first = last;
  }
}

Tensor fuse_flat(const Tensor& dense, const Tensor& origin, const Tensor& values, const Tensor& begins,
                 const Tensor& laws, const Tensor& parameters, int64_t seed) {
  check_rank(dense, 1, "dense");
  check_rank(values, 1, "values");
  const int64_t count = dense.size(0), segment_count = begins.size(0);
  STD_TORCH_CHECK(origin.dim() == 1 && origin.size(0) == count, "origin: expected [", count, "], got [", origin.size(0),
                  "]");
  STD_TORCH_CHECK(values.scalar_type() == dense.scalar_type(), "values: expected the type of dense, ",
                  torch::headeronly::toString(dense.scalar_type()), ", got ",
                  torch::headeronly::toString(values.scalar_type()));
  STD_TORCH_CHECK(begins.scalar_type() == ScalarType::Long && laws.scalar_type() == ScalarType::Int &&
                      parameters.scalar_type() == ScalarType::Float,
                  "segments: expected begins int64, laws int32, parameters float32");
  STD_TORCH_CHECK(segment_count > 0 && laws.size(0) == segment_count && parameters.dim() == 2 &&
                      parameters.size(0) == segment_count && parameters.size(1) == 2,
                  "segments: expected begins [S], laws [S], parameters [S, 2] with S > 0, got S = ", segment_count);
  const Tensor from = torch::stable::contiguous(dense), map = torch::stable::contiguous(origin),
               pruned = torch::stable::contiguous(values), b = torch::stable::contiguous(begins),
               l = torch::stable::contiguous(laws), p = torch::stable::contiguous(parameters);
  std::vector<prunefuse::Segment> segments(static_cast<size_t>(segment_count));
  for (int64_t i = 0; i < segment_count; ++i)
    segments[static_cast<size_t>(i)] = {static_cast<const int64_t*>(b.const_data_ptr())[i],
                                        static_cast<prunefuse::Law>(static_cast<const int32_t*>(l.const_data_ptr())[i]),
                                        static_cast<const float*>(p.const_data_ptr())[2 * i],
                                        static_cast<const float*>(p.const_data_ptr())[2 * i + 1]};
  Tensor fused = empty_like_on(from, count, dense.scalar_type());
  const bool wide = map.scalar_type() == ScalarType::Long;
  STD_TORCH_CHECK(wide || map.scalar_type() == ScalarType::Int, "origin: expected int64 or int32, got ",
                  torch::headeronly::toString(map.scalar_type()));
  const auto run = [&](auto example) {
    using T = decltype(example);
    const auto elements = wide ? fuse_elements<T, int64_t> : fuse_elements<T, int32_t>;
    torch::stable::parallel_for(0, count, kElementsPerTask, [&](int64_t begin, int64_t end) {
      elements(from.const_data_ptr(), map.const_data_ptr(), pruned.const_data_ptr(), segments.data(),
               static_cast<int>(segment_count), static_cast<uint64_t>(seed), begin, end, fused.mutable_data_ptr());
    });
  };
  switch (dense.scalar_type()) {
    case ScalarType::Float:
      run(Stored<float>{});
      break;
    case ScalarType::Double:
      run(Stored<double>{});
      break;
    case ScalarType::BFloat16:
      run(StoredBFloat16{});
      break;
    case ScalarType::Half:
      run(StoredHalf{});
      break;
    default:
      STD_TORCH_CHECK(false, "dense: expected a float tensor, got ", torch::headeronly::toString(dense.scalar_type()));
  }
  return fused;
}

// ---- batches of images ----

const int64_t* whole_numbers(const std::optional<Tensor>& tensor, int64_t count, const char* what) {
  if (!tensor.has_value()) return nullptr;
  STD_TORCH_CHECK(tensor->scalar_type() == ScalarType::Long && tensor->dim() == 1 && tensor->size(0) == count &&
                      tensor->is_contiguous(),
                  what, ": expected contiguous int64 [", count, "]");
  return static_cast<const int64_t*>(tensor->const_data_ptr());
}

Tensor gather_images(const Tensor& images, const Tensor& rows, const Tensor& levels, std::optional<Tensor> tops,
                     std::optional<Tensor> lefts, std::optional<Tensor> flips, int64_t padding) {
  check_rank(images, 4, "images");
  check_rank(rows, 1, "rows");
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::Byte && images.is_contiguous(),
                  "images: expected contiguous uint8 [N, C, H, W]");
  const int64_t images_count = images.size(0), channels = images.size(1), height = images.size(2),
                width = images.size(3), count = rows.size(0);
  STD_TORCH_CHECK(levels.dim() == 2 && levels.size(0) == channels && levels.size(1) == 256 && levels.is_contiguous(),
                  "levels: expected contiguous [", channels, ", 256]");
  STD_TORCH_CHECK(padding >= 0, "padding: expected at least 0, got ", padding);
  const cpu::ImageBatch batch = {static_cast<const uint8_t*>(images.const_data_ptr()),
                                 channels,
                                 height,
                                 width,
                                 whole_numbers(rows, count, "rows"),
                                 whole_numbers(tops, count, "tops"),
                                 whole_numbers(lefts, count, "lefts"),
                                 flips.has_value() ? static_cast<const bool*>(flips->const_data_ptr()) : nullptr,
                                 padding};
  STD_TORCH_CHECK(!flips.has_value() || (flips->scalar_type() == ScalarType::Bool && flips->dim() == 1 &&
                                         flips->size(0) == count && flips->is_contiguous()),
                  "flips: expected contiguous bool [", count, "]");
  for (int64_t i = 0; i < count; ++i)
    STD_TORCH_CHECK(0 <= batch.rows[i] && batch.rows[i] < images_count, "rows: expected from 0 to ", images_count - 1,
                    ", got ", batch.rows[i]);
  for (const int64_t* offsets : {batch.tops, batch.lefts})
    for (int64_t i = 0; offsets != nullptr && i < count; ++i)
      STD_TORCH_CHECK(0 <= offsets[i] && offsets[i] <= 2 * padding, "crop: expected offsets from 0 to ", 2 * padding,
                      ", got ", offsets[i]);
  const std::array<int64_t, 4> shape = {count, height, width, channels};
  Tensor gathered =
      torch::stable::new_empty(levels, torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), shape.size()));
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, channels * height * width));
  const auto run = [&](auto example) {
    using T = decltype(example);
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
      cpu::gather_images(batch, static_cast<const T*>(levels.const_data_ptr()), begin, end,
                         static_cast<T*>(gathered.mutable_data_ptr()));
    });
  };
  if (levels.scalar_type() == ScalarType::Float)
    run(float{});
  else if (levels.scalar_type() == ScalarType::BFloat16)
    run(uint16_t{});
  else
    STD_TORCH_CHECK(false, "levels: expected float32 or bfloat16, got ",
                    torch::headeronly::toString(levels.scalar_type()));
  return gathered;
}

// ---- batch norm in training ----

// [pixels, channels], or [N, C, H, W] in channels-last memory, which is the same.
cpu::Pixels pixels_of(const Tensor& tensor, const char* what) {
  const cpu::Element element = element_of(tensor, what);
  const int64_t rank = tensor.dim(), channels = rank > 1 ? tensor.size(1) : 0;
  bool together = rank == 2 && tensor.is_contiguous();
  if (rank == 4) {
    const int64_t height = tensor.size(2), width = tensor.size(3);
    together = tensor.stride(1) == 1 && tensor.stride(3) == channels && tensor.stride(2) == width * channels &&
               tensor.stride(0) == height * width * channels;
  }
  STD_TORCH_CHECK(together && channels > 0 && element != cpu::Element::float16, what,
                  ": expected contiguous float32 or bfloat16 [pixels, channels], or [N, C, H, W] in channels-last "
                  "memory");
  return {element, tensor.numel() / channels, channels};
}

const float* per_channel(const Tensor& tensor, int64_t channels, const char* what) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float && tensor.dim() == 1 && tensor.size(0) == channels &&
                      tensor.is_contiguous(),
                  what, ": expected contiguous float32 [", channels, "]");
  return static_cast<const float*>(tensor.const_data_ptr());
}

void check_like(const Tensor& tensor, const cpu::Pixels& shape, const char* what) {
  const cpu::Pixels own = pixels_of(tensor, what);
  STD_TORCH_CHECK(own.element == shape.element && own.count == shape.count && own.channels == shape.channels, what,
                  ": expected the type and shape of x, [", shape.count, ", ", shape.channels, "]");
}

std::tuple<Tensor, Tensor, Tensor> normalise(const Tensor& x, const Tensor* added, cpu::Rectified rectified,
                                             const Tensor& weight, const Tensor& bias, Tensor running_mean,
                                             Tensor running_variance, double momentum, double epsilon) {
  const cpu::Pixels shape = pixels_of(x, "x");
  STD_TORCH_CHECK(shape.count > 1, "x: expected more than one value per channel, got ", shape.count);
  if (added != nullptr) check_like(*added, shape, "added");
  const int64_t channels = shape.channels;
  const float *scale = per_channel(weight, channels, "weight"), *offset = per_channel(bias, channels, "bias");
  per_channel(running_mean, channels, "running_mean");
  per_channel(running_variance, channels, "running_variance");
  Tensor mean = empty_like_on(weight, channels, ScalarType::Float),
         inverse = empty_like_on(weight, channels, ScalarType::Float), y = torch::stable::empty_like(x);
  std::vector<float> variance(static_cast<size_t>(channels));
  float* means = static_cast<float*>(mean.mutable_data_ptr());
  float* inverses = static_cast<float*>(inverse.mutable_data_ptr());
  cpu::batch_statistics(shape, x.const_data_ptr(), static_cast<float>(epsilon), means, variance.data(), inverses,
                        torch_threads());
  cpu::normalise(shape, x.const_data_ptr(), {means, inverses, scale, offset}, rectified,
                 added == nullptr ? nullptr : added->const_data_ptr(), y.mutable_data_ptr(), torch_threads());
  float* running_means = static_cast<float*>(running_mean.mutable_data_ptr());
  float* running_variances = static_cast<float*>(running_variance.mutable_data_ptr());
  const float share = static_cast<float>(momentum), keep = static_cast<float>(1.0 - momentum);
  const float correction = static_cast<float>(static_cast<double>(shape.count) / static_cast<double>(shape.count - 1));
  for (int64_t c = 0; c < channels; ++c) {
    running_means[c] = keep * running_means[c] + share * means[c];
    running_variances[c] = keep * running_variances[c] + share * (variance[static_cast<size_t>(c)] * correction);
  }
  return {y, mean, inverse};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                              Tensor running_mean, Tensor running_variance, double momentum,
                                              double epsilon) {
  return normalise(x, nullptr, cpu::Rectified::no, weight, bias, running_mean, running_variance, momentum, epsilon);
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight,
                                                       const Tensor& mean, const Tensor& inverse) {
  const cpu::Pixels shape = pixels_of(x, "x");
  check_like(dy, shape, "dy");
  const int64_t channels = shape.channels;
  Tensor dx = torch::stable::empty_like(x), dweight = empty_like_on(weight, channels, ScalarType::Float),
         dbias = empty_like_on(weight, channels, ScalarType::Float);
  const cpu::Parameters parameters = {per_channel(mean, channels, "mean"),
                                      per_channel(inverse, channels, "inverse_deviation"),
                                      per_channel(weight, channels, "weight"), nullptr};
  cpu::normalise_backward(shape, dy.const_data_ptr(), x.const_data_ptr(), nullptr, parameters, cpu::Rectified::no,
                          dx.mutable_data_ptr(), nullptr, static_cast<float*>(dweight.mutable_data_ptr()),
                          static_cast<float*>(dbias.mutable_data_ptr()), torch_threads());
  return {dx, dweight, dbias};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_relu(const Tensor& x, std::optional<Tensor> added, const Tensor& weight,
                                                   const Tensor& bias, Tensor running_mean, Tensor running_variance,
                                                   double momentum, double epsilon) {
  return normalise(x, added.has_value() ? &*added : nullptr,
                   added.has_value() ? cpu::Rectified::with_added : cpu::Rectified::yes, weight, bias, running_mean,
                   running_variance, momentum, epsilon);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_relu_backward(const Tensor& dy, const Tensor& x,
                                                                    std::optional<Tensor> y, const Tensor& weight,
                                                                    const Tensor& bias, const Tensor& mean,
                                                                    const Tensor& inverse) {
  const cpu::Pixels shape = pixels_of(x, "x");
  check_like(dy, shape, "dy");
  if (y.has_value()) check_like(*y, shape, "y");
  const int64_t channels = shape.channels;
  Tensor dx = torch::stable::empty_like(x), dweight = empty_like_on(weight, channels, ScalarType::Float),
         dbias = empty_like_on(weight, channels, ScalarType::Float),
         dadded = y.has_value() ? torch::stable::empty_like(x) : empty_like_on(x, 0, x.scalar_type());
  const cpu::Parameters parameters = {per_channel(mean, channels, "mean"),
                                      per_channel(inverse, channels, "inverse_deviation"),
                                      per_channel(weight, channels, "weight"), per_channel(bias, channels, "bias")};
  cpu::normalise_backward(shape, dy.const_data_ptr(), x.const_data_ptr(), y.has_value() ? y->const_data_ptr() : nullptr,
                          parameters, y.has_value() ? cpu::Rectified::with_added : cpu::Rectified::yes,
                          dx.mutable_data_ptr(), dadded.mutable_data_ptr(),
                          static_cast<float*>(dweight.mutable_data_ptr()),
                          static_cast<float*>(dbias.mutable_data_ptr()), torch_threads());
  return {dx, dadded, dweight, dbias};
}

// ---- convolutions in training ----

void check_images(const Tensor& tensor, const char* what) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::BFloat16 && tensor.dim() == 4 && tensor.is_contiguous(), what,
                  ": expected contiguous bfloat16 [N, H, W, C]");
}

void check_convolution(const cpu::ConvolutionShape& shape) {
  STD_TORCH_CHECK(cpu::can_run_chains(),
                  "convolution: expected a processor that multiplies bfloat16 numbers (AMX or AVX512-BF16)");
  const std::string fault = cpu::fault_of(shape);
  STD_TORCH_CHECK(fault.empty(), "convolution: ", fault);
}

Tensor empty_images(const Tensor& like, int64_t height, int64_t width, int64_t channels) {
  const std::array<int64_t, 4> sizes = {like.size(0), height, width, channels};
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(sizes.data(), 4));
}

// Of the weight [O, K, K, I] and images [N, height, width, I].
cpu::ConvolutionShape convolution_shape(const Tensor& weight, int64_t images, int64_t height, int64_t width,
                                        int64_t stride) {
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float && weight.dim() == 4 && weight.is_contiguous() &&
                      weight.size(1) == weight.size(2),
                  "weight: expected contiguous float32 [O, K, K, I]");
  const cpu::ConvolutionShape shape = {images, height, width, weight.size(3), weight.size(0), weight.size(1), stride};
  check_convolution(shape);
  return shape;
}

void check_gradient(const Tensor& dy, const cpu::ConvolutionShape& shape) {
  check_images(dy, "dy");
  const int64_t height = (shape.height - 1) / shape.stride + 1, width = (shape.width - 1) / shape.stride + 1;
  STD_TORCH_CHECK(
      dy.size(0) == shape.images && dy.size(1) == height && dy.size(2) == width && dy.size(3) == shape.channels_out,
      "dy: expected the shape of the output, [", shape.images, ", ", height, ", ", width, ", ", shape.channels_out,
      "]");
}

Tensor convolution(const Tensor& x, const Tensor& weight, int64_t stride) {
  check_images(x, "x");
  const cpu::ConvolutionShape shape = convolution_shape(weight, x.size(0), x.size(1), x.size(2), stride);
  STD_TORCH_CHECK(x.size(3) == shape.channels_in, "x: expected ", shape.channels_in, " channels, got ", x.size(3));
  Tensor y = empty_images(x, (shape.height - 1) / stride + 1, (shape.width - 1) / stride + 1, shape.channels_out);
  cpu::convolve(shape, static_cast<const uint16_t*>(x.const_data_ptr()),
                static_cast<const float*>(weight.const_data_ptr()), static_cast<uint16_t*>(y.mutable_data_ptr()),
                torch_threads());
  return y;
}

Tensor convolution_input_gradient(const Tensor& dy, const Tensor& weight, int64_t height, int64_t width,
                                  int64_t stride) {
  check_rank(dy, 4, "dy");
  const cpu::ConvolutionShape shape = convolution_shape(weight, dy.size(0), height, width, stride);
  check_gradient(dy, shape);
  Tensor dx = empty_images(dy, height, width, shape.channels_in);
  cpu::convolve_input_gradient(shape, static_cast<const uint16_t*>(dy.const_data_ptr()),
                               static_cast<const float*>(weight.const_data_ptr()),
                               static_cast<uint16_t*>(dx.mutable_data_ptr()), torch_threads());
  return dx;
}

Tensor convolution_weight_gradient(const Tensor& dy, const Tensor& x, int64_t kernel, int64_t stride) {
  check_rank(dy, 4, "dy");
  check_images(x, "x");
  const cpu::ConvolutionShape shape = {x.size(0), x.size(1), x.size(2), x.size(3), dy.size(3), kernel, stride};
  check_convolution(shape);
  check_gradient(dy, shape);
  const std::array<int64_t, 4> sizes = {shape.channels_out, kernel, kernel, shape.channels_in};
  Tensor dweight =
      torch::stable::new_empty(x, torch::headeronly::IntHeaderOnlyArrayRef(sizes.data(), 4), ScalarType::Float);
  cpu::convolve_weight_gradient(shape, static_cast<const uint16_t*>(dy.const_data_ptr()),
                                static_cast<const uint16_t*>(x.const_data_ptr()),
                                static_cast<float*>(dweight.mutable_data_ptr()), torch_threads());
  return dweight;
}

// ---- whole networks ----

bool has_chains() { return cpu::can_run_chains(); }

Tensor pack_weight(const Tensor& weight, int64_t stride) {
  check_rank(weight, 4, "weight");
  STD_TORCH_CHECK(
      weight.scalar_type() == ScalarType::BFloat16 && weight.is_contiguous() && weight.size(2) == weight.size(3),
      "weight: expected contiguous bfloat16 [O, I, K, K]");
  const cpu::Geometry geometry = {weight.size(1), weight.size(0), weight.size(2), stride};
  const std::string fault = cpu::fault_of(geometry);
  STD_TORCH_CHECK(fault.empty(), "weight: ", fault);
  Tensor tiles = empty_like_on(weight, cpu::weight_count(geometry), ScalarType::BFloat16);
  cpu::pack_weight(geometry, static_cast<const uint16_t*>(weight.const_data_ptr()),
                   static_cast<uint16_t*>(tiles.mutable_data_ptr()));
  return tiles;
}

const int64_t* check_table(const Tensor& table, int64_t columns, const char* what) {
  STD_TORCH_CHECK(
      table.scalar_type() == ScalarType::Long && table.dim() == 2 && table.size(1) == columns && table.is_contiguous(),
      what, ": expected contiguous int64 [rows, ", columns, "]");
  return static_cast<const int64_t*>(table.const_data_ptr());
}

void read_program(const Tensor& pictures, const Tensor& layers, int64_t averaged, cpu::Program& program) {
  const int64_t* row = check_table(pictures, 4, "pictures");
  for (int64_t i = 0; i < pictures.size(0); ++i, row += 4) program.pictures.push_back({row[0], row[1], row[2], row[3]});
  row = check_table(layers, 8, "layers");
  for (int64_t i = 0; i < layers.size(0); ++i, row += 8)
    program.layers.push_back({row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7]});
  program.averaged = averaged;
}

// Of each image, the means of the averaged picture.
Tensor empty_means(const Tensor& images, const cpu::Program& program) {
  const std::array<int64_t, 2> shape = {images.size(0),
                                        program.pictures[static_cast<size_t>(program.averaged)].channels};
  return torch::stable::new_empty(images, torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), shape.size()),
                                  ScalarType::Float);
}

Tensor run_chain(const Tensor& images, const Tensor& pictures, const Tensor& layers, int64_t averaged,
                 const Tensor& weights, const Tensor& biases) {
  STD_TORCH_CHECK(cpu::can_run_chains(),
                  "run_chain: expected a processor that multiplies bfloat16 numbers (AMX or AVX512-BF16)");
  check_rank(images, 4, "images");
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::BFloat16 && images.is_contiguous(),
                  "images: expected contiguous bfloat16 [N, H, W, C]");
  STD_TORCH_CHECK(weights.scalar_type() == ScalarType::BFloat16 && weights.dim() == 1 && weights.is_contiguous(),
                  "weights: expected contiguous bfloat16 [count]");
  STD_TORCH_CHECK(biases.scalar_type() == ScalarType::Float && biases.dim() == 1 && biases.is_contiguous(),
                  "biases: expected contiguous float32 [count]");
  cpu::Chain chain;
  read_program(pictures, layers, averaged, chain);
  chain.weights = static_cast<const uint16_t*>(weights.const_data_ptr());
  chain.weight_count = weights.size(0);
  chain.biases = static_cast<const float*>(biases.const_data_ptr());
  chain.bias_count = biases.size(0);
  const std::string fault = cpu::fault_of(chain);
  STD_TORCH_CHECK(fault.empty(), "run_chain: ", fault);
  const cpu::Picture& first = chain.pictures[0];
  const int64_t count = images.size(0), channels = images.size(3);
  STD_TORCH_CHECK(
      images.size(1) == first.height && images.size(2) == first.width && 1 <= channels && channels <= first.channels,
      "images: expected [N, ", first.height, ", ", first.width, ", up to ", first.channels, "]");
  Tensor features = empty_means(images, chain);
  cpu::run_chain(chain, static_cast<const uint16_t*>(images.const_data_ptr()), channels, count,
                 static_cast<float*>(features.mutable_data_ptr()), torch_threads());
  return features;
}

bool has_quantised_chains() { return cpu::can_run_quantised_chains(); }

Tensor run_quantised_chain(const Tensor& images, const Tensor& around, const Tensor& pictures, const Tensor& layers,
                           int64_t averaged, const Tensor& weights, const Tensor& factors) {
  STD_TORCH_CHECK(cpu::can_run_quantised_chains(),
                  "run_quantised_chain: expected a processor that multiplies bytes (AVX512-VNNI) and has no AMX");
  check_rank(images, 4, "images");
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::Byte && images.is_contiguous(),
                  "images: expected contiguous uint8 [N, C, H, W]");
  const int64_t count = images.size(0), channels = images.size(1);
  STD_TORCH_CHECK(around.scalar_type() == ScalarType::Byte && around.dim() == 1 && around.is_contiguous() &&
                      around.size(0) == channels,
                  "around: expected contiguous uint8 [", channels, "]");
  STD_TORCH_CHECK(weights.scalar_type() == ScalarType::Char && weights.dim() == 1 && weights.is_contiguous(),
                  "weights: expected contiguous int8 [count]");
  STD_TORCH_CHECK(factors.scalar_type() == ScalarType::Float && factors.dim() == 2 && factors.size(0) == 3 &&
                      factors.is_contiguous(),
                  "factors: expected contiguous float32 [3, count]");
  cpu::QuantisedChain chain;
  read_program(pictures, layers, averaged, chain);
  chain.weights = static_cast<const int8_t*>(weights.const_data_ptr());
  chain.weight_count = weights.size(0);
  chain.factors = static_cast<const float*>(factors.const_data_ptr());
  chain.factor_count = factors.size(1);
  const std::string fault = cpu::fault_of(chain);
  STD_TORCH_CHECK(fault.empty(), "run_quantised_chain: ", fault);
  const cpu::Picture& first = chain.pictures[0];
  STD_TORCH_CHECK(
      images.size(2) == first.height && images.size(3) == first.width && 1 <= channels && channels <= first.channels,
      "images: expected [N, up to ", first.channels, ", ", first.height, ", ", first.width, "]");
  Tensor means = empty_means(images, chain);
  cpu::run_quantised_chain(chain, static_cast<const uint8_t*>(images.const_data_ptr()), channels,
                           static_cast<const uint8_t*>(around.const_data_ptr()), count,
                           static_cast<float*>(means.mutable_data_ptr()), torch_threads());
  return means;
}

// ---- scores of a linear head, without a row of logits per sample ----

constexpr int64_t kHeadBytes = 4 << 20;  // logits of one block of rows

Tensor call_score(const Tensor& logits, int64_t kind) {
  std::array<StableIValue, 2> stack = {torch::stable::detail::from(logits), torch::stable::detail::from(kind)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("prunefuse_bench::score", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Tensor multiply(const Tensor& rows, const Tensor& weight, const std::optional<Tensor>& bias) {
  std::array<StableIValue, 3> stack = {torch::stable::detail::from(rows), torch::stable::detail::from(weight),
                                       torch::stable::detail::from(bias)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::linear", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Tensor score_head(const Tensor& features, const Tensor& weight, std::optional<Tensor> bias, int64_t kind) {
  check_rank(features, 2, "features");
  check_rank(weight, 2, "weight");
  STD_TORCH_CHECK(features.size(1) == weight.size(1), "features: expected ", weight.size(1), " columns, got ",
                  features.size(1));
  const int64_t rows = features.size(0), classes = weight.size(0);
  // Products of half precision are rounded to half precision: logits are computed and scored in float32.
  const auto in_float = [](const Tensor& tensor) {
    return tensor.scalar_type() == ScalarType::Float ? tensor : torch::stable::to(tensor, ScalarType::Float);
  };
  const Tensor weights = in_float(weight);
  if (bias.has_value()) bias = in_float(*bias);
  Tensor scores = empty_like_on(features, rows, ScalarType::Float);
  const int64_t block = std::max<int64_t>(64, kHeadBytes / (4 * classes));
  for (int64_t begin = 0; begin < rows; begin += block) {
    const int64_t count = std::min(block, rows - begin);
    Tensor some = torch::stable::narrow(const_cast<Tensor&>(features), 0, begin, count);
    Tensor to = torch::stable::narrow(scores, 0, begin, count);
    torch::stable::copy_(to, call_score(multiply(in_float(some), weights, bias), kind));
  }
  return scores;
}

}  // namespace

STABLE_TORCH_LIBRARY(prunefuse_bench, library) {
  library.def("instruction_set() -> int");
  library.def(
      "batch_norm(Tensor x, Tensor weight, Tensor bias, Tensor(a!) running_mean, Tensor(b!) running_variance,"
      " float momentum, float epsilon) -> (Tensor, Tensor, Tensor)");
  library.def(
      "batch_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor mean, Tensor inverse_deviation)"
      " -> (Tensor, Tensor, Tensor)");
  library.def(
      "batch_norm_relu(Tensor x, Tensor? added, Tensor weight, Tensor bias, Tensor(a!) running_mean,"
      " Tensor(b!) running_variance, float momentum, float epsilon) -> (Tensor, Tensor, Tensor)");
  library.def(
      "batch_norm_relu_backward(Tensor dy, Tensor x, Tensor? y, Tensor weight, Tensor bias, Tensor mean,"
      " Tensor inverse_deviation) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("convolution(Tensor x, Tensor weight, int stride) -> Tensor");
  library.def("convolution_input_gradient(Tensor dy, Tensor weight, int height, int width, int stride) -> Tensor");
  library.def("convolution_weight_gradient(Tensor dy, Tensor x, int kernel, int stride) -> Tensor");
  library.def("has_chains() -> bool");
  library.def("has_quantised_chains() -> bool");
  library.def("pack_weight(Tensor weight, int stride) -> Tensor");
  library.def(
      "run_chain(Tensor images, Tensor pictures, Tensor layers, int averaged, Tensor weights, Tensor biases)"
      " -> Tensor");
  library.def(
      "run_quantised_chain(Tensor images, Tensor around, Tensor pictures, Tensor layers, int averaged, Tensor weights, "
      "Tensor factors) -> Tensor");
  library.def("score(Tensor logits, int kind) -> Tensor");
  library.def("score_committee(Tensor logits, int kind) -> Tensor");
  library.def("score_head(Tensor features, Tensor weight, Tensor? bias, int kind) -> Tensor");
  library.def("top_k(Tensor scores, int k) -> Tensor");
  library.def(
      "advance_kcenters(Tensor features, Tensor centers, Tensor(a!) bounds, Tensor(b!) folded, int k)"
      " -> (Tensor, Tensor)");
  library.def(
      "fuse_flat(Tensor dense, Tensor origin, Tensor values, Tensor begins, Tensor laws, Tensor parameters, int seed)"
      " -> Tensor");
  library.def(
      "gather_images(Tensor images, Tensor rows, Tensor levels, Tensor? tops, Tensor? lefts, Tensor? flips, int "
      "padding)"
      " -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(prunefuse_bench, CPU, library) {
  library.impl("batch_norm", TORCH_BOX(&batch_norm));
  library.impl("batch_norm_backward", TORCH_BOX(&batch_norm_backward));
  library.impl("batch_norm_relu", TORCH_BOX(&batch_norm_relu));
  library.impl("batch_norm_relu_backward", TORCH_BOX(&batch_norm_relu_backward));
  library.impl("convolution", TORCH_BOX(&convolution));
  library.impl("convolution_input_gradient", TORCH_BOX(&convolution_input_gradient));
  library.impl("convolution_weight_gradient", TORCH_BOX(&convolution_weight_gradient));
  library.impl("pack_weight", TORCH_BOX(&pack_weight));
  library.impl("run_chain", TORCH_BOX(&run_chain));
  library.impl("run_quantised_chain", TORCH_BOX(&run_quantised_chain));
  library.impl("score", TORCH_BOX(&score));
  library.impl("score_committee", TORCH_BOX(&score_committee));
  library.impl("score_head", TORCH_BOX(&score_head));
  library.impl("top_k", TORCH_BOX(&top_k));
  library.impl("advance_kcenters", TORCH_BOX(&advance_kcenters));
  library.impl("fuse_flat", TORCH_BOX(&fuse_flat));
  library.impl("gather_images", TORCH_BOX(&gather_images));
}

STABLE_TORCH_LIBRARY_IMPL(prunefuse_bench, CompositeImplicitAutograd, library) {
  library.impl("has_chains", TORCH_BOX(&has_chains));
  library.impl("has_quantised_chains", TORCH_BOX(&has_quantised_chains));
  library.impl("instruction_set", TORCH_BOX(&instruction_set));
}

STABLE_TORCH_LIBRARY_IMPL(prunefuse_bench, CUDA, library) { library.impl("score_head", TORCH_BOX(&score_head)); }

// Importing the module is loading the operators.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
