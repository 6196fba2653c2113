// The inner loops, once per instruction set; the best one is chosen when the program runs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../core/fusing.h"
#include "../core/kinds.h"

namespace prunefuse::cpu {

enum class Element : int { float32, bfloat16, float16 };

constexpr int64_t kPanel = 32;  // rows and centers of one tile of dot products

constexpr int64_t kGroup = 16;  // candidates whose distances are computed side by side

struct Furthest {
  float value;
  int64_t position;  // the first of equal ones
};

// Centers of a fold, prepared for the tiles; all values are scaled, `shifted` ones have the shift taken off.
struct CenterPanels {
  int64_t count = 0;        // centers; the last block of kPanel is filled up with centers that nothing is near to
  int64_t width = 0;        // columns
  const float* exact;       // [count, width]: for distances
  const void* shifted;      // tiles in the filter's own layout
  const float* half_norms;  // [blocks * kPanel]: half the squared norm, less what rounding may have added
  const float* norm;        // [blocks]: the largest norm of the block
  const float* error;  // [blocks]: the largest (rounding of the center + of the product, relative to the row's norm)
};

// One fold: bounds[row] = min(bounds[row], squared distance of the row to each center).
struct Fold {
  const void* features;
  Element element;
  int64_t width;
  float scale;
  const float* shift;   // [width], scaled
  const int64_t* rows;  // which rows; null for all
  float* bounds;        // by row
  const CenterPanels* centers;
};

struct Kernels {
  const char* name;
  void (*score)(const void* logits, Element element, int64_t rows, int64_t classes, ScoreKind kind, float* scores);
  // Rows begin to end of [members, samples, classes]; scratch as committee_scratch_bytes says.
  void (*score_committee)(const void* logits, Element element, int64_t members, int64_t samples, int64_t classes,
                          int64_t begin, int64_t end, CommitteeKind kind, float* scores, void* scratch);
  size_t (*committee_scratch_bytes)(int64_t members, int64_t classes);
  // Largest absolute value of [count] elements; NaN and infinities are not looked for.
  float (*largest_magnitude)(const void* from, Element element, int64_t count);
  // Row as floats times scale.
  void (*convert)(const void* from, Element element, int64_t count, float scale, float* to);
  // values = min(values, squared distance of each point to `center`); the furthest point of all afterwards. The points
  // lie in groups of kGroup, column by column: [groups, width, kGroup].
  Furthest (*approach)(const float* points, int64_t groups, int64_t width, const float* center, float* values);
  float (*squared_distance)(const float* a, const float* b, int64_t width);
  // What the entries from `begin` of a segment are drawn as, by any law but keep.
  void (*draw)(const Segment& segment, uint64_t begin, int64_t count, uint64_t seed, float* to);
  // Batch norm: element i of [pixels, channels] belongs to lane i % period of the coefficients and sums, [period].
  void (*channel_sums)(const void* x, Element element, int64_t elements, int64_t period, const float* shift,
                       float* sums, float* squares);
  // Of the gradient as it is before the ReLU: of y = relu(..), which is kept; then it is stored, too. Or of
  // relu(x * scale + offset) where y is null. Or, where scale is null, there is no ReLU.
  void (*gradient_sums)(const void* dy, const void* y, const void* x, Element element, int64_t elements, int64_t period,
                        const float* mean, const float* scale, const float* offset, void* gradients, float* sums,
                        float* products);
  // x * scale + offset, or relu of that, or of that and `added` (not null).
  void (*scale_channels)(const void* x, const void* added, bool rectified, Element element, int64_t elements,
                         int64_t period, const float* scale, const float* offset, void* y);
  // The gradient as above (scale may be null) * of_dy + x * of_x + shift.
  void (*combine_channels)(const void* dy, const void* x, Element element, int64_t elements, int64_t period,
                           const float* of_dy, const float* of_x, const float* shift, const float* scale,
                           const float* offset, void* dx);
};

// The products of a fold run in one of these; all of them give the same bounds.
struct Filter {
  const char* name;
  size_t (*panel_bytes)(int64_t width);    // shifted tiles of one block of centers
  size_t (*scratch_bytes)(int64_t width);  // of one thread
  void (*pack_block)(const float* exact, int64_t count, const float* shift, int64_t width, void* shifted,
                     float* half_norms, float* norm, float* error);
  // Rows begin to end of fold.rows; returns how many distances were evaluated.
  int64_t (*fold)(const Fold& fold, int64_t begin, int64_t end, void* scratch);
};

const Kernels& kernels();         // of the best instruction set, or the one that PRUNEFUSE_BENCH_ISA names
const Filter& single_filter();    // products in single precision
const Filter* bfloat16_filter();  // products on bfloat16 matrix units; null where there are none

// What multiplies bfloat16 numbers: matrix units (AMX), or vectors (AVX512-BF16).
enum class Bfloat16Units { none, vector, matrix };
Bfloat16Units bfloat16_units();

// Whether vectors multiply bytes (AVX512-VNNI) and no matrix units multiply bfloat16 numbers, which are faster still.
bool multiplies_bytes();

// nullptr where the processor or the compiler lacks them
const Kernels* baseline_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Filter* baseline_filter();
const Filter* avx2_filter();
const Filter* avx512_filter();
const Filter* amx_filter();

bool avx512_multiplies_bfloat16();  // whether there are vector products (AVX512-BF16)
bool avx512_multiplies_bytes();     // whether there are vector products (AVX512-VNNI)

}  // namespace prunefuse::cpu
