// Scores of a committee's mean prediction and of its disagreement, without a temporary of the size of the logits.
#pragma once

#include "predict.cuh"
#include "warp.cuh"

namespace prunefuse::cuda {

constexpr int most_committee_threads = 256, committee_tile = 64;

// A compensated sum (Kahan): members and classes that are all alike round alike, and plain sums would drift with them.
struct RunningSum {
  float total = 0.0f;
  float lost = 0.0f;  // by how much the total is too high

  __device__ __forceinline__ void add(float value) {
    const float corrected = value - lost, sum = total + corrected;
    lost = (sum - total) - corrected;
    total = sum;
  }

  __device__ __forceinline__ float value() const { return total - lost; }
};

// Probabilities, the largest of them apart: what is left over keeps its digits where the largest is near 1.
struct Spread {
  float top = 0.0f;
  RunningSum rest;
  RunningSum entropy_of_rest;

  __device__ __forceinline__ void add(float probability) {
    const float low = fminf(probability, top);
    top = fmaxf(probability, top);
    rest.add(low);
    entropy_of_rest.add(low > 0.0f ? -low * logf(low) : 0.0f);
  }

  __device__ __forceinline__ void merge(const Spread& other) {
    add(other.top);
    rest.add(other.rest.value());
    entropy_of_rest.add(other.entropy_of_rest.value());
  }

  __device__ __forceinline__ float entropy() const {
    if (!(top > 0.0f)) return 0.0f;
    return entropy_of_rest.value() - top * (top > 0.5f ? log1pf(-rest.value()) : logf(top));
  }
};

// The class that a member votes for: of equal logits the lowest.
struct Vote {
  float logit = -INFINITY;
  int choice = 0x7fffffff;

  __device__ __forceinline__ void merge(const Vote& other) {
    if (other.logit > logit || (other.logit == logit && other.choice < choice)) *this = other;
  }
};

__device__ __forceinline__ float committee_score(CommitteeKind kind, int members, const Spread& mean,
                                                 double member_entropies, uint32_t most_votes) {
  switch (kind) {
    case CommitteeKind::variation_ratio:
      return static_cast<float>(members - static_cast<int>(most_votes)) / static_cast<float>(members);
    case CommitteeKind::mean_least_confidence:
      return mean.rest.value();
    case CommitteeKind::mean_entropy:
      return fmaxf(mean.entropy(), 0.0f);
    default:
      return fmaxf(static_cast<float>(mean.entropy() - member_entropies / members), 0.0f);
  }
}

// Few classes: tiles of samples go through shared memory member by member, a sample to a thread, which keeps a sum for
// each class: of the probabilities, or of the votes.
template <class T>
__global__ void __launch_bounds__(committee_tile)
    committee_of_few_classes(const T* __restrict__ logits, int members, int64_t samples, int classes,
                             CommitteeKind kind, float* __restrict__ scores) {
  DYNAMIC_SHARED(float, staged);
  const int thread = threadIdx.x;
  RunningSum* const sums = reinterpret_cast<RunningSum*>(staged + committee_tile * (classes | 1)) + thread;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * committee_tile; first < samples;
       first += static_cast<int64_t>(gridDim.x) * committee_tile) {
    const int tile = samples - first < committee_tile ? static_cast<int>(samples - first) : committee_tile;
    const float* const row = staged + thread * (classes | 1);
    for (int c = 0; c < classes; ++c) sums[c * committee_tile] = RunningSum();
    double entropies = 0.0;
    bool unrankable = false;
    for (int member = 0; member < members; ++member) {
      stage_rows(logits + (member * samples + first) * classes, tile, classes, staged);
      __syncthreads();
      if (thread < tile) {
        const Part part = predict_staged(row, classes);
        const Prediction& prediction = part.prediction;
        unrankable |= prediction.has_no_score();
        if (kind != CommitteeKind::variation_ratio) {
          entropies += prediction.entropy();
          const float top = 1.0f / (1.0f + prediction.others);
          for (int c = 0; c < classes; ++c) sums[c * committee_tile].add(top * expf(row[c] - prediction.top1));
        } else if (part.top_at >= 0) {
          sums[part.top_at * committee_tile].total += 1.0f;
        }
      }
      __syncthreads();
    }
    if (thread < tile) {
      Spread mean;
      float most_votes = 0.0f;
      for (int c = 0; c < classes; ++c) {
        const float sum = sums[c * committee_tile].value();
        most_votes = fmaxf(most_votes, sum);
        mean.add(sum / members);
      }
      scores[first + thread] =
          unrankable ? NAN : committee_score(kind, members, mean, entropies, static_cast<uint32_t>(most_votes));
    }
  }
}

// What is kept of each member while its sample is worked on.
struct Member {
  float top;          // logit
  float probability;  // of the top
  float entropy;
  int vote;
};

