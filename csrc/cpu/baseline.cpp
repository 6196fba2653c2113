// The inner loops for any processor.

#include <cmath>

#include "kernels.h"

#define WIDTH 4

namespace prunefuse::cpu::baseline {

#include "vector.h"
#include "scoring.h"
#include "filter.h"

}  // namespace prunefuse::cpu::baseline

namespace prunefuse::cpu {

const Kernels* baseline_kernels() {
  static const Kernels kernels = {"baseline",
                                  baseline::score,
                                  baseline::score_committee,
                                  baseline::committee_scratch_bytes,
                                  baseline::largest_magnitude,
                                  baseline::convert,
                                  baseline::approach,
                                  baseline::squared_distance};
  return &kernels;
}

const Filter* baseline_filter() {
  static const Filter filter = {"baseline float32", baseline::panel_bytes, baseline::filter_scratch_bytes,
                                baseline::pack_block, baseline::fold};
  return &filter;
}

}  // namespace prunefuse::cpu
