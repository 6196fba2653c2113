// Greedy k-centers without one matrix-vector product per pick.
//
// Every row keeps an upper bound of its squared distance to the nearest center. A block: take the rows with the largest
// bounds, bring those bounds up to date, and pick greedily among them for as long as the best is no worse than any
// bound outside. The picks wait until rows are needed again: bounds only ever fall, so a row whose stale bound is below
// the current radius cannot be picked and need not be touched. Many centers are then folded into many rows at once, as
// a matrix product (filter.h).
//
// Prior art for picking from a block of candidates in three dimensions: Kaolin's farthest point sampling.

#include "kcenters.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

namespace prunefuse::cpu {

namespace {

constexpr int64_t kFewestCandidates = 64, kMostCandidates = 2048;
constexpr int64_t kPackedBytes = 4 << 20;      // of centers at a time, so that they stay in the cache
constexpr int64_t kCandidateFloats = 1 << 20;  // rows of candidates kept as floats
constexpr int64_t kFewestRefreshed = 4096;     // rows brought up to date at a time
constexpr int64_t kFewestTogether = 512;       // rows, or centers, worth a matrix product of their own
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Memory that is not cleared first, aligned for tiles.
class Buffer {
 public:
  void* reserve(size_t bytes) {
    if (bytes > size_) {
      memory_.reset(new char[bytes + 64]);
      size_ = bytes;
    }
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory_.get()) + 63) & ~uintptr_t{63});
  }

 private:
  std::unique_ptr<char[]> memory_;
  size_t size_ = 0;
};

struct Candidate {
  float bound;
  int64_t row;
};

// The order of picking: the larger bound first, of equal ones the lower row.
bool goes_first(const Candidate& a, const Candidate& b) {
  return a.bound > b.bound || (a.bound == b.bound && a.row < b.row);
}

class Selection {
 public:
  Selection(const void* features, Element element, int64_t rows, int64_t width, KCentersState& state,
            const Threads& threads)
      : features_(features), element_(element), rows_(rows), width_(width), state_(state), threads_(threads) {
    scale_ = power_of_two_scale();
    shift_.assign(width, 0.0f);
    filter_ = bfloat16_filter() != nullptr ? bfloat16_filter() : &single_filter();
    center_roughly();
    for (int64_t i = 0; i < state_.centers_count; ++i) state_.bounds[state_.centers[i]] = -1.0f;
  }

  KCentersReport pick(int64_t k, int64_t* indices, float* radii) {
    int64_t picked = 0;
    if (k > 0 && state_.centers_count == 0) {
      accept(furthest_from_mean(), kInfinity, indices, radii, picked);
    }
    int64_t wanted = kFewestCandidates;
    while (picked < k) {
      const int64_t accepted = pick_block(std::min(wanted, most_candidates()), k - picked, indices, radii, picked);
      ++report_.blocks;
      if (accepted == 0) throw std::logic_error("k-centers: no row can be picked; the state does not fit its centers");
      if (accepted * 4 > wanted)
        wanted = std::min(2 * wanted, kMostCandidates);
      else if (accepted * 16 < wanted)
        wanted = std::max(wanted / 2, kFewestCandidates);
    }
    return report_;
  }

 private:
  int64_t most_candidates() const {
    return std::max(kFewestCandidates, std::min(kMostCandidates, kCandidateFloats / std::max<int64_t>(width_, 1)));
  }

  const void* row_at(int64_t row) const {
    return static_cast<const char*>(features_) + row * width_ * (element_ == Element::float32 ? 4 : 2);
  }

  // Squares of very large or very small numbers leave the range of floats; a power of two brings them back, exactly.
  float power_of_two_scale() {
    std::vector<float> largest(static_cast<size_t>((rows_ + kBlockOfRows - 1) / kBlockOfRows));
    over_blocks_of_rows([&](int64_t block, int64_t begin, int64_t end) {
      largest[block] = kernels().largest_magnitude(row_at(begin), element_, (end - begin) * width_);
    });
    float magnitude = 0.0f;
    for (float value : largest) magnitude = std::max(magnitude, value);
    if (magnitude == 0.0f || (magnitude >= 0x1p-30f && magnitude <= 0x1p30f)) return 1.0f;
    return std::ldexp(1.0f, std::clamp(-std::ilogb(magnitude), -126, 126));
  }

  static constexpr int64_t kBlockOfRows = 4096;

