// Greedy k-centers: every pick is the row that is furthest from its nearest center, and all of it on the device.
//
// Picks are made in blocks. The rows with the largest bounds are the candidates, and their distances to each other are
// computed at once. One thread block then picks among them, as long as the best candidate is ahead of every other row's
// bound; after that the new centers are folded into the bounds of all rows. Whatever the number of candidates, the
// picks are those that the greedy method makes one by one.
#pragma once

#include "distances.cuh"
#include "top_k.cuh"

namespace prunefuse::cuda {

constexpr int most_candidates = 1024, fewest_candidates = 64;

// ---- what is computed once: the scale, and the row furthest from the mean where there is no center yet ----

constexpr int scan_blocks = 1024, reduce_threads = 256;

__global__ void __launch_bounds__(32) clear_largest(uint32_t* largest) {
  if (threadIdx.x == 0) *largest = 0;
}

// Magnitudes order like their bits.
template <class T>
__global__ void __launch_bounds__(reduce_threads)
    find_largest(const T* __restrict__ features, int64_t count, uint32_t* __restrict__ largest) {
  SHARED_ARRAY(Most, of_warp, reduce_threads / warp_lanes);
  Most most;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * reduce_threads * pack_size<T>;
  for (int64_t start =
           (static_cast<int64_t>(blockIdx.x) * reduce_threads + threadIdx.x) * pack_size<T> - past_boundary(features);
       start < count; start += stride) {
    const Pack<T> pack = load_pack(features, count, start, T{});
#pragma unroll
    for (int i = 0; i < pack_size<T>; ++i) most.merge({same_bits<uint32_t>(to_float(pack.element[i])) & 0x7fffffffu});
  }
  most = merge_block(most, of_warp);
  if (threadIdx.x == 0) atomicMax(largest, most.value);
}

constexpr int mean_lanes = 32, mean_phases = 8;
constexpr int most_mean_parts = 256;

inline int64_t mean_parts(int64_t rows) {
  const int64_t parts = pieces_of(rows, 256);
  return parts < most_mean_parts ? parts : most_mean_parts;
}

// Sums the columns over the rows of one part: lanes lie side by side, phases take every eighth row.
template <class T>
__global__ void __launch_bounds__(mean_lanes* mean_phases)
    sum_parts(const T* __restrict__ features, int64_t rows, int64_t dimensions, double* __restrict__ sums) {
  constexpr int size = pack_size<T>;
  SHARED_ARRAY(double, of_phase, mean_phases * mean_lanes * size);
  const int lane = threadIdx.x % mean_lanes, phase = threadIdx.x / mean_lanes;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * mean_lanes + lane) * size;
  const int64_t begin = rows * blockIdx.y / gridDim.y, end = rows * (blockIdx.y + 1) / gridDim.y;
  double sum[size] = {};
  if (first < dimensions)
    for (int64_t row = begin + phase; row < end; row += mean_phases) {
      const Pack<T> pack = load_pack(features + row * dimensions, dimensions, first, T{});
#pragma unroll
      for (int i = 0; i < size; ++i) sum[i] += to_float(pack.element[i]);
    }
#pragma unroll
  for (int i = 0; i < size; ++i) of_phase[(phase * size + i) * mean_lanes + lane] = sum[i];
  __syncthreads();
  if (phase == 0)
#pragma unroll
    for (int i = 0; i < size; ++i) {
      double all = 0.0;
      for (int p = 0; p < mean_phases; ++p) all += of_phase[(p * size + i) * mean_lanes + lane];
      if (first + i < dimensions) sums[blockIdx.y * dimensions + first + i] = all;
    }
}

// The scaled mean in two floats, of which the second is what the first has lost.
struct Mean {
  float high;
  float low;
};

__global__ void __launch_bounds__(reduce_threads)
    finish_mean(const double* __restrict__ sums, int64_t parts, int64_t rows, int64_t dimensions,
                const uint32_t* __restrict__ largest, Mean* __restrict__ mean) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * reduce_threads + threadIdx.x;
  if (column >= dimensions) return;
  double sum = 0.0;
  for (int64_t part = 0; part < parts; ++part) sum += sums[part * dimensions + column];
  const double exact = sum / static_cast<double>(rows) * scale_for(*largest);
  const float high = static_cast<float>(exact);
  mean[column] = {high, static_cast<float>(exact - high)};
}

