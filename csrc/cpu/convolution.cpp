#include "convolution.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "tiles.h"

namespace prunefuse::cpu {

std::string fault_of(const ConvolutionShape& shape) {
  constexpr int64_t kLargest = 1 << 13;
  for (int64_t size : {shape.height, shape.width, shape.channels_in, shape.channels_out})
    if (size < 1 || size > kLargest) return "expected sizes from 1 to " + std::to_string(kLargest);
  if (shape.height * shape.width > int64_t{1} << 16) return "expected at most 65,536 pixels";
  if (shape.images < 0) return "expected images";
  if ((shape.kernel != 1 && shape.kernel != 3) || (shape.stride != 1 && shape.stride != 2))
    return "expected a kernel of 1 or 3 and a stride of 1 or 2";
  return "";
}

}  // namespace prunefuse::cpu

#if defined(__x86_64__) && defined(__linux__) && \
    ((defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11) || (defined(__clang__) && __clang_major__ >= 13))

#include <immintrin.h>

namespace prunefuse::cpu {
namespace {

// A tile register is 16 rows of 64 bytes: 32 values of 16 rows, or 16 sums of them.
constexpr int64_t kRows = 16;
constexpr int64_t kValues = 32;
constexpr int64_t kOutputs = 16;
constexpr int64_t kTile = kRows * kValues;
constexpr int64_t kSums = kRows * kOutputs;

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

int64_t floor_divide(int64_t value, int64_t divisor) {
  return value >= 0 ? value / divisor : -((divisor - 1 - value) / divisor);
}

// Of pixels begin, begin + stride, ... that are below `size`.
int64_t count_from(int64_t begin, int64_t stride, int64_t size) {
  return begin < size ? (size - begin - 1) / stride + 1 : 0;
}

class Memory {
 public:
  explicit Memory(int64_t values)
      : values_(static_cast<uint16_t*>(std::aligned_alloc(64, static_cast<size_t>(round_up(values * 2, 64))))),
        bytes_(static_cast<size_t>(values) * 2) {
    if (!values_) throw std::bad_alloc();
    clear();
  }
  void clear() { std::memset(values_.get(), 0, bytes_); }
  uint16_t* values() const { return values_.get(); }

 private:
  struct Free {
    void operator()(uint16_t* values) const { std::free(values); }
  };
  std::unique_ptr<uint16_t, Free> values_;
  size_t bytes_;
};

uint16_t rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return value == value ? static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) : uint16_t{0x7fc0};
}

// ---- sums over the taps: forward, and the gradient by the input ----

// Taps of one row of the kernel. Those of every second pixel are another plane of the input: `plane` is the first row
// of it, then the first column, as bits. Tap `across` is the weight in column `column + (across - first) * step`.
struct RowOfTaps {
  int64_t plane, down;
  int64_t first, last;
  int64_t row, column, step;
};

// Outputs of every second row and column have taps of their own.
struct OutputPhase {
  int64_t row, column;
  std::vector<RowOfTaps> taps;
};

// Both directions of a convolution: to every output belongs a pixel of the grid, to which its taps are relative.
struct Sums {
  int64_t images;
  int64_t from_height, from_width, from_channels, from_stride;
  int64_t to_height, to_width, to_channels, to_stride;
  int64_t grid_height, grid_width;
  int64_t kernel;
  std::vector<OutputPhase> phases;
};

int64_t grid_height(const ConvolutionShape& shape) { return (shape.height - 1) / shape.stride + 1; }
int64_t grid_width(const ConvolutionShape& shape) { return (shape.width - 1) / shape.stride + 1; }

Sums forward_of(const ConvolutionShape& shape) {
  const int64_t s = shape.stride, padding = shape.kernel / 2;
  OutputPhase all = {0, 0, {}};
  for (int64_t row = 0; row < shape.kernel; ++row) {
    const int64_t down = floor_divide(row - padding, s), plane = (row - padding - down * s) * s;
    if (shape.kernel == 1) {
      all.taps.push_back({0, 0, 0, 0, 0, 0, 1});
    } else if (s == 1) {
      all.taps.push_back({0, down, -1, 1, row, 0, 1});
    } else {
      all.taps.push_back({plane, down, 0, 0, row, 1, 1});
      all.taps.push_back({plane + 1, down, -1, 0, row, 0, 2});
    }
  }
  return {shape.images,
          shape.height,
          shape.width,
          shape.channels_in,
          s,
          grid_height(shape),
          grid_width(shape),
          shape.channels_out,
          1,
          grid_height(shape),
          grid_width(shape),
          shape.kernel,
          {all}};
}

Sums backward_of(const ConvolutionShape& shape) {
  const int64_t s = shape.stride;
  std::vector<OutputPhase> phases;
  for (int64_t y = 0; y < s; ++y)
    for (int64_t x = 0; x < s; ++x) {
      OutputPhase phase = {y, x, {}};
      if (shape.kernel == 1) {
        if (y == 0 && x == 0) phase.taps.push_back({0, 0, 0, 0, 0, 0, 1});
      } else {
        for (int64_t row = 0; row < 3; ++row) {
          if ((y + 1 - row) % s != 0) continue;
          const int64_t down = (y + 1 - row) / s;
          if (s == 1)
            phase.taps.push_back({0, down, -1, 1, row, 2, -1});
          else if (x == 0)
            phase.taps.push_back({0, down, 0, 0, row, 1, 1});
          else
            phase.taps.push_back({0, down, 0, 1, row, 2, -2});
        }
      }
      phases.push_back(phase);
    }
  return {shape.images,
          grid_height(shape),
          grid_width(shape),
          shape.channels_out,
          1,
          shape.height,
          shape.width,
          shape.channels_in,
          s,
          grid_height(shape),
          grid_width(shape),
          shape.kernel,
          phases};
}

