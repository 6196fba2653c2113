// The products of greedy k-centers on the bfloat16 matrix units of x86-64 (AMX).

#include <cmath>

#include "kernels.h"
#include "tiles.h"

#if defined(__x86_64__) && defined(__linux__) && \
    ((defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11) || (defined(__clang__) && __clang_major__ >= 13))
#define HAS_AMX 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WIDTH 16
#define AMX_TARGET "amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(AMX_TARGET))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

namespace prunefuse::cpu::amx {

// clang-format off: each builds on the one before
#include "vector.h"
#include "filter.h"
// clang-format on

// A tile register is 16 rows of 64 bytes; a step of the product covers 32 columns.
constexpr int64_t kStep = 32;
constexpr int64_t kTile = 512;  // bfloat16 numbers in a tile

inline int64_t steps_of(int64_t width) { return (width + kStep - 1) / kStep; }

inline size_t bfloat16_panel_bytes(int64_t width) { return static_cast<size_t>(steps_of(width) * 2 * kTile * 2); }

inline size_t bfloat16_scratch_bytes(int64_t width) {
  return static_cast<size_t>(kPanel * (4 * width + 4 * kStep * steps_of(width) + 2 * kStep * steps_of(width)) + 4096);
}

// To the nearest bfloat16, ties to even, for finite numbers; returns it as floats.
inline Floats round_to(Floats value, uint16_t* to) {
  const Words bits = (Words)value;
  const Words nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Shorts shorts = __builtin_convertvector(nearest, Shorts);
  __builtin_memcpy(to, &shorts, sizeof shorts);
  return (Floats)(nearest << 16);
}

// A block of 32 centers is [steps][2 halves of 16 centers][16 pairs of columns][16 centers][2 columns].
inline void pack_bfloat16_block(const float* exact, int64_t count, const float* shift, int64_t width, void* shifted,
                                float* half_norms, float* norm, float* error) {
  uint16_t* tiles = static_cast<uint16_t*>(shifted);
  __builtin_memset(tiles, 0, bfloat16_panel_bytes(width));
  *norm = *error = 0.0f;
  for (int64_t c = 0; c < kPanel; ++c) {
    if (c >= count) {
      half_norms[c] = 1e38f;  // nothing is near to it
      continue;
    }
    Floats norms = Floats{}, roundings = Floats{};
    for (int64_t begin = 0; begin < width; begin += kStep) {
      float values[kStep];
      uint16_t bits[kStep];
      for (int i = 0; i < kStep; ++i)
        values[i] = begin + i < width ? exact[c * width + begin + i] - shift[begin + i] : 0.0f;
      for (int i = 0; i < kStep; i += kWidth) {
        const Floats value = load(values + i);
        const Floats off = value - round_to(value, bits + i);
        norms += value * value;
        roundings += off * off;
      }
      uint32_t* tile = reinterpret_cast<uint32_t*>(tiles + (begin / kStep * 2 + c / 16) * kTile) + c % 16;
      for (int pair = 0; pair < kStep / 2; ++pair) __builtin_memcpy(tile + pair * 16, bits + 2 * pair, 4);
    }
    const float squared_norm = sum_of(norms);
    half_norms[c] = 0.5f * squared_norm * (1.0f - norm_rounding(width));
    const float length = __builtin_sqrtf(squared_norm) * (1.01f + norm_rounding(width));  // rounded ones are longer
    const float off = __builtin_sqrtf(sum_of(roundings)) * 1.01f + length * product_rounding(width);
    if (length > *norm) *norm = length;
    if (off > *error) *error = off;
  }
}

// Rounds the shifted rows to bfloat16 and notes how much each lost.
inline void round_panel(const float* shifted, int64_t stride, Panel& panel, uint16_t* rows) {
  for (int r = 0; r < kPanel; ++r) {
    Floats sum = Floats{};
    for (int64_t i = 0; i < stride; i += kWidth) {
      const Floats value = load(shifted + r * stride + i);
      const Floats off = value - round_to(value, rows + r * stride + i);
      sum += off * off;
    }
    panel.rounding[r] = __builtin_sqrtf(sum_of(sum)) * 1.01f;
    panel.norm[r] *= 1.01f;
  }
}

;

inline void dots_of_tile(const uint16_t* rows, int64_t stride, const uint16_t* block, int64_t steps, float* tile) {
  asm volatile("" : : : "memory");  // the compiler does not know that tiles are loaded from what it has stored
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step) {
    _tile_loadd(4, rows + step * kStep, stride * 2);
    _tile_loadd(5, rows + 16 * stride + step * kStep, stride * 2);
    _tile_loadd(6, block + step * 2 * kTile, 64);
    _tile_loadd(7, block + (step * 2 + 1) * kTile, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, tile, kPanel * 4);
  _tile_stored(1, tile + 16, kPanel * 4);
  _tile_stored(2, tile + 16 * kPanel, kPanel * 4);
  _tile_stored(3, tile + 16 * kPanel + 16, kPanel * 4);
}

inline int64_t fold_bfloat16(const Fold& job, int64_t begin, int64_t end, void* scratch) {
  // The product of the next tile is under way while the last one is looked through.
  alignas(64) float tile[2][kPanel * kPanel];
  const int64_t steps = steps_of(job.width), stride = steps * kStep;
  Panel panel;
  panel.exact = static_cast<float*>(scratch);
  float* shifted = panel.exact + kPanel * job.width;
  uint16_t* rows = reinterpret_cast<uint16_t*>(shifted + kPanel * stride);
  const CenterPanels& centers = *job.centers;
  const int64_t blocks = (centers.count + kPanel - 1) / kPanel;
  const uint16_t* tiles = static_cast<const uint16_t*>(centers.shifted);
  const TileConfig config;
  // The compiler does not know that the tile instructions read all of what they point to.
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
  int64_t evaluated = 0;
  for (int64_t first = begin; first < end; first += kPanel) {
    fill_panel(job, first, end, panel, shifted, stride);
    round_panel(shifted, stride, panel, rows);
    dots_of_tile(rows, stride, tiles, steps, tile[0]);
    for (int64_t block = 0; block < blocks; ++block) {
      if (block + 1 < blocks)
        dots_of_tile(rows, stride, tiles + (block + 1) * steps * 2 * kTile, steps, tile[(block + 1) % 2]);
      evaluated += lower_bounds(tile[block % 2], panel, centers, block, job.width);
    }
    keep_bounds(job, panel);
  }
  _tile_release();
  return evaluated;
}

}  // namespace prunefuse::cpu::amx

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // HAS_AMX

namespace prunefuse::cpu {

#ifdef HAS_AMX

// The processor must have the units and the kernel must let this process use them.
static bool usable() {
  if (avx512_kernels() == nullptr) return false;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool bf16 = d >> 22 & 1, tiles = d >> 24 & 1;
  if (!bf16 || !tiles) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

const Filter* amx_filter() {
  static const Filter filter = {"AMX bfloat16", amx::bfloat16_panel_bytes, amx::bfloat16_scratch_bytes,
                                amx::pack_bfloat16_block, amx::fold_bfloat16};
  static const bool is_usable = usable();
  return is_usable ? &filter : nullptr;
}

#else

const Filter* amx_filter() { return nullptr; }

#endif

}  // namespace prunefuse::cpu