struct Sum {
  float value = 0.0f;
  __device__ __forceinline__ void merge(const Sum& other) { value += other.value; }
};

// A row to a warp.
template <class T>
__global__ void __launch_bounds__(reduce_threads)
    distances_to_mean(const T* __restrict__ features, int64_t rows, int64_t dimensions, const Mean* __restrict__ mean,
                      const uint32_t* __restrict__ largest, float* __restrict__ distances) {
  constexpr int rows_of_block = reduce_threads / warp_lanes;
  const float scale = scale_for(*largest);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * rows_of_block; first < rows;
       first += static_cast<int64_t>(gridDim.x) * rows_of_block) {
    const int64_t row = first + threadIdx.x / warp_lanes;
    Sum sum;
    if (row < rows) {
      const T* const feature = features + row * dimensions;
      for (int64_t start = static_cast<int64_t>(threadIdx.x % warp_lanes) * pack_size<T> - past_boundary(feature);
           start < dimensions; start += warp_lanes * pack_size<T>) {
        const Pack<T> pack = load_pack(feature, dimensions, start, T{});
        float part = 0.0f;
#pragma unroll
        for (int i = 0; i < pack_size<T>; ++i)
          if (start + i >= 0 && start + i < dimensions) {
            const Mean from = mean[start + i];
            const float difference = (to_float(pack.element[i]) * scale - from.high) - from.low;
            part = fmaf(difference, difference, part);
          }
        sum.value += part;
      }
    }
    sum = merge_lanes<warp_lanes>(sum);
    if (threadIdx.x % warp_lanes == 0 && row < rows) distances[row] = sum.value;
  }
}

__global__ void __launch_bounds__(32) accept_first(const int64_t* row, int64_t* center, float* radius) {
  if (threadIdx.x == 0) {
    *center = *row;
    *radius = INFINITY;
  }
}

// ---- the fold ----

// Takes the centers from the first that a row's bound lacks to the last into the bounds.
template <class T, int columns>
__global__ void __launch_bounds__(distance_threads, 2)
    fold_centers(const T* __restrict__ features, int64_t rows, int64_t dimensions, const uint32_t* __restrict__ largest,
                 const int64_t* __restrict__ centers, int64_t centers_count, float* __restrict__ bounds,
                 int32_t* __restrict__ folded) {
  constexpr int own_columns = columns / thread_columns;
  SHARED_ARRAY(Slab<columns>, slabs, 2);
  SHARED_ARRAY(Least, of_warp, distance_threads / warp_lanes);
  SHARED_ARRAY(int64_t, first_missing, 1);
  const float scale = scale_for(*largest);
  for (int64_t first_row = static_cast<int64_t>(blockIdx.x) * tile_rows; first_row < rows;
       first_row += static_cast<int64_t>(gridDim.x) * tile_rows) {
    Least least;
    const int64_t looked_at = first_row + threadIdx.x;
    if (threadIdx.x < tile_rows && looked_at < rows) least.value = static_cast<uint64_t>(folded[looked_at]);
    least = merge_block(least, of_warp);
    if (threadIdx.x == 0) *first_missing = static_cast<int64_t>(least.value);
    __syncthreads();

    float nearest[rows_of_thread];
#pragma unroll
    for (int i = 0; i < rows_of_thread; ++i) nearest[i] = INFINITY;
    for (int64_t first = *first_missing; first < centers_count; first += columns) {
      float distance[rows_of_thread][own_columns];
      tile_distances<T, columns>(
          features, dimensions, scale, [=](int row) { return first_row + row < rows ? first_row + row : -1; },
          [=](int column) { return first + column < centers_count ? centers[first + column] : -1; }, slabs, distance);
#pragma unroll
      for (int j = 0; j < own_columns; ++j)
        if (first + tile_column<columns>(j) < centers_count)
#pragma unroll
          for (int i = 0; i < rows_of_thread; ++i) nearest[i] = fminf(nearest[i], distance[i][j]);
    }
#pragma unroll
    for (int i = 0; i < rows_of_thread; ++i) {
#pragma unroll
      for (int lanes = thread_columns / 2; lanes > 0; lanes /= 2)
        nearest[i] = fminf(nearest[i], shuffle_xor(nearest[i], lanes));
      const int64_t row = first_row + tile_row(i);
      if (threadIdx.x % thread_columns == 0 && row < rows) {
        bounds[row] = fminf(bounds[row], nearest[i]);
        folded[row] = static_cast<int32_t>(centers_count);
      }
    }
    __syncthreads();
  }
}