// How the planes of a few images are kept. An *entry* is a few pixels side by side, 32 values or a multiple; the
// entries of the images at the same place follow each other, so that narrow images fill the rows of a tile too. There
// are zeros around.
struct Planes {
  int64_t count;
  int64_t channels;  // of a pixel, filled up with zeros
  int64_t pixels;    // of an entry
  int64_t images;
  int64_t entries;  // in a row of an image, borders included
  int64_t rows;

  explicit Planes(const Sums& sums) {
    const int64_t needed = sums.from_channels;
    channels = needed <= 8 ? 8 : needed <= 16 ? 16 : round_up(needed, kValues);
    pixels = std::max<int64_t>(1, kValues / channels);
    count = sums.kernel == 1 ? 1 : sums.from_stride * sums.from_stride;
    entries = round_up(sums.grid_width, pixels) / pixels + 2;
    rows = sums.grid_height + 2;
    images = std::min(sums.images, std::max<int64_t>(1, kRows / (entries - 2)));
  }
  int64_t width() const { return pixels * channels; }  // of an entry
  int64_t pitch() const { return entries * images * width(); }
  int64_t size() const { return rows * pitch(); }
  int64_t total() const { return count * size() + (kRows + images + 1) * width(); }  // tiles are loaded whole
  int64_t offset(int64_t pixel, int64_t image) const {  // of a pixel in a row, counted from the first inside
    return ((pixel / pixels + 1) * images + image) * width() + pixel % pixels * channels;
  }
};

// Products for two neighbouring tiles of outputs (or for one): first those of both, then by turns (so that none waits
// for the one before) those of the first alone and of the second alone, then what is left of either.
struct Pair {
  int wide;
  int64_t both, turns, first, second;
  std::vector<int64_t> steps;  // where the values of each step are, relative to the entry
  std::vector<uint16_t> weights;
  std::vector<ValuePair> value_pairs[2];  // by tile of outputs: the same products without those with zeros between

  const int64_t* first_step() const { return steps.data(); }
  const uint16_t* first_weight() const { return weights.data(); }
  const ValuePair* first_value_pair(int which) const { return value_pairs[which].data(); }
  int64_t value_pair_count(int which) const { return static_cast<int64_t>(value_pairs[which].size()); }
};

// 32 values under a row of taps, from `begin` on; 0 is the entry's own first.
struct Step {
  const RowOfTaps* taps;
  int64_t begin;
};

struct PlannedPhase {
  int64_t row, column;
  std::vector<Pair> pairs;
};

struct Plan {
  Sums sums;
  Planes planes;
  int64_t to_channels;  // filled up
  std::vector<PlannedPhase> phases;
};

// Weights as [to][row][column][planes.channels], of which `from` are no zeros to fill up.
struct Rounded {
  std::vector<uint16_t> values;
  int64_t to, from, kernel, channels;
};

Rounded rounded_weight(const ConvolutionShape& shape, const float* weight, int64_t channels, bool turned) {
  const int64_t out = shape.channels_out, in = shape.channels_in, taps = shape.kernel * shape.kernel;
  const int64_t to = turned ? in : out, from = turned ? out : in;
  Rounded result = {std::vector<uint16_t>(static_cast<size_t>(to * taps * channels)), to, from, shape.kernel, channels};
  for (int64_t o = 0; o < out; ++o)
    for (int64_t tap = 0; tap < taps; ++tap) {
      const float* row = weight + (o * taps + tap) * in;
      if (turned)
        for (int64_t i = 0; i < in; ++i)
          result.values[static_cast<size_t>((i * taps + tap) * channels + o)] = rounded(row[i]);
      else
        for (int64_t i = 0; i < in; ++i)
          result.values[static_cast<size_t>((o * taps + tap) * channels + i)] = rounded(row[i]);
    }
  return result;
}

// A tile of weights is [16 pairs of values][16 outputs][2 values]; returns by pair whether it has any.
std::array<bool, kValues / 2> pack(const Rounded& weight, const RowOfTaps& taps, int64_t begin, int64_t tile,
                                   int64_t to_channels, uint16_t* to) {
  std::array<bool, kValues / 2> used = {};
  for (int64_t value = 0; value < kValues; value += 2) {
    const int64_t pixel = floor_divide(begin + value, weight.channels);
    const int64_t channel = begin + value - pixel * weight.channels;
    for (int64_t column = 0; column < kOutputs; ++column, to += 2) {
      const int64_t output = (tile * kOutputs + column) % to_channels;
      const int64_t across = pixel - (tile * kOutputs + column) / to_channels;
      if (across < taps.first || across > taps.last || output >= weight.to) continue;
      const int64_t at =
          (output * weight.kernel + taps.row) * weight.kernel + taps.column + (across - taps.first) * taps.step;
      std::memcpy(to, weight.values.data() + at * weight.channels + channel, 4);
      if (channel < weight.from) used[static_cast<size_t>(value / 2)] = true;
    }
  }
  return used;
}

