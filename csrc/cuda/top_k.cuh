// The highest of many scores by radix selection: of equal ones the lowest positions, and everything on the device.
//
// Scores are compared by their order keys. Digit by digit, from the highest, the scores that share the digits found so
// far are counted by their next one, until the key of the last score that is chosen is known, and how many of those
// that have this very key. Then blocks count what they hold, and write it in the order of positions.
#pragma once

#include "../core/order.h"
#include "element.cuh"
#include "warp.cuh"

namespace prunefuse::cuda {

constexpr int select_threads = 256, digit_bits = 11, digit_values = 1 << digit_bits;
constexpr int select_items = 8, select_tile = select_threads * select_items;  // of a thread, of a block
constexpr int64_t most_selected_from = 0xffffffff;

HOST_DEVICE uint64_t wide_order_key(float score) { return order_key(score); }
HOST_DEVICE uint64_t wide_order_key(double score) { return order_key(score); }

struct Selection {
  uint64_t threshold;   // digits of the last chosen key, as far as they are known
  uint64_t ties_taken;  // how many scores with these digits are chosen
};

struct SelectWorkspace {
  Selection* selection;
  uint32_t* histogram;    // [digit_values]
  uint64_t* tile_counts;  // [tiles], above the threshold in the high half, equal to it in the low half; later before it
};

inline int64_t select_workspace_bytes(int64_t count) {
  return sizeof(Selection) + digit_values * sizeof(uint32_t) + pieces_of(count, select_tile) * sizeof(uint64_t);
}

inline SelectWorkspace select_workspace(void* memory) {
  Selection* const selection = static_cast<Selection*>(memory);
  uint64_t* const counts = reinterpret_cast<uint64_t*>(selection + 1);
  return {selection, reinterpret_cast<uint32_t*>(counts), counts + digit_values / 2};
}

// Calls `visit(position, score)` for a thread's items of a tile, in the order of positions.
template <class Score, class Visit>
__device__ __forceinline__ void visit_items(const Score* scores, int64_t count, int64_t first, Visit visit) {
  constexpr int packs = select_items / pack_size<Score>;
  Pack<Score> pack[packs];
#pragma unroll
  for (int p = 0; p < packs; ++p) pack[p] = load_pack(scores, count, first + p * pack_size<Score>, Score{});
#pragma unroll
  for (int i = 0; i < select_items; ++i)
    if (first + i < count) visit(first + i, pack[i / pack_size<Score>].element[i % pack_size<Score>]);
}

__global__ void __launch_bounds__(select_threads)
    begin_selection(Selection* selection, uint32_t* histogram, uint64_t wanted) {
  if (threadIdx.x == 0) *selection = {0, wanted};
  for (int digit = threadIdx.x; digit < digit_values; digit += select_threads) histogram[digit] = 0;
}

// Counts the next digit of the scores whose digits under the mask `known` are those of the threshold.
template <class Score>
__global__ void __launch_bounds__(select_threads)
    count_digits(const Score* __restrict__ scores, int64_t count, const Selection* __restrict__ selection,
                 uint64_t known, int shift, uint32_t values, uint32_t* histogram) {
  SHARED_ARRAY(uint32_t, counts, digit_values);
  for (int digit = threadIdx.x; digit < digit_values; digit += select_threads) counts[digit] = 0;
  __syncthreads();
  const uint64_t threshold = selection->threshold;
  for (int64_t tile = blockIdx.x; tile * select_tile < count; tile += gridDim.x)
    visit_items(scores, count, tile * select_tile + threadIdx.x * select_items, [&](int64_t, Score score) {
      const uint64_t key = wide_order_key(score);
      if ((key & known) == threshold) atomicAdd(&counts[static_cast<uint32_t>(key >> shift) & (values - 1)], 1u);
    });
  __syncthreads();
  for (int digit = threadIdx.x; digit < digit_values; digit += select_threads)
    if (counts[digit] != 0) atomicAdd(&histogram[digit], counts[digit]);
}

// One block: finds the digit of the last chosen score from the counts, and clears them for the next digit.
__global__ void __launch_bounds__(select_threads) choose_digit(Selection* selection, uint32_t* histogram, int shift) {
  constexpr int digits = digit_values / select_threads;
  SHARED_ARRAY(uint64_t, of_warp, select_threads / warp_lanes);
  const uint64_t wanted = selection->ties_taken;
  const int highest = digit_values - 1 - static_cast<int>(threadIdx.x) * digits;
  uint64_t own = 0, all;
#pragma unroll
  for (int i = 0; i < digits; ++i) own += histogram[highest - i];
  uint64_t higher = sum_before(own, of_warp, all);
#pragma unroll
  for (int i = 0; i < digits; ++i) {
    const uint64_t here = histogram[highest - i];
    if (higher < wanted && wanted <= higher + here) {
      selection->threshold |= static_cast<uint64_t>(highest - i) << shift;
      selection->ties_taken = wanted - higher;
    }
    higher += here;
    histogram[highest - i] = 0;
  }
}

template <class Score>
__device__ __forceinline__ uint64_t count_items(const Score* scores, int64_t count, int64_t first, uint64_t threshold) {
  uint64_t counts = 0;
  visit_items(scores, count, first, [&](int64_t, Score score) {
    const uint64_t key = wide_order_key(score);
    counts += key > threshold ? uint64_t{1} << 32 : key == threshold;
  });
  return counts;
}

template <class Score>
__global__ void __launch_bounds__(select_threads)
    count_tiles(const Score* __restrict__ scores, int64_t count, const Selection* __restrict__ selection,
                uint64_t* __restrict__ tile_counts) {
  SHARED_ARRAY(uint64_t, of_warp, select_threads / warp_lanes);
  for (int64_t tile = blockIdx.x; tile * select_tile < count; tile += gridDim.x) {
    const uint64_t own =
        count_items(scores, count, tile * select_tile + threadIdx.x * select_items, selection->threshold);
    uint64_t all;
    sum_before(own, of_warp, all);
    if (threadIdx.x == 0) tile_counts[tile] = all;
    __syncthreads();
  }
}

constexpr int scan_threads = 256;

// One block: replaces the count of every tile by the sum of those before it.
__global__ void __launch_bounds__(scan_threads) sum_tiles_before(uint64_t* tile_counts, int64_t tiles) {
  SHARED_ARRAY(uint64_t, of_warp, scan_threads / warp_lanes);
  uint64_t passed = 0;
  for (int64_t first = 0; first < tiles; first += scan_threads) {
    const int64_t tile = first + threadIdx.x;
    uint64_t all;
    const uint64_t before = sum_before(tile < tiles ? tile_counts[tile] : 0, of_warp, all);
    if (tile < tiles) tile_counts[tile] = passed + before;
    passed += all;
    __syncthreads();
  }
}

// Writes the chosen scores and their positions, lowest position first; zeros lose their sign.
template <class Score>
__global__ void __launch_bounds__(select_threads)
    write_selected(const Score* __restrict__ scores, int64_t count, const Selection* __restrict__ selection,
                   const uint64_t* __restrict__ tile_counts, int64_t* __restrict__ positions,
                   Score* __restrict__ chosen) {
  SHARED_ARRAY(uint64_t, of_warp, select_threads / warp_lanes);
  const uint64_t threshold = selection->threshold, ties_taken = selection->ties_taken;
  for (int64_t tile = blockIdx.x; tile * select_tile < count; tile += gridDim.x) {
    const int64_t first = tile * select_tile + threadIdx.x * select_items;
    uint64_t all;
    const uint64_t before = tile_counts[tile] + sum_before(count_items(scores, count, first, threshold), of_warp, all);
    uint64_t above = before >> 32, equal = before & 0xffffffff;
    visit_items(scores, count, first, [&](int64_t position, Score score) {
      const uint64_t key = wide_order_key(score);
      if (key < threshold) return;
      if (key > threshold || equal < ties_taken) {
        const uint64_t slot = above + (equal < ties_taken ? equal : ties_taken);
        positions[slot] = position;
        chosen[slot] = score == 0 ? Score{0} : score;
      }
      if (key > threshold)
        ++above;
      else
        ++equal;
    });
    __syncthreads();
  }
}

// The `wanted` highest of the scores in the order of positions, and their positions. 0 < wanted <= count; the count is
// at most `most_selected_from`.
template <class Score>
void select_highest(const Score* scores, int64_t count, int64_t wanted, int64_t* positions, Score* chosen, void* memory,
                    cudaStream_t stream) {
  constexpr int key_bits = 8 * sizeof(Score);
  const SelectWorkspace work = select_workspace(memory);
  const int64_t tiles = pieces_of(count, select_tile);
  LAUNCH(begin_selection, 1, select_threads, 0, stream, work.selection, work.histogram, static_cast<uint64_t>(wanted));
  uint64_t known = 0;
  for (int left = key_bits; left > 0;) {
    const int bits = left < digit_bits ? left : digit_bits;
    left -= bits;
    const uint32_t values = 1u << bits;
    auto* const kernel = count_digits<Score>;
    LAUNCH(kernel, grid_for(tiles, 1024), select_threads, 0, stream, scores, count, work.selection, known, left, values,
           work.histogram);
    LAUNCH(choose_digit, 1, select_threads, 0, stream, work.selection, work.histogram, left);
    known |= static_cast<uint64_t>(values - 1) << left;
  }
  auto* const count_kernel = count_tiles<Score>;
  LAUNCH(count_kernel, grid_for(tiles), select_threads, 0, stream, scores, count, work.selection, work.tile_counts);
  LAUNCH(sum_tiles_before, 1, scan_threads, 0, stream, work.tile_counts, tiles);
  auto* const write_kernel = write_selected<Score>;
  LAUNCH(write_kernel, grid_for(tiles), select_threads, 0, stream, scores, count, work.selection, work.tile_counts,
         positions, chosen);
}

}  // namespace prunefuse::cuda
