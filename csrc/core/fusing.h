// What an entry of the dense network holds after fusion.
#pragma once

#include "random.h"

namespace prunefuse {

// How an entry is drawn that no entry of the pruned network came from.
enum class Law : int32_t {
  keep = 0,      // as it is in the dense network
  constant = 1,  // a
  uniform = 2,   // from a to b
  normal = 3,    // mean a, standard deviation b
};

// The entries from `begin` up to the next segment's begin share a law; segments lie in order and the first begins at 0.
struct Segment {
  int64_t begin;
  Law law;
  float a;
  float b;
};

// `uniform()` gives the random number that belongs to the entry; not every law asks for it.
template <class Uniform>
HOST_DEVICE float draw_with(const Segment& segment, float kept, Uniform uniform) {
  switch (segment.law) {
    case Law::constant:
      return segment.a;
    case Law::uniform:
      return fmaf(segment.b - segment.a, uniform(), segment.a);
    case Law::normal:
      return fmaf(segment.b, normal_quantile(uniform()), segment.a);
    default:
      return kept;
  }
}

// The segment that holds `position`, by bisection.
HOST_DEVICE int segment_of(const Segment* segments, int count, int64_t position) {
  int low = 0, high = count;  // segments[low].begin <= position < segments[high].begin
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (segments[middle].begin <= position)
      low = middle;
    else
      high = middle;
  }
  return low;
}

}  // namespace prunefuse