PlannedPhase plan(const OutputPhase& phase, const Planes& planes, const Rounded& weight, int64_t to_channels) {
  PlannedPhase planned = {phase.row, phase.column, {}};
  const int64_t across = planes.pixels * to_channels / kOutputs;
  for (int64_t tile = 0; tile < across; tile += 2) {
    Pair pair = {tile + 1 < across ? 2 : 1, 0, 0, 0, 0, {}, {}, {}};
    // Whether the tile has weights for the 32 values from `begin` on.
    const auto needs = [&](int64_t which, const RowOfTaps& taps, int64_t begin) {
      const int64_t first = which * kOutputs / to_channels, last = (which * kOutputs + kOutputs - 1) / to_channels;
      return which < across && begin + kValues > (first + taps.first) * planes.channels &&
             begin < (last + taps.last + 1) * planes.channels;
    };
    const auto steps_of = [&](bool in_first, bool in_second) {
      std::vector<Step> steps;
      for (const RowOfTaps& taps : phase.taps)
        for (int64_t begin = -planes.width(); begin < 2 * planes.width(); begin += kValues)
          if (needs(tile, taps, begin) == in_first && needs(tile + 1, taps, begin) == in_second)
            steps.push_back({&taps, begin});
      return steps;
    };
    const auto add = [&](const Step& step, bool in_first, bool in_second) {
      const int64_t entry = floor_divide(step.begin, planes.width());
      pair.steps.push_back(step.taps->plane * planes.size() + step.taps->down * planes.pitch() +
                           entry * planes.images * planes.width() + step.begin - entry * planes.width());
      for (int64_t which = 0; which < 2; ++which)
        if (which == 0 ? in_first : in_second) {
          const int64_t begin = static_cast<int64_t>(pair.weights.size());
          pair.weights.resize(pair.weights.size() + kTile);
          const std::array<bool, kValues / 2> used = pack(weight, *step.taps, step.begin, tile + which, to_channels,
                                                          &pair.weights[static_cast<size_t>(begin)]);
          for (int64_t i = 0; i < kValues / 2; ++i)
            if (used[static_cast<size_t>(i)])
              pair.value_pairs[which].push_back({pair.steps.back() + 2 * i, begin + i * kValues});
        }
    };
    const std::vector<Step> both = steps_of(true, true), first = steps_of(true, false), second = steps_of(false, true);
    const size_t turns = std::min(first.size(), second.size());
    for (const Step& step : both) add(step, true, true);
    for (size_t i = 0; i < turns; ++i) {
      add(first[i], true, false);
      add(second[i], false, true);
    }
    for (size_t i = turns; i < first.size(); ++i) add(first[i], true, false);
    for (size_t i = turns; i < second.size(); ++i) add(second[i], false, true);
    pair.both = static_cast<int64_t>(both.size());
    pair.turns = static_cast<int64_t>(turns);
    pair.first = static_cast<int64_t>(first.size() - turns);
    pair.second = static_cast<int64_t>(second.size() - turns);
    planned.pairs.push_back(std::move(pair));
  }
  return planned;
}

Plan plan(const ConvolutionShape& shape, const float* weight, bool backward) {
  const Sums sums = backward ? backward_of(shape) : forward_of(shape);
  const Planes planes(sums);
  const int64_t to_channels = sums.to_channels <= 8 && planes.pixels > 1 ? 8 : round_up(sums.to_channels, kOutputs);
  Plan planned = {sums, planes, to_channels, {}};
  const Rounded rounded = rounded_weight(shape, weight, planes.channels, backward);
  for (const OutputPhase& phase : sums.phases) planned.phases.push_back(plan(phase, planes, rounded, to_channels));
  return planned;
}

// ---- gradient by the weight: products of all shifts of x with dy, over the pixels ----

// Pixels of a few images one after another, row by row, with a row of zeros before every image and columns of zeros
// behind every row: a tap is a shift by so many pixels. Two neighbouring pixels of 16 channels make a row of a tile.
// There are two ways to pair them, by whether the first is even or odd: shifts by an odd number take the other.
struct Strip {
  int64_t images;  // in a strip
  int64_t height, width, pitch;
  int64_t pixels;  // from the first to the last, whole tiles
  int64_t pairs;   // of a plane and channel tile, with what shifted tiles reach
  int64_t tiles_in, tiles_out;
  int64_t planes;

