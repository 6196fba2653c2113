// Whole networks on what multiplies bfloat16 numbers on x86-64: matrix units (AMX) or vectors (AVX512-BF16).

#include "chain.h"

#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "tiles.h"

namespace prunefuse::cpu {
namespace {

// A tile register is 16 rows of 64 bytes: 32 input values of 16 rows, or 16 sums of them.
constexpr int64_t kValues = 32;
constexpr int64_t kTile = kRows * kValues;

int64_t round_down_to_step(int64_t value) { return -round_up(-value, kValues); }

// Neighbouring outputs that share a row of a tile.
int64_t pixels_per_row(const Geometry& g) {
  if (g.channels_out == 8) return 2;
  return g.channels_in == 16 && g.stride == 1 ? 2 : 1;
}

int64_t tiles_across(const Geometry& g) { return pixels_per_row(g) * g.channels_out / kOutputs; }

// 32 values side by side under one row of the kernel; `begin` counts from the first output's own pixel.
struct Step {
  int64_t kernel_row, begin;
};

// Products of two neighbouring tiles of sums (or of one), by which of the two has weights for them.
struct StepsOfPair {
  std::vector<Step> first, both, second;
  int64_t tiles() const { return static_cast<int64_t>(first.size() + 2 * both.size() + second.size()); }
};

std::vector<StepsOfPair> steps_of(const Geometry& g) {
  struct Span {
    int64_t begin, end;
    bool holds(int64_t value) const { return begin <= value && value < end; }
  };
  const int64_t padding = g.kernel / 2, across = tiles_across(g);
  const auto span_of = [&](int64_t tile) -> Span {  // of the values that one tile of sums needs
    if (tile >= across) return {0, 0};
    const int64_t first = tile * kOutputs / g.channels_out, last = (tile * kOutputs + kOutputs - 1) / g.channels_out;
    const int64_t begin = (first * g.stride - padding) * g.channels_in,
                  end = (last * g.stride - padding + g.kernel) * g.channels_in;
    return {g.channels_in == 16 ? round_down_to_step(begin) : begin, end};
  };
  std::vector<StepsOfPair> pairs;
  for (int64_t tile = 0; tile < across; tile += 2) {
    const Span first = span_of(tile), second = span_of(tile + 1);
    const int64_t end = std::max(first.end, second.end);
    StepsOfPair pair;
    for (int64_t row = 0; row < g.kernel; ++row)
      for (int64_t begin = first.begin; begin < end; begin += kValues) {
        const bool in_first = first.holds(begin), in_second = second.holds(begin);
        if (in_first || in_second)
          (in_first && in_second ? pair.both : in_first ? pair.first : pair.second).push_back({row, begin});
      }
    pairs.push_back(pair);
  }
  return pairs;
}

}  // namespace

int64_t weight_count(const Geometry& geometry) {
  int64_t count = 0;
  for (const StepsOfPair& pair : steps_of(geometry)) count += pair.tiles() * kTile;
  return count;
}

void pack_weight(const Geometry& g, const uint16_t* weight, uint16_t* tiles) {
  const int64_t padding = g.kernel / 2;
  // A tile of weights is [16 pairs of values][16 outputs][2 values].
  const auto pack = [&](const Step& step, int64_t tile) {
    for (int64_t value = 0; value < kValues; ++value)
      for (int64_t output = 0; output < kOutputs; ++output) {
        const int64_t column = tile * kOutputs + output, pixel = column / g.channels_out;
        const int64_t under = step.begin + value - (pixel * g.stride - padding) * g.channels_in;
        const bool is_under = 0 <= under && under < g.kernel * g.channels_in;
        const int64_t source = (column % g.channels_out * g.channels_in + under % g.channels_in) * g.kernel;
        tiles[value / 2 * kValues + output * 2 + value % 2] =
            is_under ? weight[(source + step.kernel_row) * g.kernel + under / g.channels_in] : uint16_t{0};
      }
    tiles += kTile;
  };
  int64_t tile = 0;
  for (const StepsOfPair& pair : steps_of(g)) {
    for (const Step& step : pair.first) pack(step, tile);
    for (const Step& step : pair.both) {
      pack(step, tile);
      pack(step, tile + 1);
    }
    for (const Step& step : pair.second) pack(step, tile + 1);
    tile += 2;
  }
}

std::string fault_of(const Chain& chain) { return fault_of(chain, chain.weight_count, chain.bias_count, weight_count); }

}  // namespace prunefuse::cpu

#if defined(__x86_64__) && defined(__linux__) && \
    ((defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11) || (defined(__clang__) && __clang_major__ >= 13))

