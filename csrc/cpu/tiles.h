// What products of tiles are told: by matrix units (AMX) and by vectors (AVX512-BF16).
#pragma once

#include <cstdint>

namespace prunefuse::cpu {

// Eight tile registers of 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Two values side by side in each row, and their weights for 16 outputs, [16 outputs][2]: where they are.
struct ValuePair {
  int64_t values, weights;
};

}  // namespace prunefuse::cpu
