// Whole networks in 8 bits on vectors that multiply bytes, four at a time (AVX512-VNNI).

#include "quantised.h"

#include "kernels.h"

namespace prunefuse::cpu {

namespace {

int64_t plain_weight_count(const Geometry& g) { return g.channels_out * g.channels_in * g.kernel * g.kernel; }

}  // namespace

std::string fault_of(const QuantisedChain& chain) {
  const std::string fault = fault_of(chain, chain.weight_count, chain.factor_count, plain_weight_count);
  if (!fault.empty()) return fault;
  for (const Picture& picture : chain.pictures)
    if (picture.images != chain.pictures[0].images) return "pictures: expected as many images side by side in all";
  constexpr int64_t kLargestProduct = 255 * 128, kLargestSum = (int64_t{1} << 31) - 1;
  for (const ChainLayer& layer : chain.layers) {
    if (layer.output == 0) return "expected no layer to write into the picture of the images";
    const int64_t inputs = chain.pictures[static_cast<size_t>(layer.input)].channels * layer.kernel * layer.kernel;
    if (inputs > kLargestSum / kLargestProduct) return "expected fewer channels: their sums have 32 bits";
  }
  return "";
}

}  // namespace prunefuse::cpu

#if defined(__x86_64__) && defined(__linux__) && \
    ((defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11) || (defined(__clang__) && __clang_major__ >= 13))

#include <immintrin.h>

namespace prunefuse::cpu {
namespace {

constexpr int64_t kQuad = 4;                        // values that are multiplied at once
constexpr int64_t kQuadWeights = kQuad * kOutputs;  // [16 outputs][4 values]

// Four values side by side in each row, and their weights for 16 outputs: where they are.
struct Quad {
  int64_t values, weights;
};

// Sums of 16 outputs side by side: 16 channels, or 8 of two neighbouring pixels.
struct Block {
  const Quad *begin, *end;
  float scale[kOutputs], offset[kOutputs], gain[kOutputs];
};

struct QuantisedLayer {
  QuantisedLayer() = default;
  QuantisedLayer(QuantisedLayer&&) = default;  // not copied: what is plain points into the vectors