#include <immintrin.h>

namespace prunefuse::cpu {
namespace {

// Two neighbouring tiles of sums, or one.
struct Pair {
  int wide;
  const int64_t* steps;  // distance of each step's values from the beginning of a row
  int64_t first, both, second;
  const uint16_t* weights;
  float biases[2 * kOutputs];
  const ValuePair* value_pairs[2];  // by tile: the same products without those by zeros
  int64_t value_pair_count[2];
};

// One convolution, all distances in values.
struct Convolution {
  const RowTile* tiles;
  int64_t tile_count;
  const Pair* pairs;
  int64_t pair_count;
  int64_t from_stride, to_stride;  // from row to row
  float floor;                     // 0 with ReLU
};

struct PlannedLayer {
  PlannedLayer() = default;
  PlannedLayer(PlannedLayer&&) = default;  // not copied: `work` points into the vectors

  int64_t input, output, residual;
  Convolution work;
  RowTiles rows;
  std::vector<Pair> pairs;
  std::vector<int64_t> steps;
  std::vector<ValuePair> value_pairs;
  int64_t slot_distance;  // from image to image, if the output picture has more of them side by side
};

// Layers that look at the same number of images side by side.
struct Segment {
  int64_t images;
  std::vector<PlannedLayer> layers;
};

bool is_zero(const uint16_t* weights) {  // of a pair of values
  const auto is_any = [](uint16_t weight) { return (weight & 0x7fff) != 0; };
  return std::none_of(weights, weights + 2 * kOutputs, is_any);
}

// What vectors multiply.
void add_value_pairs(PlannedLayer& layer) {
  for (Pair& pair : layer.pairs)
    for (int which = 0; which < 2; ++which) {
      const size_t before = layer.value_pairs.size();
      int64_t at = 0;  // among the weights
      for (int64_t step = 0; step < pair.first + pair.both + pair.second; ++step) {
        const bool in_first = step < pair.first + pair.both, in_second = step >= pair.first;
        if (which == 0 ? in_first : in_second)
          for (int64_t i = 0, own = at + (which == 1 && in_first ? kTile : 0); i < kRows; ++i, own += kValues)
            if (!is_zero(pair.weights + own)) layer.value_pairs.push_back({pair.steps[step] + 2 * i, own});
        at += (in_first && in_second ? 2 : 1) * kTile;
      }
      pair.value_pair_count[which] = static_cast<int64_t>(layer.value_pairs.size() - before);
    }
  const ValuePair* next = layer.value_pairs.data();
  for (Pair& pair : layer.pairs)
    for (int which = 0; which < 2; ++which) {
      pair.value_pairs[which] = next;
      next += pair.value_pair_count[which];
    }
}

PlannedLayer plan(const Chain& chain, const ChainLayer& layer) {
  const Picture &from = chain.pictures[static_cast<size_t>(layer.input)],
                &to = chain.pictures[static_cast<size_t>(layer.output)];
  const Geometry geometry = {from.channels, to.channels, layer.kernel, layer.stride};
  const int64_t pixels = pixels_per_row(geometry), across = tiles_across(geometry);
  PlannedLayer planned;
  planned.input = layer.input;
  planned.output = layer.output;
  planned.residual = layer.residual;
  planned.rows = tiles_of(from, to, layer.stride, pixels);
  const std::vector<StepsOfPair> pairs = steps_of(geometry);
  const uint16_t* weights = chain.weights + layer.weights;
  for (const StepsOfPair& pair : pairs) {
    for (const std::vector<Step>* steps : {&pair.first, &pair.both, &pair.second})
      for (const Step& step : *steps)
        planned.steps.push_back((step.kernel_row - layer.kernel / 2) * pitch_of(from) * from.channels + step.begin);
    const int64_t tile = 2 * static_cast<int64_t>(planned.pairs.size());
    Pair ready = {tile + 1 < across ? 2 : 1,
                  nullptr,
                  static_cast<int64_t>(pair.first.size()),
                  static_cast<int64_t>(pair.both.size()),
                  static_cast<int64_t>(pair.second.size()),
                  weights,
                  {},
                  {},
                  {}};
    for (int64_t i = 0; i < ready.wide * kOutputs; ++i)
      ready.biases[i] = chain.biases[layer.biases + (tile * kOutputs + i) % to.channels];
    planned.pairs.push_back(ready);
    weights += pair.tiles() * kTile;
  }
  const int64_t* steps = planned.steps.data();
  for (Pair& pair : planned.pairs) {
    pair.steps = steps;
    steps += pair.first + pair.both + pair.second;
  }
  if (bfloat16_units() == Bfloat16Units::vector) add_value_pairs(planned);
  planned.slot_distance = to.images == from.images ? 0 : distance_of(to) * to.channels;
  planned.work = {planned.rows.tiles.data(),
                  static_cast<int64_t>(planned.rows.tiles.size()),
                  planned.pairs.data(),
                  static_cast<int64_t>(planned.pairs.size()),
                  pixels * layer.stride * from.channels,
                  pixels * to.channels,
                  layer.relu ? 0.0f : -__builtin_inff()};
  return planned;
}

std::vector<Segment> plan(const Chain& chain) {
  std::vector<Segment> segments;
  for (const ChainLayer& layer : chain.layers) {
    const int64_t images = chain.pictures[static_cast<size_t>(layer.input)].images;
    if (segments.empty() || segments.back().images != images) segments.push_back({images, {}});
    segments.back().layers.push_back(plan(chain, layer));
  }
  return segments;
}

}  // namespace

// No function of a standard header may be instantiated here first: the linker could keep the wide version for a machine
// that cannot run it.
#define CHAIN_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(CHAIN_TARGET))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

namespace chain_units {

#include "matrix_units.h"
#include "vector_units.h"

constexpr int64_t kSums = kRows * kOutputs;

// Sums that are not in their picture yet, [tall][wide][16 rows][16 outputs]: they are written there tile by tile, while
// other products are under way.
template <bool kResidual>
class Waiting {
 public:
  Waiting(const Convolution& layer, uint16_t* output, const uint16_t* residual)
      : output_(output), residual_(residual), stride_(layer.to_stride), floor_(_mm512_set1_ps(layer.floor)) {}