// Centers are below every other row.
__global__ void __launch_bounds__(reduce_threads)
    mark_centers(const int64_t* __restrict__ centers, int64_t count, float* __restrict__ bounds) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * reduce_threads + threadIdx.x;
  if (i < count) bounds[centers[i]] = -1.0f;
}

// ---- picking among candidates ----

constexpr int candidate_columns = 64;

template <class T>
__global__ void __launch_bounds__(distance_threads, 2)
    candidate_distances(const T* __restrict__ features, int64_t dimensions, const uint32_t* __restrict__ largest,
                        const int64_t* __restrict__ candidates, int count, float* __restrict__ distances) {
  constexpr int columns = candidate_columns;
  SHARED_ARRAY(Slab<columns>, slabs, 2);
  const int first_row = blockIdx.y * tile_rows, first_column = blockIdx.x * columns;
  float distance[rows_of_thread][columns / thread_columns];
  tile_distances<T, columns>(
      features, dimensions, scale_for(*largest),
      [=](int row) { return first_row + row < count ? candidates[first_row + row] : -1; },
      [=](int column) { return first_column + column < count ? candidates[first_column + column] : -1; }, slabs,
      distance);
#pragma unroll
  for (int i = 0; i < rows_of_thread; ++i)
#pragma unroll
    for (int j = 0; j < columns / thread_columns; ++j) {
      const int row = first_row + tile_row(i), column = first_column + tile_column<columns>(j);
      if (row < count && column < count) distances[static_cast<int64_t>(row) * count + column] = distance[i][j];
    }
}

// The best of a warp's candidates: the order key of its distance, and which one it is.
struct Leader {
  uint32_t key;
  int candidate;
};

__device__ __forceinline__ Leader leader_of_warp(uint32_t key, int candidate) {
  const uint32_t best = __reduce_max_sync(whole_warp, key);
  const int lane = __ffs(__ballot_sync(whole_warp, key == best)) - 1;  // of equal ones the first
  return {best, __shfl_sync(whole_warp, candidate, lane)};
}

