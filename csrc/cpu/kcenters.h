// Greedy k-centers, exact, by blocks of products (kernels of this machine's processor).
#pragma once

#include <cstdint>
#include <string>

#include "kernels.h"
#include "parallel.h"

namespace prunefuse::cpu {

// What has been done so far. The caller owns the memory, so that a selection can stop, be stored, and go on.
struct KCentersState {
  int64_t centers_count;  // initial centers and picks
  int64_t* centers;       // room for centers_count + k rows
  float* bounds;          // [rows] upper bound of the scaled squared distance to the nearest center; -1 for centers
  int32_t* folded;        // [rows] how many of the centers the bound includes
};

struct KCentersReport {
  int64_t blocks = 0;     // rounds of picking
  int64_t products = 0;   // distances that a filter looked at
  int64_t evaluated = 0;  // distances that had to be computed
};

// Picks k more rows of features [rows, width]; indices and radii are [k]. k is at most the rows that are no centers.
KCentersReport advance_kcenters(const void* features, Element element, int64_t rows, int64_t width,
                                KCentersState& state, int64_t k, int64_t* indices, float* radii,
                                const Threads& threads);

}  // namespace prunefuse::cpu