  // Where the next sums are stored; all before have been written.
  float* replace(const Pair* pair, int64_t column, const RowTile* tiles, int tall) {
    pair_ = pair;
    column_ = column;
    tiles_ = tiles;
    count_ = tall * pair->wide;
    written_ = 0;
    return sums_;
  }

  int count() const { return count_; }

  void write_until(int count) {
    for (; written_ < count; ++written_) write(written_ / pair_->wide, written_ % pair_->wide);
  }

 private:
  inline void write(int tall, int wide) {
    const float* sums = sums_ + written_ * kSums;
    const __m512 bias = _mm512_loadu_ps(pair_->biases + wide * kOutputs);
    int64_t at = tiles_[tall].to + column_ + wide * kOutputs;
    for (int64_t row = 0; row < tiles_[tall].rows; ++row, sums += kOutputs, at += stride_) {
      __m512 value = _mm512_add_ps(_mm512_load_ps(sums), bias);
      if constexpr (kResidual) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(residual_ + at));
        value = _mm512_add_ps(value, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
      }
      value = _mm512_max_ps(floor_, value);  // in this order NaN stays NaN
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(output_ + at), (__m256i)_mm512_cvtneps_pbh(value));
    }
  }

  alignas(64) float sums_[4 * kSums];
  uint16_t* output_;
  const uint16_t* residual_;
  int64_t stride_;
  __m512 floor_;
  const Pair* pair_ = nullptr;
  const RowTile* tiles_ = nullptr;
  int64_t column_ = 0;
  int count_ = 0, written_ = 0;
};

// Products of one or two tiles of weights and one or two tiles of rows; sums in registers 0 to 3, by tile of rows and,
// in these, by tile of weights; inputs in 4 and 5, weights in 6 and 7.
template <int kTall, int kWide, bool kResidual>
class Multiplication {
 public:
  Multiplication(const Convolution& layer, const Pair& pair, const uint16_t* picture, const RowTile* tiles,
                 Waiting<kResidual>& waiting)
      : stride_bytes_(layer.from_stride * 2),
        steps_(pair.steps),
        weights_(pair.weights),
        step_count_(static_cast<int>(pair.first + pair.both + pair.second)),
        waiting_(waiting) {
    for (int t = 0; t < kTall; ++t) rows_[t] = picture + tiles[t].from;
    clear_tile<0>();
    if constexpr (kTall * kWide > 1) clear_tile<1>();
    if constexpr (kTall * kWide > 2) clear_tile<2>();
    if constexpr (kTall * kWide > 3) clear_tile<3>();
  }