  explicit Strip(const ConvolutionShape& shape) {
    constexpr int64_t kPixels = 1024;  // enough to outweigh the sums being loaded and stored
    height = grid_height(shape);
    width = grid_width(shape);
    pitch = round_up(width + 1, 2);
    images = std::max<int64_t>(1, std::min(shape.images, kPixels / ((height + 1) * pitch)));
    pixels = round_up((images * (height + 1) - 1) * pitch, kValues);
    pairs = round_up((pixels + 2 * pitch) / 2 + kRows + 2, kRows);
    tiles_in = round_up(shape.channels_in, kOutputs) / kOutputs;
    tiles_out = round_up(shape.channels_out, kOutputs) / kOutputs;
    planes = shape.kernel == 1 ? 1 : shape.stride * shape.stride;
  }
  int64_t first_pair(int64_t image, int64_t row) const { return (image * (height + 1) + 1 + row) * pitch / 2; }
  // Of all pixels that are no zeros of the border: where they are in a tile of dy, turned, and in one of x.
  std::vector<ValuePair> pixel_pairs() const {
    std::vector<ValuePair> found;
    for (int64_t image = 0; image < images; ++image)
      for (int64_t row = 0; row < height; ++row)
        for (int64_t i = 0; 2 * i < width; ++i) {
          const int64_t pair = first_pair(image, row) - first_pair(0, 0) + i;
          found.push_back({pair / kRows * kTile + pair % kRows * 2, pair * kValues});
        }
    return found;
  }
  int64_t plane_size() const { return tiles_in * pairs * kValues; }
};

constexpr int64_t kShares = 16;  // partial sums of so many parts of the images, whatever the number of threads

}  // namespace

// No function of a standard header may be instantiated here first: the linker could keep the wide version for a machine
// that cannot run it.
#define CONVOLUTION_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(CONVOLUTION_TARGET))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

namespace convolution_units {

#include "matrix_units.h"
#include "vector_units.h"

// ---- sums over the taps ----

struct Targets {
  const int64_t* to;     // by row of the tiles of an image row: where its first pixel goes, or -1
  const int64_t* pixel;  // which of the row's pixels that is
  int64_t width;         // pixels in a row of this phase
  int64_t pixel_distance;
  int64_t row_distance;
  int64_t channels, padded;
};

// What one thread needs for a phase of a group of images.
struct Work {
  const uint16_t* planes;  // at the first entry inside of the first plane
  int64_t pitch, width;    // values from row to row, from entry to entry
  int64_t tiles_in_row, tiles;
  Targets targets;
  uint16_t* output;
};

// Sums that are not in the output yet, [tall][wide][16 rows][16 outputs]: they are written there tile by tile, while
// other products are under way.
class Waiting {
 public:
  explicit Waiting(const Work& work) : work_(work) {}

  float* replace(int64_t tile, int64_t column, int tall, int wide) {
    tile_ = tile;
    column_ = column;
    wide_ = wide;
    count_ = tall * wide;
    written_ = 0;
    return sums_;
  }
  int count() const { return count_; }
  void write_until(int count) {
    for (; written_ < count; ++written_) write(tile_ + written_ / wide_, column_ + written_ % wide_);
  }

 private:
  inline void write(int64_t tile, int64_t column) {
    const Targets& targets = work_.targets;
    const float* sums = sums_ + written_ * kSums;
    const int64_t row = tile / work_.tiles_in_row, first = (tile - row * work_.tiles_in_row) * kRows;
    const int64_t pixel = column * kOutputs / targets.padded, channel = column * kOutputs - pixel * targets.padded;
    uint16_t* output = work_.output + row * targets.row_distance + pixel * targets.pixel_distance + channel;
    if (targets.padded == 8) {
      const __mmask8 some = static_cast<__mmask8>((1u << targets.channels) - 1);
      for (int64_t i = 0; i < kRows; ++i, sums += kOutputs) {
        const int64_t to = targets.to[first + i], x = targets.pixel[first + i] + pixel;
        const __m256i values = (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(sums));
        if (to >= 0 && x + 1 < targets.width && targets.pixel_distance == 8) {
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(output + to), values);
          continue;
        }
        if (to >= 0 && x < targets.width) _mm_mask_storeu_epi16(output + to, some, _mm256_castsi256_si128(values));
        if (to >= 0 && x + 1 < targets.width)
          _mm_mask_storeu_epi16(output + to + targets.pixel_distance, some, _mm256_extracti128_si256(values, 1));
      }
      return;
    }
    const int64_t left = targets.channels - channel;
    const __mmask16 some = left >= kOutputs ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
    for (int64_t i = 0; i < kRows; ++i, sums += kOutputs) {
      const int64_t to = targets.to[first + i];
      if (to >= 0 && targets.pixel[first + i] + pixel < targets.width)
        _mm256_mask_storeu_epi16(output + to, some, (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(sums)));
    }
  }

  alignas(64) float sums_[4 * kSums];
  const Work& work_;
  int64_t tile_ = 0, column_ = 0;
  int wide_ = 1, count_ = 0, written_ = 0;
};

// Products of one or two tiles of weights and one or two tiles of rows; sums in registers 0 to 3, by tile of rows and,
// in these, by tile of weights; inputs in 4 and 5, weights in 6 and 7.
template <int kTall, int kWide>
class Multiplication {
 public:
  Multiplication(const Work& work, const Pair& pair, int64_t tile, Waiting& waiting)
      : stride_bytes_(work.width * 2), steps_(pair.first_step()), weights_(pair.first_weight()), waiting_(waiting) {
    // The sums before these are not there yet when the first step begins.
    const int64_t later = pair.both + 2 * pair.turns + pair.first + pair.second - 1;
    if (later > 0) rate_ = waiting.count() * kWhole / static_cast<int>(later);
    for (int64_t t = 0; t < kTall; ++t) {
      const int64_t row = (tile + t) / work.tiles_in_row, in_row = tile + t - row * work.tiles_in_row;
      rows_[t] = work.planes + row * work.pitch + in_row * kRows * work.width;
    }
    clear_tile<0>();
    if constexpr (kTall * kWide > 1) clear_tile<1>();
    if constexpr (kTall * kWide > 2) clear_tile<2>();
    if constexpr (kTall * kWide > 3) clear_tile<3>();
  }