  template <class Run>
  void over_blocks_of_rows(const Run& run) {
    const int64_t blocks = (rows_ + kBlockOfRows - 1) / kBlockOfRows;
    threads_.parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        run(block, block * kBlockOfRows, std::min(rows_, (block + 1) * kBlockOfRows));
    });
  }

  // Any shift gives the same distances; one near the mean makes norms, and with them rounding, small.
  void center_roughly() {
    const int64_t samples = std::min<int64_t>(rows_, 1024);
    std::vector<double> sums(width_, 0.0);
    std::vector<float> row(width_);
    for (int64_t i = 0; i < samples; ++i) {
      kernels().convert(row_at(i * rows_ / samples), element_, width_, scale_, row.data());
      for (int64_t c = 0; c < width_; ++c) sums[c] += row[c];
    }
    for (int64_t c = 0; c < width_; ++c) shift_[c] = static_cast<float>(sums[c] / std::max<int64_t>(samples, 1));
  }

  // Of rows less the shift: far from the origin the mean itself would be rounded too much.
  void shifted_row(int64_t row, float* to) const {
    kernels().convert(row_at(row), element_, width_, scale_, to);
    for (int64_t c = 0; c < width_; ++c) to[c] -= shift_[c];
  }

  int64_t furthest_from_mean() {
    const int64_t blocks = (rows_ + kBlockOfRows - 1) / kBlockOfRows;
    std::vector<double> sums(static_cast<size_t>(blocks * width_), 0.0);
    over_blocks_of_rows([&](int64_t block, int64_t begin, int64_t end) {
      std::vector<float> row(width_);
      for (int64_t r = begin; r < end; ++r) {
        shifted_row(r, row.data());
        for (int64_t c = 0; c < width_; ++c) sums[block * width_ + c] += row[c];
      }
    });
    std::vector<float> mean(width_);
    for (int64_t c = 0; c < width_; ++c) {
      double sum = 0.0;
      for (int64_t block = 0; block < blocks; ++block) sum += sums[block * width_ + c];
      mean[c] = static_cast<float>(sum / static_cast<double>(rows_));
    }
    std::vector<Candidate> best(static_cast<size_t>(blocks));
    over_blocks_of_rows([&](int64_t block, int64_t begin, int64_t end) {
      std::vector<float> row(width_);
      best[block] = {-1.0f, begin};
      for (int64_t r = begin; r < end; ++r) {
        shifted_row(r, row.data());
        const Candidate candidate = {kernels().squared_distance(row.data(), mean.data(), width_), r};
        if (goes_first(candidate, best[block])) best[block] = candidate;
      }
    });
    return std::min_element(best.begin(), best.end(), goes_first)->row;
  }

  void accept(int64_t row, float squared_radius, int64_t* indices, float* radii, int64_t& picked) {
    indices[picked] = row;
    radii[picked] = std::sqrt(squared_radius) / scale_;
    state_.centers[state_.centers_count++] = row;
    state_.bounds[row] = -1.0f;
    ++picked;
  }

  bool is_stale(int64_t row) const { return state_.bounds[row] > 0.0f && state_.folded[row] < state_.centers_count; }

  // The `wanted` first rows in the order of picking, in that order's set but sorted by row; `next` is the one after.
  void first_rows(int64_t wanted, std::vector<Candidate>& chosen, Candidate& next) {
    // A histogram over the bits of the bounds, finest near the largest, finds a threshold; what is above it is sorted.
    constexpr int kBins = 4096;
    const float* bounds = state_.bounds;
    float top = 0.0f;
    for (int64_t row = 0; row < rows_; ++row) top = bounds[row] > top ? bounds[row] : top;
    int32_t top_bits;
    std::memcpy(&top_bits, &top, 4);
    const int32_t base = top_bits - (kBins << kBinShift);
    const auto bin_of = [&](float bound) {
      int32_t bits;
      std::memcpy(&bits, &bound, 4);
      return bound < 0.0f ? -1 : std::min(kBins - 1, std::max<int32_t>(0, bits - base) >> kBinShift);
    };
    std::vector<int64_t> counts(kBins, 0);
    int64_t available = 0;
    for (int64_t row = 0; row < rows_; ++row) {
      const int bin = bin_of(bounds[row]);
      if (bin >= 0) {
        ++counts[bin];
        ++available;
      }
    }
    int threshold = kBins - 1;
    const int64_t needed = std::min(wanted + 1, available);
    for (int64_t above = counts[threshold]; above < needed; above += counts[threshold]) --threshold;
    chosen.clear();
    for (int64_t row = 0; row < rows_; ++row)
      if (bin_of(bounds[row]) >= threshold) chosen.push_back({bounds[row], row});
    next = {-1.0f, rows_};
    if (static_cast<int64_t>(chosen.size()) > wanted) {
      std::nth_element(chosen.begin(), chosen.begin() + wanted, chosen.end(), goes_first);
      next = chosen[wanted];
      chosen.resize(wanted);
    }
  }

  static constexpr int kBinShift = 15;

  int64_t pick_block(int64_t wanted, int64_t remaining, int64_t* indices, float* radii, int64_t& picked) {
    Candidate next;
    for (;;) {
      first_rows(wanted, candidates_, next);
      const bool fresh = std::none_of(candidates_.begin(), candidates_.end(),
                                      [&](const Candidate& candidate) { return is_stale(candidate.row); });
      if (fresh) break;
      refresh(wanted);
    }
    return pick_among(next, remaining, indices, radii, picked);
  }

  int64_t pick_among(const Candidate& next, int64_t remaining, int64_t* indices, float* radii, int64_t& picked) {
    std::sort(candidates_.begin(), candidates_.end(),
              [](const Candidate& a, const Candidate& b) { return a.row < b.row; });
    pack_candidates();
    const int64_t before = picked;
    std::vector<float> center(width_);
    Furthest best = {-1.0f, 0};
    for (size_t i = 0; i < values_.size(); ++i)
      if (values_[i] > best.value) best = {values_[i], static_cast<int64_t>(i)};
    while (picked - before < remaining && best.value >= 0.0f &&
           goes_first({best.value, candidates_[best.position].row}, next)) {
      const float* column = points_ + best.position / kGroup * width_ * kGroup + best.position % kGroup;
      for (int64_t c = 0; c < width_; ++c) center[c] = column[c * kGroup];
      accept(candidates_[best.position].row, best.value, indices, radii, picked);
      values_[best.position] = -1.0f;
      best = kernels().approach(points_, groups_, width_, center.data(), values_.data());
    }
    // The values of the others are not kept: bounds come from folding alone, so that equal rows have equal bounds.
    return picked - before;
  }

  // Candidates as floats in groups, column by column; a group is filled up with points that are never the furthest.
  void pack_candidates() {
    const int64_t count = static_cast<int64_t>(candidates_.size());
    groups_ = (count + kGroup - 1) / kGroup;
    points_ = static_cast<float*>(candidate_memory_.reserve(static_cast<size_t>(groups_ * kGroup * width_) * 4));
    values_.assign(static_cast<size_t>(groups_ * kGroup), -1.0f);
    threads_.parallel_for(groups_, 8, [&](int64_t begin, int64_t end) {
      std::vector<float> row(width_);
      for (int64_t i = begin * kGroup; i < std::min(count, end * kGroup); ++i) {
        kernels().convert(row_at(candidates_[i].row), element_, width_, scale_, row.data());
        float* column = points_ + i / kGroup * width_ * kGroup + i % kGroup;
        for (int64_t c = 0; c < width_; ++c) column[c * kGroup] = row[c];
        values_[i] = candidates_[i].bound;
      }
    });
    for (int64_t i = count; i < groups_ * kGroup; ++i)
      for (int64_t c = 0; c < width_; ++c) points_[i / kGroup * width_ * kGroup + c * kGroup + i % kGroup] = 0.0f;
  }

  // Brings bounds up to date, from the largest down, and enough of them to make a matrix product worth the while.
  void refresh(int64_t wanted) {
    stale_.clear();
    Candidate next;
    const int64_t generous = std::max<int64_t>({kFewestRefreshed, 2 * wanted, rows_ / 12});
    first_rows(generous, refreshed_, next);
    for (const Candidate& candidate : refreshed_)
      if (is_stale(candidate.row)) stale_.push_back(candidate.row);
    // Rows that wait for the same centers are folded together; a few that have waited longer do not hold up the rest.
    std::sort(stale_.begin(), stale_.end(), [&](int64_t a, int64_t b) {
      return state_.folded[a] < state_.folded[b] || (state_.folded[a] == state_.folded[b] && a < b);
    });
    const int64_t count = static_cast<int64_t>(stale_.size());
    for (int64_t begin = 0, end; begin < count; begin = end) {
      const int32_t folded = state_.folded[stale_[begin]];
      end = begin + 1;
      while (end < count && (state_.folded[stale_[end]] == folded || end - begin < kFewestTogether)) ++end;
      const int64_t last = until(folded);
      fold(folded, last, stale_.data() + begin, end - begin);
      for (int64_t i = begin; i < end; ++i)
        state_.folded[stale_[i]] = std::max(state_.folded[stale_[i]], static_cast<int32_t>(last));
    }
  }

  // A row that has seen no center yet sees a part of them first: that may do to rule it out.
  int64_t until(int64_t folded) const {
    if (folded > 0) return state_.centers_count;
    return std::min(state_.centers_count, std::max(kFewestTogether, state_.centers_count / 4));
  }

  void fold(int64_t first, int64_t last, const int64_t* rows, int64_t count) {
    const int64_t bytes = static_cast<int64_t>(filter_->panel_bytes(width_)) + kPanel * width_ * 4;
    const int64_t blocks_at_once = std::max<int64_t>(1, kPackedBytes / bytes);
    for (int64_t begin = first; begin < last; begin += blocks_at_once * kPanel)
      fold_some(begin, std::min(last, begin + blocks_at_once * kPanel), rows, count);
  }

  void fold_some(int64_t first, int64_t last, const int64_t* rows, int64_t count) {
    CenterPanels centers;
    centers.count = last - first;
    centers.width = width_;
    const int64_t blocks = (centers.count + kPanel - 1) / kPanel;
    float* exact = static_cast<float*>(exact_memory_.reserve(static_cast<size_t>(centers.count * width_) * 4));
    const int64_t panel_bytes = static_cast<int64_t>(filter_->panel_bytes(width_));
    char* shifted = static_cast<char*>(shifted_memory_.reserve(static_cast<size_t>(blocks * panel_bytes)));
    half_norms_.resize(static_cast<size_t>(blocks * kPanel));
    norms_.resize(static_cast<size_t>(blocks));
    errors_.resize(static_cast<size_t>(blocks));
    threads_.parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t count = std::min(kPanel, centers.count - block * kPanel);
        float* block_exact = exact + block * kPanel * width_;
        for (int64_t c = 0; c < count; ++c)
          kernels().convert(row_at(state_.centers[first + block * kPanel + c]), element_, width_, scale_,
                            block_exact + c * width_);
        filter_->pack_block(block_exact, count, shift_.data(), width_, shifted + block * panel_bytes,
                            half_norms_.data() + block * kPanel, &norms_[block], &errors_[block]);
      }
    });
    centers.exact = exact;
    centers.shifted = shifted;
    centers.half_norms = half_norms_.data();
    centers.norm = norms_.data();
    centers.error = errors_.data();

    Fold job;
    job.features = features_;
    job.element = element_;
    job.width = width_;
    job.scale = scale_;
    job.shift = shift_.data();
    job.rows = rows;
    job.bounds = state_.bounds;
    job.centers = &centers;
    const int64_t panels = (count + kPanel - 1) / kPanel;
    const int64_t parts = std::min<int64_t>(threads_.count, panels);
    std::vector<int64_t> evaluated(static_cast<size_t>(std::max<int64_t>(parts, 1)), 0);
    thread_memory_.resize(static_cast<size_t>(std::max<int64_t>(parts, 1)));
    threads_.parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part)
        evaluated[part] =
            filter_->fold(job, panels * part / parts * kPanel, std::min(count, panels * (part + 1) / parts * kPanel),
                          thread_memory_[part].reserve(filter_->scratch_bytes(width_)));
    });
    int64_t sum = 0;
    for (int64_t value : evaluated) sum += value;
    report_.evaluated += sum;
    report_.products += count * centers.count;
    // Where bfloat16 rules out too little, single precision is cheaper than computing the distances.
    // (Few centers say nothing: a row that has seen none has no bound to rule them out with.)
    if (filter_ != &single_filter() && centers.count >= kFewestTogether / 2 && sum * 16 > count * centers.count)
      filter_ = &single_filter();
  }

  const void* features_;
  const Element element_;
  const int64_t rows_, width_;
  KCentersState& state_;
  const Threads& threads_;
  float scale_ = 1.0f;
  std::vector<float> shift_;
  const Filter* filter_;
  KCentersReport report_;

  std::vector<Candidate> candidates_, refreshed_;
  std::vector<float> values_, half_norms_, norms_, errors_;
  std::vector<int64_t> stale_;
  float* points_ = nullptr;
  int64_t groups_ = 0;
  Buffer candidate_memory_, exact_memory_, shifted_memory_;
  std::vector<Buffer> thread_memory_;
};

}  // namespace

KCentersReport advance_kcenters(const void* features, Element element, int64_t rows, int64_t width,
                                KCentersState& state, int64_t k, int64_t* indices, float* radii,
                                const Threads& threads) {
  if (k == 0) return {};
  return Selection(features, element, rows, width, state, threads).pick(k, indices, radii);
}

}  // namespace prunefuse::cpu