// One block with a thread for each candidate; candidates are in the order of their rows. Where there are other rows the
// worst candidate is not one: it is their best, and picking stops when it would be next.
__global__ void __launch_bounds__(most_candidates, 1)
    pick_candidates(const int64_t* __restrict__ candidates, const float* __restrict__ bounds, int count,
                    bool last_is_outside, const float* __restrict__ distances, const uint32_t* __restrict__ largest,
                    int64_t wanted, int64_t* __restrict__ picks, float* __restrict__ radii,
                    int64_t* __restrict__ accepted) {
  constexpr int warps = most_candidates / warp_lanes;
  SHARED_ARRAY(Leader, leaders, 2 * warps);
  SHARED_ARRAY(Least, of_warp, warps);
  SHARED_ARRAY(uint64_t, shared_worst, 1);
  const int thread = threadIdx.x, warp = thread / warp_lanes, lane = thread % warp_lanes;
  const uint32_t never = order_key(-1.0f);
  float value = thread < count ? bounds[thread] : -1.0f;

  // Key in the high half, position from the end in the low one: the least is the lowest key at the highest position.
  Least worst;
  if (last_is_outside && thread < count) worst.value = static_cast<uint64_t>(order_key(value)) << 32 | (count - thread);
  worst = merge_block(worst, of_warp);
  if (thread == 0) *shared_worst = worst.value;
  __syncthreads();
  const uint32_t outside_key = last_is_outside ? static_cast<uint32_t>(*shared_worst >> 32) : 0;
  const int outside_at = last_is_outside ? count - static_cast<int>(*shared_worst & 0xffffffff) : count;
  if (thread == outside_at) value = -1.0f;

  const float unscale = 1.0f / scale_for(*largest);
  int64_t picked = 0;
  while (picked < wanted) {
    Leader* const turn = leaders + picked % 2 * warps;
    const Leader of_own_warp = leader_of_warp(order_key(value), thread);
    if (lane == 0) turn[warp] = of_own_warp;
    __syncthreads();
    Leader seen = {0, 0};
    if (lane < static_cast<int>(blockDim.x) / warp_lanes) seen = turn[lane];
    const Leader best = leader_of_warp(seen.key, seen.candidate);
    if (best.key <= never || best.key < outside_key || (best.key == outside_key && best.candidate > outside_at)) break;
    if (thread == best.candidate) {
      picks[picked] = candidates[thread];
      radii[picked] = sqrtf(value) * unscale;
      value = -1.0f;
    } else if (thread < count) {
      value = fminf(value, distances[static_cast<int64_t>(best.candidate) * count + thread]);
    }
    ++picked;
  }
  if (thread == 0) *accepted = picked;
}

// ---- all together ----

// Pieces of one allocation, each of them on a boundary of 256 bytes.
class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <class T>
  T* take(int64_t count) {
    char* const piece = memory_ + used_;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    return reinterpret_cast<T*>(piece);
  }

  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

struct KCentersWorkspace {
  uint32_t* largest;
  int64_t* accepted;
  int64_t* candidates;  // [most_candidates]
  float* candidate_bounds;
  float* candidate_distances;  // [most_candidates]^2, or as many as there are rows
  char* selection;
  // For a first pick without any center; other pieces lie over them.
  double* mean_sums;
  Mean* mean;
  float* mean_distances;
  int64_t bytes;
};

inline KCentersWorkspace kcenters_workspace(void* memory, int64_t rows, int64_t dimensions, bool from_mean) {
  const int64_t candidates = rows < most_candidates ? rows : most_candidates;
  KCentersWorkspace work;
  Carver carver(memory);
  work.largest = carver.take<uint32_t>(1);
  work.accepted = carver.take<int64_t>(1);
  work.candidates = carver.take<int64_t>(candidates);
  work.candidate_bounds = carver.take<float>(candidates);
  work.selection = carver.take<char>(select_workspace_bytes(rows));
  work.candidate_distances = carver.take<float>(candidates * candidates);
  work.mean_sums = from_mean ? carver.take<double>(mean_parts(rows) * dimensions) : nullptr;
  work.mean = from_mean ? carver.take<Mean>(dimensions) : nullptr;
  work.mean_distances = from_mean ? carver.take<float>(rows) : nullptr;
  work.bytes = carver.used();
  return work;
}

template <class T>
struct KCentersState {
  const T* features;  // [rows, dimensions]
  int64_t rows;
  int64_t dimensions;
  int64_t* centers;  // room for all that will be
  int64_t centers_count;
  float* bounds;    // [rows]
  int32_t* folded;  // [rows]
};

template <class T>
void pick_furthest_from_mean(const KCentersState<T>& state, const KCentersWorkspace& work, float* radius,
                             cudaStream_t stream) {
  const unsigned parts = static_cast<unsigned>(mean_parts(state.rows));
  auto* const sum = sum_parts<T>;
  const dim3 grid(blocks_for(state.dimensions, mean_lanes * pack_size<T>), parts);
  LAUNCH(sum, grid, mean_lanes * mean_phases, 0, stream, state.features, state.rows, state.dimensions, work.mean_sums);
  LAUNCH(finish_mean, blocks_for(state.dimensions, reduce_threads), reduce_threads, 0, stream, work.mean_sums, parts,
         state.rows, state.dimensions, work.largest, work.mean);
  auto* const measure = distances_to_mean<T>;
  LAUNCH(measure, grid_for(pieces_of(state.rows, reduce_threads / warp_lanes)), reduce_threads, 0, stream,
         state.features, state.rows, state.dimensions, work.mean, work.largest, work.mean_distances);
  select_highest(work.mean_distances, state.rows, 1, work.candidates, work.candidate_bounds, work.selection, stream);
  LAUNCH(accept_first, 1, warp_lanes, 0, stream, work.candidates, state.centers, radius);
}