  template <bool kFirst, bool kSecond>
  inline void add(int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = *steps_++;
      if constexpr (kFirst) load_weights<6>();
      if constexpr (kSecond) load_weights<7>();
      add_row<0, kFirst, kSecond>(at);
      if constexpr (kTall > 1) add_row<1, kFirst, kSecond>(at);
      waiting_.write_until(due_ / kWhole);
      due_ += rate_;
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
  static constexpr int kWhole = 1 << 16;
  int rate_ = 0, due_ = 0;  // tiles to write, times kWhole
  Waiting& waiting_;
};

template <int kTall, int kWide>
inline void multiply(const Work& work, const Pair& pair, int64_t tile, int64_t column, Waiting& waiting) {
  Multiplication<kTall, kWide> products(work, pair, tile, waiting);
  if constexpr (kWide == 2) {
    products.template add<true, true>(pair.both);
    for (int64_t i = 0; i < pair.turns; ++i) {
      products.template add<true, false>(1);
      products.template add<false, true>(1);
    }
  }
  products.template add<true, false>(pair.first);
  if constexpr (kWide == 2) products.template add<false, true>(pair.second);
  waiting.write_until(waiting.count());
  products.finish(waiting.replace(tile, column, kTall, kWide));
}

void multiply_all(const Work& work, const Pair* pairs, int64_t pair_count) {
  Waiting waiting(work);
  for (int64_t index = 0; index < pair_count; ++index) {
    const Pair& pair = pairs[index];
    for (int64_t tile = 0; tile < work.tiles; tile += 2) {
      const bool tall = tile + 1 < work.tiles;
      if (tall && pair.wide == 2)
        multiply<2, 2>(work, pair, tile, 2 * index, waiting);
      else if (tall)
        multiply<2, 1>(work, pair, tile, 2 * index, waiting);
      else if (pair.wide == 2)
        multiply<1, 2>(work, pair, tile, 2 * index, waiting);
      else
        multiply<1, 1>(work, pair, tile, 2 * index, waiting);
    }
  }
  waiting.write_until(waiting.count());
}

void multiply_all_by_vectors(const Work& work, const Pair* pairs, int64_t pair_count) {
  Waiting waiting(work);
  for (int64_t index = 0; index < pair_count; ++index) {
    const Pair& pair = pairs[index];
    for (int which = 0; which < pair.wide; ++which)
      for (int64_t tile = 0; tile < work.tiles; ++tile) {
        const int64_t row = tile / work.tiles_in_row, in_row = tile - row * work.tiles_in_row;
        const uint16_t* rows = work.planes + row * work.pitch + in_row * kRows * work.width;
        add_pairs<kRows>(rows, work.width, pair.first_weight(), pair.first_value_pair(which),
                         pair.value_pair_count(which), true, waiting.replace(tile, 2 * index + which, 1, 1));
        waiting.write_until(1);
      }
  }
}

// ---- gradient by the weight ----

// Pixels of 16 channels.
struct Row {
  const uint16_t* pixels;
  int64_t distance, count;
  __mmask16 channels;

  __m512i operator[](int64_t i) const {
    if (i < 0 || i >= count) return _mm512_setzero_si512();
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(channels, pixels + i * distance));
  }
};

inline void pair_up(const Row& row, int64_t pairs, uint16_t* even, uint16_t* odd) {
  __m512i before = _mm512_setzero_si512();
  for (int64_t i = 0; i < pairs; ++i) {
    const __m512i first = row[2 * i], second = row[2 * i + 1];
    _mm512_store_si512(even + i * kValues, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
    if (odd != nullptr) _mm512_store_si512(odd + i * kValues, _mm512_or_si512(before, _mm512_slli_epi32(first, 16)));
    before = second;
  }
}

inline __mmask16 channels_of_tile(int64_t tile, int64_t channels) {
  const int64_t left = channels - tile * kOutputs;
  return left >= kOutputs ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
}

// What GCC's own functions leave out, they say it is used.
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

// 16 rows of 16 words, turned.
inline void transpose(const uint16_t* from, uint16_t* to) {
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = _mm512_load_si512(from + i * kValues);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  // a[4 g + c] holds words c, c + 4, c + 8 and c + 12 of rows 4 g to 4 g + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88), high = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
    const __m512i low2 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88),
                  high2 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
    _mm512_store_si512(to + c * kValues, _mm512_shuffle_i32x4(low, low2, 0x88));
    _mm512_store_si512(to + (c + 8) * kValues, _mm512_shuffle_i32x4(low, low2, 0xdd));
    _mm512_store_si512(to + (c + 4) * kValues, _mm512_shuffle_i32x4(high, high2, 0x88));
    _mm512_store_si512(to + (c + 12) * kValues, _mm512_shuffle_i32x4(high, high2, 0xdd));
  }
}

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

template <int kRegister>
inline void begin_sums(float* sums, bool first) {
  if (first)
    clear_tile<kRegister>();
  else
    load_tile<kRegister>(sums, 64);
}

