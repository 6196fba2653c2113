// The k highest scores, highest first, of equal ones the lowest position first.
#pragma once

#include <cstdint>

namespace prunefuse::cpu {

// positions: [k], 0 <= k <= count; no score is NaN.
void top_k(const float* scores, int64_t count, int64_t k, int64_t* positions);
void top_k(const double* scores, int64_t count, int64_t k, int64_t* positions);

}  // namespace prunefuse::cpu