  template <bool kFirst, bool kSecond>
  inline void add(int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = steps_[step_];
      if constexpr (kFirst) load_weights<6>();
      if constexpr (kSecond) load_weights<7>();
      add_row<0, kFirst, kSecond>(at);
      if constexpr (kTall > 1) add_row<1, kFirst, kSecond>(at);
      ++step_;
      // The sums before these are not there yet when the first step begins.
      if (step_ > 1) waiting_.write_until(waiting_.count() * (step_ - 1) / (step_count_ - 1));
    }
  }

  void finish(float* to) {
    store_tile<0>(to);
    if constexpr (kTall * kWide > 1) store_tile<1>(to + kSums);
    if constexpr (kTall * kWide > 2) store_tile<2>(to + 2 * kSums);
    if constexpr (kTall * kWide > 3) store_tile<3>(to + 3 * kSums);
  }

 private:
  template <int kRegister>
  inline void load_weights() {
    load_tile<kRegister>(weights_, 64);
    weights_ += kTile;
  }

  template <int kRow, bool kFirst, bool kSecond>
  inline void add_row(int64_t at) {
    load_tile<4 + kRow % 2>(rows_[kRow] + at, stride_bytes_);
    if constexpr (kFirst) add_products<kRow * kWide, 4 + kRow % 2, 6>();
    if constexpr (kSecond) add_products<kRow * kWide + 1, 4 + kRow % 2, 7>();
  }

  const uint16_t* rows_[kTall];
  int64_t stride_bytes_;
  const int64_t* steps_;
  const uint16_t* weights_;
  int step_count_, step_ = 0;
  Waiting<kResidual>& waiting_;
};

template <int kTall, int kWide, bool kResidual>
inline void multiply(const Convolution& layer, int64_t index, const uint16_t* picture, const RowTile* tiles,
                     Waiting<kResidual>& waiting) {
  const Pair& pair = layer.pairs[index];
  Multiplication<kTall, kWide, kResidual> products(layer, pair, picture, tiles, waiting);
  products.template add<true, false>(pair.first);
  if constexpr (kWide == 2) {
    products.template add<true, true>(pair.both);
    products.template add<false, true>(pair.second);
  }
  waiting.write_until(waiting.count());
  products.finish(waiting.replace(&pair, index * 2 * kOutputs, tiles, kTall));
}

template <bool kResidual>
void convolve(const Convolution& layer, const uint16_t* input, uint16_t* output, const uint16_t* residual) {
  Waiting<kResidual> waiting(layer, output, residual);
  for (int64_t pair = 0; pair < layer.pair_count; ++pair) {
    const bool wide = layer.pairs[pair].wide == 2;
    for (int64_t tile = 0; tile < layer.tile_count; tile += 2) {
      const RowTile* tiles = layer.tiles + tile;
      const bool tall = tile + 1 < layer.tile_count;
      if (tall && wide)
        multiply<2, 2>(layer, pair, input, tiles, waiting);
      else if (tall)
        multiply<2, 1>(layer, pair, input, tiles, waiting);
      else if (wide)
        multiply<1, 2>(layer, pair, input, tiles, waiting);
      else
        multiply<1, 1>(layer, pair, input, tiles, waiting);
    }
  }
  waiting.write_until(waiting.count());
}

template <bool kResidual>
void convolve_by_vectors(const Convolution& layer, const uint16_t* input, uint16_t* output, const uint16_t* residual) {
  Waiting<kResidual> waiting(layer, output, residual);
  for (int64_t index = 0; index < layer.pair_count; ++index) {
    const Pair& pair = layer.pairs[index];
    for (int64_t tile = 0; tile < layer.tile_count; ++tile) {
      const RowTile* rows = layer.tiles + tile;
      float* sums = waiting.replace(&pair, index * 2 * kOutputs, rows, 1);
      for (int which = 0; which < pair.wide; ++which)
        add_pairs<kRows>(input + rows->from, layer.from_stride, pair.weights, pair.value_pairs[which],
                         pair.value_pair_count[which], true, sums + which * kSums);
      waiting.write_until(pair.wide);
    }
  }
}

// Images into a picture; channels that they lack are zero.
inline void fill(const uint16_t* image, int64_t channels, const Picture& picture, int64_t slot, uint16_t* values) {
  for (int64_t row = 0; row < picture.height; ++row) {
    uint16_t* to = values + first_pixel(picture, slot, row) * picture.channels;
    if (picture.channels == 8 && channels == 3) {
      for (int64_t x = 0; x < picture.width; ++x, image += 3, to += 8) {
        uint16_t pixel[8] = {image[0], image[1], image[2]};
        __builtin_memcpy(to, pixel, sizeof pixel);
      }
      continue;
    }
    for (int64_t x = 0; x < picture.width; ++x, image += channels, to += picture.channels) {
      __builtin_memcpy(to, image, static_cast<size_t>(channels) * 2);
      __builtin_memset(to + channels, 0, static_cast<size_t>(picture.channels - channels) * 2);
    }
  }
}