  int64_t input, output, residual;
  int64_t from_stride, to_stride;  // from row to row
  const Block* first_block;
  const RowTile* first_tile;
  const int8_t* first_weight;
  int64_t block_count, tile_count;
  RowTiles rows;
  std::vector<Block> blocks;
  std::vector<Quad> quads;
  std::vector<int8_t> weights;
};

QuantisedLayer plan(const QuantisedChain& chain, const ChainLayer& layer) {
  const Picture &from = chain.pictures[static_cast<size_t>(layer.input)],
                &to = chain.pictures[static_cast<size_t>(layer.output)];
  const int64_t pixels = to.channels == 8 ? 2 : 1, padding = layer.kernel / 2;
  QuantisedLayer planned;
  planned.input = layer.input;
  planned.output = layer.output;
  planned.residual = layer.residual;
  planned.from_stride = pixels * layer.stride * from.channels;
  planned.to_stride = pixels * to.channels;
  planned.rows = tiles_of(from, to, layer.stride, pixels);
  const int8_t* weights = chain.weights + layer.weights;
  const int64_t begin = -padding * from.channels,
                end = ((pixels - 1) * layer.stride - padding + layer.kernel) * from.channels;
  std::vector<int64_t> ends;  // of the blocks, among the quads
  for (int64_t first = 0; first < planned.to_stride; first += kOutputs) {
    for (int64_t row = 0; row < layer.kernel; ++row)
      for (int64_t at = begin; at < end; at += kQuad) {
        int8_t quad[kQuadWeights] = {};
        bool is_any = false;
        for (int64_t output = 0; output < kOutputs; ++output)
          for (int64_t value = 0; value < kQuad; ++value) {
            const int64_t column = first + output, pixel = column / to.channels;
            const int64_t under = at + value - (pixel * layer.stride - padding) * from.channels;
            if (under < 0 || under >= layer.kernel * from.channels) continue;
            const int64_t source = (column % to.channels * from.channels + under % from.channels) * layer.kernel + row;
            quad[output * kQuad + value] = weights[source * layer.kernel + under / from.channels];
            is_any = is_any || quad[output * kQuad + value] != 0;
          }
        if (!is_any) continue;
        planned.quads.push_back(
            {(row - padding) * pitch_of(from) * from.channels + at, static_cast<int64_t>(planned.weights.size())});
        planned.weights.insert(planned.weights.end(), quad, quad + kQuadWeights);
      }
    ends.push_back(static_cast<int64_t>(planned.quads.size()));
    Block block = {};
    for (int64_t output = 0; output < kOutputs; ++output) {
      const float* factors = chain.factors + layer.biases + (first + output) % to.channels;
      block.scale[output] = factors[0];
      block.offset[output] = factors[chain.factor_count];
      block.gain[output] = factors[2 * chain.factor_count];
    }
    planned.blocks.push_back(block);
  }
  int64_t done = 0;
  for (size_t i = 0; i < ends.size(); ++i) {
    planned.blocks[i].begin = planned.quads.data() + done;
    planned.blocks[i].end = planned.quads.data() + ends[i];
    done = ends[i];
  }
  planned.first_block = planned.blocks.data();
  planned.first_tile = planned.rows.tiles.data();
  planned.first_weight = planned.weights.data();
  planned.block_count = static_cast<int64_t>(planned.blocks.size());
  planned.tile_count = static_cast<int64_t>(planned.rows.tiles.size());
  return planned;
}

}  // namespace

// No function of a standard header may be instantiated here first: the linker could keep the wide version for a machine
// that cannot run it.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")
#endif

namespace quantised_units {

// 16 rows of 16 outputs, from their products to their bytes; of these, the first `rows` are stored.
template <bool kResidual, bool kAll>
inline void compute(const QuantisedLayer& layer, const Block& block, const int8_t* weights, const uint8_t* from,
                    const uint8_t* residual, uint8_t* to, int64_t rows) {
  __m512i sums[kRows];
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) sums[row] = _mm512_setzero_si512();
  for (const Quad *quad = block.begin, *end = block.end; quad != end; ++quad) {
    const uint8_t* values = from + quad->values;
    const __m512i of_outputs = _mm512_loadu_si512(weights + quad->weights);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      int32_t four;
      __builtin_memcpy(&four, values + row * layer.from_stride, sizeof four);
      sums[row] = _mm512_dpbusd_epi32(sums[row], _mm512_set1_epi32(four), of_outputs);
    }
  }
  const __m512 scale = _mm512_loadu_ps(block.scale), offset = _mm512_loadu_ps(block.offset),
               gain = _mm512_loadu_ps(block.gain);
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
    if (!kAll && row >= rows) break;
    __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[row]), scale, offset);
    if constexpr (kResidual) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(residual + row * layer.to_stride));
      value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), gain, value);
    }
    // In this order what is not a number stays so, and is stored as 0.
    value = _mm512_min_ps(_mm512_set1_ps(255.0f), value);
    const __m512i whole = _mm512_max_epi32(_mm512_cvtps_epi32(value), _mm512_setzero_si512());
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + row * layer.to_stride), _mm512_cvtusepi32_epi8(whole));
  }
}

template <bool kResidual>
void compute_layer(const QuantisedLayer& layer, const uint8_t* input, uint8_t* output, const uint8_t* residual) {
  for (int64_t index = 0; index < layer.block_count; ++index) {
    const Block& block = layer.first_block[index];
    const int64_t column = index * kOutputs;
    for (int64_t i = 0; i < layer.tile_count; ++i) {
      const RowTile& tile = layer.first_tile[i];
      const uint8_t* added = kResidual ? residual + tile.to + column : nullptr;
      uint8_t* to = output + tile.to + column;
      if (tile.rows == kRows)
        compute<kResidual, true>(layer, block, layer.first_weight, input + tile.from, added, to, kRows);
      else
        compute<kResidual, false>(layer, block, layer.first_weight, input + tile.from, added, to, tile.rows);
    }
  }
}