// Brings the bounds up to date with all centers; `fresh` of them, the last ones, are not marked yet.
template <class T>
void fold(const KCentersState<T>& state, int64_t fresh, const KCentersWorkspace& work, cudaStream_t stream) {
  auto* const kernel = fresh <= 32 ? fold_centers<T, 16> : fold_centers<T, 64>;
  LAUNCH(kernel, grid_for(pieces_of(state.rows, tile_rows)), distance_threads, 0, stream, state.features, state.rows,
         state.dimensions, work.largest, state.centers, state.centers_count, state.bounds, state.folded);
  LAUNCH(mark_centers, blocks_for(fresh, reduce_threads), reduce_threads, 0, stream,
         state.centers + state.centers_count - fresh, fresh, state.bounds);
}

// Picks `count` more centers, of which there must be as many rows left; `radii` is [count]. The bounds are left as they
// were for the last block of picks: the next call folds what they lack. `read` fetches a number from the device when
// all that was launched before is done, once in every block of picks.
template <class T, class Read>
void advance_kcenters(KCentersState<T> state, int64_t count, float* radii, void* memory, cudaStream_t stream,
                      Read read) {
  if (count == 0) return;
  const int64_t goal = state.centers_count + count;
  const KCentersWorkspace work = kcenters_workspace(memory, state.rows, state.dimensions, state.centers_count == 0);
  auto* const find = find_largest<T>;
  LAUNCH(clear_largest, 1, warp_lanes, 0, stream, work.largest);
  const int64_t elements = state.rows * state.dimensions;
  LAUNCH(find, grid_for(pieces_of(elements, reduce_threads * pack_size<T>), scan_blocks), reduce_threads, 0, stream,
         state.features, elements, work.largest);
  int64_t fresh = state.centers_count;
  if (fresh == 0) {
    pick_furthest_from_mean(state, work, radii, stream);
    ++radii;
    fresh = state.centers_count = 1;
  }
  int64_t wanted_candidates = fewest_candidates;
  while (state.centers_count < goal) {
    fold(state, fresh, work, stream);
    const int64_t left = state.rows - state.centers_count;
    const int candidates = static_cast<int>(left < wanted_candidates ? left : wanted_candidates);
    select_highest(state.bounds, state.rows, candidates, work.candidates, work.candidate_bounds, work.selection,
                   stream);
    auto* const measure = candidate_distances<T>;
    const dim3 grid(blocks_for(candidates, candidate_columns), blocks_for(candidates, tile_rows));
    LAUNCH(measure, grid, distance_threads, 0, stream, state.features, state.dimensions, work.largest, work.candidates,
           candidates, work.candidate_distances);
    const int threads = static_cast<int>(pieces_of(candidates, warp_lanes)) * warp_lanes;
    LAUNCH(pick_candidates, 1, threads, 0, stream, work.candidates, work.candidate_bounds, candidates,
           candidates < left, work.candidate_distances, work.largest, goal - state.centers_count,
           state.centers + state.centers_count, radii, work.accepted);
    fresh = read(work.accepted);
    state.centers_count += fresh;
    radii += fresh;
    if (fresh * 2 >= candidates)
      wanted_candidates = wanted_candidates * 2 < most_candidates ? wanted_candidates * 2 : most_candidates;
    else if (fresh * 8 < candidates)
      wanted_candidates = wanted_candidates / 2 > fewest_candidates ? wanted_candidates / 2 : fewest_candidates;
  }
}

}  // namespace prunefuse::cuda