// Sums += dy turned times x, for one or two tiles of dy and one or three shifts of x; sums in registers 0 to 5, by tile
// of dy and, in these, by shift.
template <int kTall, int kShifts>
inline void multiply_pixels(const uint16_t* const* dy, const uint16_t* const* x, int64_t steps, float* const* sums,
                            bool first) {
  begin_sums<0>(sums[0], first);
  if constexpr (kShifts == 3) {
    begin_sums<1>(sums[0] + kSums, first);
    begin_sums<2>(sums[0] + 2 * kSums, first);
  }
  if constexpr (kTall == 2) begin_sums<3>(sums[1], first);
  if constexpr (kTall == 2 && kShifts == 3) {
    begin_sums<4>(sums[1] + kSums, first);
    begin_sums<5>(sums[1] + 2 * kSums, first);
  }
  for (int64_t i = 0; i < steps; ++i) {
    load_tile<6>(dy[0] + i * kTile, 64);
    load_tile<7>(x[0] + i * kTile, 64);
    add_products<0, 6, 7>();
    if constexpr (kShifts == 3) {
      load_tile<7>(x[1] + i * kTile, 64);
      add_products<1, 6, 7>();
      load_tile<7>(x[2] + i * kTile, 64);
      add_products<2, 6, 7>();
    }
    if constexpr (kTall == 2) {
      load_tile<6>(dy[1] + i * kTile, 64);
      if constexpr (kShifts == 3) {
        add_products<5, 6, 7>();
        load_tile<7>(x[1] + i * kTile, 64);
        add_products<4, 6, 7>();
        load_tile<7>(x[0] + i * kTile, 64);
      }
      add_products<3, 6, 7>();
    }
  }
  store_tile<0>(sums[0]);
  if constexpr (kShifts == 3) {
    store_tile<1>(sums[0] + kSums);
    store_tile<2>(sums[0] + 2 * kSums);
  }
  if constexpr (kTall == 2) store_tile<3>(sums[1]);
  if constexpr (kTall == 2 && kShifts == 3) {
    store_tile<4>(sums[1] + kSums);
    store_tile<5>(sums[1] + 2 * kSums);
  }
}

// Scratch of one thread.
struct Strips {
  uint16_t *even, *odd;  // x, [plane][channel tile][pair][16][2]
  uint16_t* paired;      // dy, [channel tile][pair][16][2]
  uint16_t* turned;      // dy, [channel tile][32 pixels][16][32]
};

void fill_strips(const ConvolutionShape& shape, const Strip& strip, const uint16_t* dy, const uint16_t* x,
                 int64_t present, const Strips& to) {
  const int64_t s = shape.stride, pairs_in_row = strip.pitch / 2;
  for (int64_t image = 0; image < present; ++image)
    for (int64_t y = 0; y < strip.height; ++y) {
      const int64_t at = strip.first_pair(image, y) * kValues;
      for (int64_t plane = 0; plane < strip.planes; ++plane) {
        const int64_t row = y * s + plane / s, column = plane % s;
        const bool inside = row < shape.height && column < shape.width;
        for (int64_t tile = 0; tile < strip.tiles_in; ++tile) {
          const int64_t own = (plane * strip.tiles_in + tile) * strip.pairs * kValues + at;
          const int64_t offset = ((image * shape.height + row) * shape.width + column) * shape.channels_in;
          const Row pixels = {inside ? x + offset + tile * kOutputs : x, s * shape.channels_in,
                              inside ? (shape.width - column - 1) / s + 1 : 0,
                              channels_of_tile(tile, shape.channels_in)};
          pair_up(pixels, pairs_in_row, to.even + own, shape.kernel == 1 ? nullptr : to.odd + own);
        }
      }
      for (int64_t tile = 0; tile < strip.tiles_out; ++tile) {
        const int64_t offset = (image * strip.height + y) * strip.width * shape.channels_out;
        const Row pixels = {dy + offset + tile * kOutputs, shape.channels_out, strip.width,
                            channels_of_tile(tile, shape.channels_out)};
        pair_up(pixels, pairs_in_row, to.paired + tile * strip.pairs * kValues + at, nullptr);
      }
    }
  const int64_t steps = strip.pixels / kValues;
  for (int64_t tile = 0; tile < strip.tiles_out; ++tile)
    for (int64_t step = 0; step < steps; ++step)
      transpose(to.paired + (tile * strip.pairs + pairs_in_row + step * kRows) * kValues,
                to.turned + (tile * steps + step) * kTile);
}

// Where the tiles of dy and, shifted, of x begin, and where their sums go.
struct Operands {
  const uint16_t *dy[2], *x[3];
  float* sums[2];
};