// A picture of the images, bytes that lie channel by channel.
inline void fill(const uint8_t* image, int64_t channels, const Picture& picture, int64_t slot, uint8_t* values) {
  const int64_t size = picture.height * picture.width;
  for (int64_t row = 0; row < picture.height; ++row) {
    uint8_t* to = values + first_pixel(picture, slot, row) * picture.channels;
    const uint8_t* from = image + row * picture.width;
    if (channels == 3 && picture.channels == 8) {
      for (int64_t x = 0; x < picture.width; ++x) {
        const uint64_t pixel = from[x] | uint64_t{from[x + size]} << 8 | uint64_t{from[x + 2 * size]} << 16;
        __builtin_memcpy(to + 8 * x, &pixel, sizeof pixel);
      }
      continue;
    }
    for (int64_t channel = 0; channel < channels; ++channel)
      for (int64_t x = 0; x < picture.width; ++x) to[x * picture.channels + channel] = from[channel * size + x];
  }
}

// Means over the pixels: sums of a row are whole numbers.
inline void average(const Picture& picture, int64_t slot, const uint8_t* values, float* means) {
  const float share = 1.0f / static_cast<float>(picture.height * picture.width);
  for (int64_t channel = 0; channel < picture.channels; channel += 8) {
    __m256 sum = _mm256_setzero_ps();
    for (int64_t row = 0; row < picture.height; ++row) {
      const uint8_t* from = values + first_pixel(picture, slot, row) * picture.channels + channel;
      __m256i of_row = _mm256_setzero_si256();
      for (int64_t x = 0; x < picture.width; ++x, from += picture.channels)
        of_row =
            _mm256_add_epi32(of_row, _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
      sum = _mm256_add_ps(sum, _mm256_cvtepi32_ps(of_row));
    }
    _mm256_storeu_ps(means + channel, _mm256_mul_ps(sum, _mm256_set1_ps(share)));
  }
}

}  // namespace quantised_units

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace {

void run_layer(const QuantisedLayer& layer, const Memory<uint8_t>& memory) {
  const uint8_t* input = memory.picture(layer.input);
  uint8_t* output = memory.picture(layer.output);
  if (layer.residual < 0)
    quantised_units::compute_layer<false>(layer, input, output, nullptr);
  else
    quantised_units::compute_layer<true>(layer, input, output, memory.picture(layer.residual));
  for (int64_t border : layer.rows.borders)
    std::memset(output + border, 0, static_cast<size_t>(layer.rows.border_size));
}

}  // namespace

bool can_run_quantised_chains() { return multiplies_bytes(); }

void run_quantised_chain(const QuantisedChain& chain, const uint8_t* images, int64_t channels, const uint8_t* around,
                         int64_t count, float* means, const Threads& threads) {
  std::vector<QuantisedLayer> layers;
  for (const ChainLayer& layer : chain.layers) layers.push_back(plan(chain, layer));
  const Picture &first = chain.pictures[0], &last = chain.pictures[static_cast<size_t>(chain.averaged)];
  const int64_t size = channels * first.height * first.width, together = first.images;
  threads.parallel_for((count + together - 1) / together, 1, [&](int64_t begin, int64_t end) {
    const Memory<uint8_t> memory(chain.pictures);
    uint8_t* picture = memory.picture(0);
    for (int64_t at = 0; at + first.channels <= size_of(first); at += first.channels)
      std::memcpy(picture + at, around, static_cast<size_t>(channels));
    for (int64_t group = begin; group < end; ++group) {
      const int64_t rest = std::min(together, count - group * together);
      for (int64_t i = 0; i < rest; ++i)
        quantised_units::fill(images + (group * together + i) * size, channels, first, i, picture);
      for (const QuantisedLayer& layer : layers) run_layer(layer, memory);
      for (int64_t i = 0; i < rest; ++i)
        quantised_units::average(last, i, memory.picture(chain.averaged),
                                 means + (group * together + i) * last.channels);
    }
  });
}

}  // namespace prunefuse::cpu

#else

namespace prunefuse::cpu {

bool can_run_quantised_chains() { return false; }

void run_quantised_chain(const QuantisedChain&, const uint8_t*, int64_t, const uint8_t*, int64_t, float*,
                         const Threads&) {}

}  // namespace prunefuse::cpu

#endif