// Many classes: a sample to a block. First every member's prediction, made by a warp, or by the whole block where rows
// are long; then the classes are shared out among the threads. Every merge has shared memory of its own, so that the
// barriers of the others keep its uses apart.
template <class T, bool long_rows>
__global__ void __launch_bounds__(most_committee_threads)
    committee_of_many_classes(const T* __restrict__ logits, int members, int64_t samples, int64_t classes,
                              CommitteeKind kind, float* __restrict__ scores) {
  constexpr int size = pack_size<T>, packs = 16 / size;
  DYNAMIC_SHARED(Member, member_of);
  SHARED_ARRAY(Prediction, prediction_of_warp, most_committee_threads / warp_lanes);
  SHARED_ARRAY(Vote, vote_of_warp, most_committee_threads / warp_lanes);
  SHARED_ARRAY(Spread, spread_of_warp, most_committee_threads / warp_lanes);
  SHARED_ARRAY(Total, entropy_of_warp, most_committee_threads / warp_lanes);
  SHARED_ARRAY(Most, votes_of_warp, most_committee_threads / warp_lanes);
  const int threads = blockDim.x, thread = threadIdx.x;
  const int team = long_rows ? threads : warp_lanes, teams = threads / team, rank = thread % team;
  for (int64_t sample = blockIdx.x; sample < samples; sample += gridDim.x) {
    bool unrankable = false;
    for (int member = thread / team; member < members; member += teams) {
      const T* const row = logits + (member * samples + sample) * classes;
      Prediction sum;
      Vote vote;
      const int64_t stride = static_cast<int64_t>(team) * size;
      for (int64_t start = rank * size - past_boundary(row); start < classes; start += packs * stride) {
        const Part part = predict_packs<packs>(row, classes, start, stride);
        sum.merge(part.prediction);
        const int pack = part.top_at / size;
        Vote best;
        best.logit = part.prediction.top1;
        if (part.top_at >= 0) best.choice = static_cast<int>(start + pack * stride + (part.top_at - pack * size));
        vote.merge(best);
      }
      if constexpr (long_rows) {
        sum = merge_block(sum, prediction_of_warp);
        vote = merge_block(vote, vote_of_warp);
      } else {
        sum = merge_lanes<warp_lanes>(sum);
        vote = merge_lanes<warp_lanes>(vote);
      }
      if (rank == 0) {
        unrankable |= sum.has_no_score();
        member_of[member] = {sum.top1, 1.0f / (1.0f + sum.others), sum.entropy(), vote.choice};
      }
    }
    unrankable = __syncthreads_or(unrankable);

    Spread mean;
    Total entropies;
    Most votes;
    if (kind == CommitteeKind::variation_ratio) {
      for (int member = thread; member < members; member += threads) {
        Most same;
        for (int other = 0; other < members; ++other) same.value += member_of[other].vote == member_of[member].vote;
        votes.merge(same);
      }
    } else {
      for (int member = thread; member < members; member += threads) entropies.value += member_of[member].entropy;
      const T* const first_row = logits + sample * classes;
      for (int64_t start = thread * size - past_boundary(first_row); start < classes;
           start += static_cast<int64_t>(threads) * size) {
        RunningSum sum[size];
        for (int member = 0; member < members; ++member) {
          const Pack<T> pack =
              load_pack(first_row + member * samples * classes, classes, start, from_float<T>(-INFINITY));
          const Member from = member_of[member];
#pragma unroll
          for (int i = 0; i < size; ++i) sum[i].add(from.probability * expf(to_float(pack.element[i]) - from.top));
        }
#pragma unroll
        for (int i = 0; i < size; ++i) mean.add(sum[i].value() / members);
      }
    }
    mean = merge_block(mean, spread_of_warp);
    entropies = merge_block(entropies, entropy_of_warp);
    votes = merge_block(votes, votes_of_warp);
    if (thread == 0)
      scores[sample] = unrankable ? NAN : committee_score(kind, members, mean, entropies.value, votes.value);
  }
}

// What fits in the shared memory that every GPU gives a block.
constexpr int64_t most_members = 2048;

template <class T>
void score_committee(const T* logits, int64_t members, int64_t samples, int64_t classes, CommitteeKind kind,
                     float* scores, cudaStream_t stream) {
  if (samples == 0) return;
  const int count = static_cast<int>(members);
  if (classes <= most_staged_columns) {
    auto* const kernel = committee_of_few_classes<T>;
    const int width = static_cast<int>(classes);
    const size_t shared = committee_tile * (sizeof(float) * (width | 1) + sizeof(RunningSum) * width);
    LAUNCH(kernel, grid_for(pieces_of(samples, committee_tile)), committee_tile, shared, stream, logits, count, samples,
           width, kind, scores);
    return;
  }
  const size_t shared = sizeof(Member) * members;
  if (classes <= 4096) {
    auto* const kernel = committee_of_many_classes<T, false>;
    const int threads = classes <= 256 ? 32 : classes <= 1024 ? 128 : 256;
    LAUNCH(kernel, grid_for(samples), threads, shared, stream, logits, count, samples, classes, kind, scores);
  } else {
    auto* const kernel = committee_of_many_classes<T, true>;
    LAUNCH(kernel, grid_for(samples), most_committee_threads, shared, stream, logits, count, samples, classes, kind,
           scores);
  }
}

}  // namespace prunefuse::cuda
