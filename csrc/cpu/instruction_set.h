// The inner loops for one instruction set. The including file defines
//   INSTRUCTION_SET  the name: a namespace, and the beginning of the names of the two functions at the end
//   WIDTH            floats per vector
//   TARGET           the compiler's target string; none for the baseline
//   SUPPORTED        whether the processor that runs this has it

#include <cmath>

#include "../core/fusing.h"
#include "kernels.h"

#ifdef TARGET
#include <immintrin.h>
#define AS_STRING(text) #text
#define PRAGMA(text) _Pragma(AS_STRING(text))
#if defined(__clang__)
PRAGMA(clang attribute push(__attribute__((target(TARGET))), apply_to = function))
#else
_Pragma("GCC push_options") PRAGMA(GCC target(TARGET))
#endif
#endif

namespace prunefuse::cpu::INSTRUCTION_SET {

// clang-format off: each builds on the one before
#include "vector.h"
#include "scoring.h"
#include "filter.h"
#include "drawing.h"
#include "normalising.h"
// clang-format on

}  // namespace prunefuse::cpu::INSTRUCTION_SET

#ifdef TARGET
#if defined(__clang__)
_Pragma("clang attribute pop")
#else
_Pragma("GCC pop_options")
#endif
#endif

#define JOIN_NAMES(a, b) a##b
#define JOIN(a, b) JOIN_NAMES(a, b)
#define NAME_OF(set) #set
#define NAME(set) NAME_OF(set)

    namespace prunefuse::cpu {

  const Kernels* JOIN(INSTRUCTION_SET, _kernels)() {
    namespace set = INSTRUCTION_SET;
    static const Kernels kernels = {
        NAME(INSTRUCTION_SET),  set::score,        set::score_committee, set::committee_scratch_bytes,
        set::largest_magnitude, set::convert,      set::approach,        set::squared_distance,
        set::draw_entries,      set::channel_sums, set::gradient_sums,   set::scale_channels,
        set::combine_channels};
    return SUPPORTED ? &kernels : nullptr;
  }

  const Filter* JOIN(INSTRUCTION_SET, _filter)() {
    namespace set = INSTRUCTION_SET;
    static const Filter filter = {NAME(INSTRUCTION_SET) " float32", set::panel_bytes, set::filter_scratch_bytes,
                                  set::pack_block, set::fold};
    return SUPPORTED ? &filter : nullptr;
  }

}  // namespace prunefuse::cpu