// Means over the pixels, in float32.
inline void average(const Picture& picture, int64_t slot, const uint16_t* values, float* features) {
  const float share = 1.0f / static_cast<float>(picture.height * picture.width);
  for (int64_t channel = 0; channel < picture.channels; channel += 8) {
    __m256 sum = _mm256_setzero_ps();
    for (int64_t row = 0; row < picture.height; ++row) {
      const uint16_t* from = values + first_pixel(picture, slot, row) * picture.channels + channel;
      for (int64_t x = 0; x < picture.width; ++x, from += picture.channels) {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        sum = _mm256_add_ps(sum, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)));
      }
    }
    _mm256_storeu_ps(features + channel, _mm256_mul_ps(sum, _mm256_set1_ps(share)));
  }
}

}  // namespace chain_units

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace {

struct Job {
  const Chain* chain;
  const std::vector<Segment>* segments;
  const uint16_t* images;
  int64_t channels, count;
  float* features;
};

// Layers of one segment for the images from `first` on, after all segments before it; into the slots from `slot` on of
// pictures with more images side by side.
void run_segment(const Job& job, const Memory<uint16_t>& memory, size_t index, int64_t first, int64_t slot) {
  const Segment& segment = (*job.segments)[index];
  if (index == 0) {
    const Picture& picture = job.chain->pictures[0];
    const int64_t size = picture.height * picture.width * job.channels;
    for (int64_t i = 0; i < segment.images && first + i < job.count; ++i)
      chain_units::fill(job.images + (first + i) * size, job.channels, picture, i, memory.picture(0));
  } else {
    const int64_t part = (*job.segments)[index - 1].images;
    for (int64_t i = 0; i < segment.images && first + i < job.count; i += part)
      run_segment(job, memory, index - 1, first + i, i);
  }
  for (const PlannedLayer& layer : segment.layers) {
    const int64_t offset = slot * layer.slot_distance;
    const uint16_t* input = memory.picture(layer.input);
    uint16_t* output = memory.picture(layer.output);
    const uint16_t* residual = layer.residual < 0 ? nullptr : memory.picture(layer.residual) + offset;
    const bool matrix = bfloat16_units() == Bfloat16Units::matrix;
    const auto convolve = residual == nullptr
                              ? (matrix ? chain_units::convolve<false> : chain_units::convolve_by_vectors<false>)
                              : (matrix ? chain_units::convolve<true> : chain_units::convolve_by_vectors<true>);
    convolve(layer.work, input, output + offset, residual);
    for (int64_t border : layer.rows.borders)
      std::memset(output + border, 0, static_cast<size_t>(layer.rows.border_size) * 2);
  }
}

void run(const Job& job, int64_t begin, int64_t end) {
  const Memory<uint16_t> memory(job.chain->pictures);
  const bool matrix = bfloat16_units() == Bfloat16Units::matrix;
  if (matrix) chain_units::configure();
  const Picture& averaged = job.chain->pictures[static_cast<size_t>(job.chain->averaged)];
  for (int64_t group = begin; group < end; ++group) {
    const int64_t first = group * averaged.images;
    run_segment(job, memory, job.segments->size() - 1, first, 0);
    for (int64_t i = 0; i < averaged.images && first + i < job.count; ++i)
      chain_units::average(averaged, i, memory.picture(job.chain->averaged),
                           job.features + (first + i) * averaged.channels);
  }
  if (matrix) chain_units::release();
}

}  // namespace

bool can_run_chains() { return bfloat16_units() != Bfloat16Units::none; }

void run_chain(const Chain& chain, const uint16_t* images, int64_t channels, int64_t count, float* features,
               const Threads& threads) {
  const std::vector<Segment> segments = plan(chain);
  const Job job = {&chain, &segments, images, channels, count, features};
  const int64_t side_by_side = chain.pictures[static_cast<size_t>(chain.averaged)].images;
  threads.parallel_for((count + side_by_side - 1) / side_by_side, 1,
                       [&](int64_t begin, int64_t end) { run(job, begin, end); });
}

}  // namespace prunefuse::cpu

#else

namespace prunefuse::cpu {

bool can_run_chains() { return false; }

void run_chain(const Chain&, const uint16_t*, int64_t, int64_t, float*, const Threads&) {}

}  // namespace prunefuse::cpu

#endif