// Calls multiply(operands, channels of dy, at most two tiles) for all pairs of tiles and rows of the kernel. Sums are
// [tile out][tile in][row of the kernel][column][16 out][16 in].
template <class Multiply>
inline void for_each_product(const ConvolutionShape& shape, const Strip& strip, const Strips& strips, float* sums,
                             const Multiply& multiply) {
  const int64_t steps = strip.pixels / kValues, taps = shape.kernel * shape.kernel, padding = shape.kernel / 2;
  const int64_t s = shape.stride;
  for (int64_t out = 0; out < strip.tiles_out; out += 2)
    for (int64_t in = 0; in < strip.tiles_in; ++in)
      for (int64_t row = 0; row < shape.kernel; ++row) {
        Operands operands;
        const bool tall = out + 1 < strip.tiles_out;
        for (int64_t t = 0; t < (tall ? 2 : 1); ++t) {
          operands.dy[t] = strips.turned + (out + t) * steps * kTile;
          operands.sums[t] = sums + (((out + t) * strip.tiles_in + in) * taps + row * shape.kernel) * kSums;
        }
        for (int64_t column = 0; column < shape.kernel; ++column) {
          const auto divide = [&](int64_t value) { return value < 0 ? -1 : value / s; };  // -1 is the least
          const int64_t down = divide(row - padding), across = divide(column - padding);
          const int64_t plane = (row - padding - down * s) * s + column - padding - across * s;
          const int64_t shift = strip.pitch + down * strip.pitch + across;
          const uint16_t* paired = shift % 2 == 0 ? strips.even : strips.odd;
          operands.x[column] = paired + ((plane * strip.tiles_in + in) * strip.pairs + (shift + 1) / 2) * kValues;
        }
        multiply(operands, std::min(2 * kOutputs, shape.channels_out - out * kOutputs));
      }
}

void add_strip(const ConvolutionShape& shape, const Strip& strip, const Strips& strips, float* sums, bool first) {
  const int64_t steps = strip.pixels / kValues;
  for_each_product(shape, strip, strips, sums, [&](const Operands& of, int64_t channels) {
    const bool tall = channels > kOutputs;
    if (tall && shape.kernel == 3)
      multiply_pixels<2, 3>(of.dy, of.x, steps, of.sums, first);
    else if (tall)
      multiply_pixels<2, 1>(of.dy, of.x, steps, of.sums, first);
    else if (shape.kernel == 3)
      multiply_pixels<1, 3>(of.dy, of.x, steps, of.sums, first);
    else
      multiply_pixels<1, 1>(of.dy, of.x, steps, of.sums, first);
  });
}

void add_strip_by_vectors(const ConvolutionShape& shape, const Strip& strip, const Strips& strips,
                          const ValuePair* pairs, int64_t count, float* sums, bool first) {
  for_each_product(shape, strip, strips, sums, [&](const Operands& of, int64_t channels) {
    for (int t = 0; t * kOutputs < channels; ++t)
      for (int64_t column = 0; column < shape.kernel; ++column) {
        const auto add = channels - t * kOutputs > kRows / 2 ? add_pairs<kRows> : add_pairs<kRows / 2>;
        add(of.dy[t], kValues, of.x[column], pairs, count, first, of.sums[t] + column * kSums);
      }
  });
}

}  // namespace convolution_units

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace {

// A call of memcpy takes longer than so few values.
inline void copy(const uint16_t* from, int64_t count, uint16_t* to) {
  for (; count >= 8; count -= 8, from += 8, to += 8) __builtin_memcpy(to, from, 16);
  for (; count > 0; --count) *to++ = *from++;
}

void fill(const Plan& plan, const uint16_t* from, int64_t present, uint16_t* values) {
  const Sums& sums = plan.sums;
  const Planes& planes = plan.planes;
  const int64_t s = sums.from_stride, channels = sums.from_channels;
  for (int64_t image = 0; image < present; ++image)
    for (int64_t y = 0; y < sums.from_height; ++y) {
      const uint16_t* row = from + (image * sums.from_height + y) * sums.from_width * channels;
      for (int64_t column = 0; column < s && column < sums.from_width; ++column) {
        if (y % s * s + column >= planes.count) continue;
        uint16_t* to = values + (y % s * s + column) * planes.size() + (y / s + 1) * planes.pitch();
        const int64_t count = count_from(column, s, sums.from_width);
        if (s == 1 && planes.images == 1 && channels == planes.channels) {
          std::memcpy(to + planes.offset(0, 0), row, static_cast<size_t>(count * channels) * 2);
        } else if (s == 1 && channels == planes.channels && count % planes.pixels == 0) {
          for (int64_t x = 0; x < count; x += planes.pixels)
            copy(row + x * channels, planes.width(), to + planes.offset(x, image));
        } else {
          for (int64_t x = 0; x < count; ++x)
            copy(row + (x * s + column) * channels, channels, to + planes.offset(x, image));
        }
      }
    }
}

void run(const Plan& plan, const uint16_t* from, uint16_t* to, const Threads& threads) {
  const Sums& sums = plan.sums;
  const Planes& planes = plan.planes;
  if (sums.images == 0) return;
  const int64_t from_size = sums.from_height * sums.from_width * sums.from_channels;
  const int64_t to_size = sums.to_height * sums.to_width * sums.to_channels;
  const int64_t tiles_in_row = round_up((planes.entries - 2) * planes.images, kRows) / kRows;
  const int64_t groups = (sums.images + planes.images - 1) / planes.images;
  const bool matrix = bfloat16_units() == Bfloat16Units::matrix;
  threads.parallel_for(groups, 1, [&](int64_t begin, int64_t end) {
    const Memory memory(planes.total());
    std::vector<int64_t> targets(static_cast<size_t>(tiles_in_row * kRows)), pixels(targets.size());
    if (matrix) convolution_units::configure();
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * planes.images, present = std::min(planes.images, sums.images - first);
      fill(plan, from + first * from_size, present, memory.values());
      for (size_t i = 0; i < targets.size(); ++i) {
        const int64_t entry = static_cast<int64_t>(i) / planes.images, image = static_cast<int64_t>(i) % planes.images;
        pixels[i] = entry * planes.pixels;
        targets[i] = image < present && pixels[i] < sums.grid_width
                         ? image * to_size + pixels[i] * sums.to_stride * sums.to_channels
                         : -1;
      }
      for (const PlannedPhase& phase : plan.phases) {
        const int64_t rows = count_from(phase.row, sums.to_stride, sums.to_height);
        const convolution_units::Work work = {
            memory.values() + planes.pitch() + planes.images * planes.width(),
            planes.pitch(),
            planes.width(),
            tiles_in_row,
            rows * tiles_in_row,
            {targets.data(), pixels.data(), count_from(phase.column, sums.to_stride, sums.to_width),
             sums.to_stride * sums.to_channels, sums.to_stride * sums.to_width * sums.to_channels, sums.to_channels,
             plan.to_channels},
            to + first * to_size + (phase.row * sums.to_width + phase.column) * sums.to_channels};
        const auto multiply = matrix ? convolution_units::multiply_all : convolution_units::multiply_all_by_vectors;
        multiply(work, phase.pairs.data(), static_cast<int64_t>(phase.pairs.size()));
      }
    }
    if (matrix) convolution_units::release();
  });
}

}  // namespace

void convolve(const ConvolutionShape& shape, const uint16_t* x, const float* weight, uint16_t* y,
              const Threads& threads) {
  run(plan(shape, weight, false), x, y, threads);
}

void convolve_input_gradient(const ConvolutionShape& shape, const uint16_t* dy, const float* weight, uint16_t* dx,
                             const Threads& threads) {
  run(plan(shape, weight, true), dy, dx, threads);
}

void convolve_weight_gradient(const ConvolutionShape& shape, const uint16_t* dy, const uint16_t* x, float* dweight,
                              const Threads& threads) {
  const int64_t out = shape.channels_out, in = shape.channels_in, taps = shape.kernel * shape.kernel;
  if (shape.images == 0) {
    std::memset(dweight, 0, static_cast<size_t>(out * taps * in) * sizeof(float));
    return;
  }
  const Strip strip(shape);
  const int64_t groups = (shape.images + strip.images - 1) / strip.images, shares = std::min(groups, kShares);
  const int64_t share_size = strip.tiles_out * strip.tiles_in * taps * kSums;
  const Memory partial(2 * shares * share_size);
  float* sums = reinterpret_cast<float*>(partial.values());
  const bool matrix = bfloat16_units() == Bfloat16Units::matrix;
  const std::vector<ValuePair> pairs = matrix ? std::vector<ValuePair>() : strip.pixel_pairs();
  const int64_t x_size = shape.height * shape.width * in, dy_size = strip.height * strip.width * out;
  threads.parallel_for(shares, 1, [&](int64_t begin, int64_t end) {
    const int64_t x_strip = strip.planes * strip.plane_size(), dy_strip = strip.tiles_out * strip.pairs * kValues;
    Memory memory(2 * x_strip + dy_strip + strip.tiles_out * strip.pixels * kOutputs);
    uint16_t* even = memory.values();
    const convolution_units::Strips strips = {even, even + x_strip, even + 2 * x_strip, even + 2 * x_strip + dy_strip};
    if (matrix) convolution_units::configure();
    for (int64_t share = begin; share < end; ++share) {
      const int64_t first = share * groups / shares, last = (share + 1) * groups / shares;
      for (int64_t group = first; group < last; ++group) {
        const int64_t image = group * strip.images, present = std::min(strip.images, shape.images - image);
        if (present < strip.images) memory.clear();
        convolution_units::fill_strips(shape, strip, dy + image * dy_size, x + image * x_size, present, strips);
        float* to = sums + share * share_size;
        if (matrix)
          convolution_units::add_strip(shape, strip, strips, to, group == first);
        else
          convolution_units::add_strip_by_vectors(shape, strip, strips, pairs.data(),
                                                  static_cast<int64_t>(pairs.size()), to, group == first);
      }
    }
    if (matrix) convolution_units::release();
  });
  for (int64_t share = 1; share < shares; ++share)
    for (int64_t i = 0; i < share_size; ++i) sums[i] += sums[share * share_size + i];
  for (int64_t o = 0; o < out; ++o)
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t i = 0; i < in; ++i)
        dweight[(o * taps + tap) * in + i] =
            sums[((o / kOutputs * strip.tiles_in + i / kOutputs) * taps + tap) * kSums + o % kOutputs * kOutputs +
                 i % kOutputs];
}

}  // namespace prunefuse::cpu

#else

namespace prunefuse::cpu {

void convolve(const ConvolutionShape&, const uint16_t*, const float*, uint16_t*, const Threads&) {}
void convolve_input_gradient(const ConvolutionShape&, const uint16_t*, const float*, uint16_t*, const Threads&) {}
void convolve_weight_gradient(const ConvolutionShape&, const uint16_t*, const uint16_t*, float*, const Threads&) {}

}  // namespace prunefuse::cpu

#endif
