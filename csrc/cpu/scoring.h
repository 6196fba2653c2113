// Scores of rows of logits in one pass over memory; included once per instruction set, inside its namespace.
//
// Up to kTransposed classes, WIDTH rows are computed side by side, a row per lane; above, one row at a time in chunks
// that stay in the nearest cache: its maximum first, then the sums, which are rescaled when a later chunk has a larger
// maximum.

constexpr int64_t kTransposed = 64;
constexpr int64_t kChunk = 64 * kWidth;

// Sums of many floats, in two steps so that no partial sum takes in more than a few dozen: equal terms would otherwise
// be rounded the same way every time. The sums of chunks are added up in double.
struct Sum {
  Floats total = Floats{};
  Floats recent = Floats{};
  int count = 0;

  inline void add(Floats value) {
    recent += value;
    if (++count == 8) {
      total += recent;
      recent = Floats{};
      count = 0;
    }
  }
  inline double value() const { return (double)sum_of(total + recent); }
};

// With m the row's maximum: others = sum of e^(z - m) but for one z = m, shifted = sum of (z - m) e^(z - m).
// A term below e^-87 is taken for e^-87, and what such terms could add up to counts as nothing.
constexpr double kNothing = 0x1p-100;

constexpr uint32_t kAllLanes = static_cast<uint32_t>((uint64_t{1} << kWidth) - 1);

struct RowSums {
  float top1 = -INFINITY;
  float top2 = -INFINITY;
  double others = 0.0;
  double shifted = 0.0;
  bool unrankable = false;
};

inline float finish(float top1, float top2, double others, double shifted, bool unrankable, ScoreKind kind) {
  if (unrankable || !(top1 > -INFINITY) || !(others < INFINITY)) return NAN;
  if (others < kNothing) others = shifted = 0.0;
  switch (kind) {
    case ScoreKind::entropy: {
      const double entropy = __builtin_log1p(others) - shifted / (1.0 + others);
      return entropy > 0.0 ? static_cast<float>(entropy) : 0.0f;
    }
    case ScoreKind::least_confidence:
      return static_cast<float>(others / (1.0 + others));
    default:
      return static_cast<float>((top2 > -INFINITY ? __builtin_expm1((double)top2 - (double)top1) : -1.0) /
                                (1.0 + others));
  }
}

template <class T>
inline Floats load_ragged(const T* from, int64_t count) {  // what is missing is -inf
  if (count >= kWidth) return load(from);
  float lanes[kWidth];
  for (int i = 0; i < kWidth; ++i) lanes[i] = i < count ? value_of(from[i]) : -INFINITY;
  return load(lanes);
}

// Adds the chunk's logits to the sums of its row; the top two are exact, the sums relative to the new top1.
template <class T, bool kTop2>
inline void add_chunk(const T* chunk, int64_t count, RowSums& sums) {
  // Several maxima side by side, so that none waits for the one before.
  constexpr int kLines = 4;
  Floats tops1[kLines], tops2[kLines];
  for (int line = 0; line < kLines; ++line) tops1[line] = tops2[line] = all(-INFINITY);
  const auto look = [&](Floats z, int line) {
    if (kTop2) tops2[line] = larger(tops2[line], smaller(tops1[line], z));
    tops1[line] = larger(z, tops1[line]);
  };
  int64_t i = 0;
  for (; i + kLines * kWidth <= count; i += kLines * kWidth)
    for (int line = 0; line < kLines; ++line) look(load(chunk + i + line * kWidth), line);
  for (; i + kWidth <= count; i += kWidth) look(load(chunk + i), 0);
  if (i < count) look(load_ragged(chunk + i, count - i), 1);
  Floats top1 = tops1[0], top2 = tops2[0];
  for (int line = 1; line < kLines; ++line) {
    if (kTop2) top2 = larger(larger(top2, tops2[line]), smaller(top1, tops1[line]));
    top1 = larger(top1, tops1[line]);
  }
  const float top = largest_of(top1);
  if (!(top > -INFINITY)) {  // every logit is -inf or NaN
    for (i = 0; i < count; ++i) sums.unrankable |= value_of(chunk[i]) != value_of(chunk[i]);
    return;
  }
  if (!(top < INFINITY)) {
    sums.unrankable = true;
    return;
  }
  if (kTop2) {
    float tops[2 * kWidth];
    store(tops, top1);
    store(tops + kWidth, top2);
    bool skipped = false;  // one of the values equal to the top is the top itself
    for (int lane = 0; lane < 2 * kWidth; ++lane) {
      if (!skipped && tops[lane] == top) {
        skipped = true;
        continue;
      }
      if (tops[lane] > sums.top2) sums.top2 = tops[lane];
    }
    const float lower = top > sums.top1 ? sums.top1 : top;
    if (lower > sums.top2) sums.top2 = lower;
  }
  if (top > sums.top1) {
    if (sums.top1 > -INFINITY) {
      const double difference = (double)sums.top1 - (double)top;
      const double rescale = __builtin_exp(difference);
      sums.shifted = rescale > 0.0 ? rescale * (sums.shifted + difference * (1.0 + sums.others)) : 0.0;
      sums.others = rescale * (1.0 + sums.others);
    }
    sums.top1 = top;
  } else {
    sums.others += 1.0;  // this chunk's own tops are counted like any other logit, one is taken off below
  }
  const Floats m = all(sums.top1);
  Sum others, shifted;
  int equal = 0;
  const auto add = [&](Floats z) {
    const Floats difference = clamp_exponent(z - m);
    const Ints is_other = difference != 0.0f;  // NaN is, and makes the sum NaN
    const Floats weight = select(is_other, exp_of_clamped(difference), Floats{});
    if (__builtin_expect(bits_of(is_other) != kAllLanes, 0))
      equal += __builtin_popcount(~bits_of(is_other) & kAllLanes);
    others.add(weight);
    shifted.add(difference * weight);
  };
  // What comes next is fetched meanwhile: looking for its maximum would have to wait for memory.
  i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    __builtin_prefetch(chunk + i + count);
    add(load(chunk + i));
  }
  if (i < count) add(load_ragged(chunk + i, count - i));
  sums.others += others.value() + equal - 1.0;
  sums.shifted += shifted.value();
}

template <class T, bool kTop2>
inline float score_long_row(const T* row, int64_t classes, ScoreKind kind) {
  RowSums sums;
  for (int64_t begin = 0; begin < classes && !sums.unrankable; begin += kChunk)
    add_chunk<T, kTop2>(row + begin, classes - begin < kChunk ? classes - begin : kChunk, sums);
  return finish(sums.top1, sums.top2, sums.others, sums.shifted, sums.unrankable, kind);
}

// kWidth rows as columns: columns[c] holds logit c of every row.
template <class T>
inline void transpose(const T* rows, int64_t count, int64_t classes, Floats* columns) {
  float* flat = reinterpret_cast<float*>(columns);
  for (int64_t row = 0; row < kWidth; ++row) {
    const T* from = rows + (row < count ? row : 0) * classes;
    for (int64_t c = 0; c < classes; ++c) flat[c * kWidth + row] = value_of(from[c]);
  }
}

#if WIDTH >= 8
inline void transpose(const float* rows, int64_t count, int64_t classes, Floats* columns) {
  Ints first = Ints{};
  for (int lane = 0; lane < kWidth; ++lane) first[lane] = static_cast<int32_t>((lane < count ? lane : 0) * classes);
  for (int64_t c = 0; c < classes; ++c) {
#if WIDTH == 16
    columns[c] = (Floats)_mm512_i32gather_ps((__m512i)first, rows + c, 4);
#else
    columns[c] = (Floats)_mm256_i32gather_ps(rows + c, (__m256i)first, 4);
#endif
  }
}
#endif

template <class T, bool kTop2>
inline void score_short_rows(const T* rows, int64_t count, int64_t classes, ScoreKind kind, float* scores) {
  Floats columns[kTransposed];
  transpose(rows, count, classes, columns);
  Floats top1 = all(-INFINITY), top2 = all(-INFINITY);
  for (int64_t c = 0; c < classes; ++c) {
    const Floats z = columns[c];
    if (kTop2) top2 = larger(top2, smaller(top1, z));
    top1 = larger(z, top1);
  }
  Floats others = Floats{}, shifted = Floats{}, equals = Floats{};
  for (int64_t c = 0; c < classes; ++c) {
    const Floats difference = clamp_exponent(columns[c] - top1);
    const Ints is_other = difference != 0.0f;
    const Floats weight = exp_of_clamped(difference);
    equals += select(is_other, Floats{}, all(1.0f));
    const Floats kept = select(is_other, weight, Floats{});
    others += kept;
    shifted += difference * kept;
  }
  others += equals - 1.0f;
  // NaN and infinities anywhere in a row have made its sum NaN.
  const Ints rankable = others < INFINITY;
  const Ints nothing = others < (float)kNothing;
  others = select(nothing, Floats{}, others);
  shifted = select(nothing, Floats{}, shifted);
  const Floats total = others + 1.0f;
  Floats result;
  if (kind == ScoreKind::entropy) {
    // log1p(others): the logarithm of the rounded total, and what the rounding took away.
    const Floats lost = others - (total - 1.0f);
    result = larger(log_positive(total) + lost / total - shifted / total, Floats{});
  } else if (kind == ScoreKind::least_confidence) {
    result = others / total;
  } else {
    // e^d - 1 for small d, where the subtraction would cancel, by its series.
    const Floats d = top2 - top1;
    const Floats series = d * (1.0f + d * (0.5f + d * (1.0f / 6.0f + d * (1.0f / 24.0f + d * (1.0f / 120.0f)))));
    const Floats minus = select(d > -0.25f, series, exp_of_clamped(clamp_exponent(d)) - 1.0f);
    result = minus / total;
  }
  result = select(rankable, result, all(NAN));
  if (count == kWidth) {
    store(scores, result);
  } else {
    float lanes[kWidth];
    store(lanes, result);
    for (int64_t row = 0; row < count; ++row) scores[row] = lanes[row];
  }
}

template <class T>
inline void score_rows(const T* logits, int64_t rows, int64_t classes, ScoreKind kind, float* scores) {
  const auto some_rows = kind == ScoreKind::margin ? score_short_rows<T, true> : score_short_rows<T, false>;
  const auto one_row = kind == ScoreKind::margin ? score_long_row<T, true> : score_long_row<T, false>;
  if (classes <= kTransposed) {
    for (int64_t row = 0; row < rows; row += kWidth)
      some_rows(logits + row * classes, rows - row < kWidth ? rows - row : kWidth, classes, kind, scores + row);
  } else {
    for (int64_t row = 0; row < rows; ++row) scores[row] = one_row(logits + row * classes, classes, kind);
  }
}

inline void score(const void* logits, Element element, int64_t rows, int64_t classes, ScoreKind kind, float* scores) {
  if (element == Element::float32)
    score_rows(static_cast<const float*>(logits), rows, classes, kind, scores);
  else if (element == Element::bfloat16)
    score_rows(static_cast<const BFloat16*>(logits), rows, classes, kind, scores);
  else
    score_rows(static_cast<const Half*>(logits), rows, classes, kind, scores);
}

// ---- committees: one sample at a time, each member's row in turn; nothing of size members x classes is kept ----

constexpr int64_t kMembersTogether = 32;

struct CommitteeScratch {
  float* weights;  // [padded classes] e^(z - m) of one member
  float* mean;     // [padded classes] mean probability
  float* recent;   // [padded classes] what the last few members add to it
  int32_t* votes;  // [classes], all zero between samples
  int32_t* voted;  // [members]
};

inline int64_t padded(int64_t count) { return (count + kWidth - 1) / kWidth * kWidth; }

inline size_t committee_scratch_bytes(int64_t members, int64_t classes) {
  return static_cast<size_t>(12 * padded(classes) + 4 * classes + 4 * members + 64);
}

// Adds one member's probabilities, each divided by the number of members, to the mean; false: the row has no score.
template <class T>
inline bool add_member(const T* row, int64_t classes, float share, CommitteeScratch scratch, double* entropy,
                       int64_t* vote) {
  Floats top = all(-INFINITY);
  Ints bad = Ints{};
  for (int64_t c = 0; c < classes; c += kWidth) {
    const Floats z = load_ragged(row + c, classes - c);
    bad |= ~(Ints)(z < INFINITY);
    top = larger(z, top);
  }
  const float m = largest_of(top);
  if (any(bad) || !(m > -INFINITY)) return false;
  double total = 0.0, total_shifted = 0.0;
  *vote = -1;
  for (int64_t begin = 0; begin < classes; begin += kChunk) {
    const int64_t end = begin + kChunk < classes ? begin + kChunk : classes;
    Sum sum, shifted;
    for (int64_t c = begin; c < end; c += kWidth) {
      const Floats z = load_ragged(row + c, classes - c);
      const Floats difference = clamp_exponent(z - m);
      const Floats weight = select(z > -INFINITY, exp_of_clamped(difference), Floats{});
      store(scratch.weights + c, weight);
      sum.add(weight);
      shifted.add(difference * weight);
      if (*vote < 0) {
        const uint32_t tops = bits_of(difference == 0.0f);
        if (tops) *vote = c + __builtin_ctz(tops);
      }
    }
    total += sum.value();
    total_shifted += shifted.value();
  }
  *entropy += __builtin_log(total) - total_shifted / total;
  const Floats scale = all(static_cast<float>(share / total));
  for (int64_t c = 0; c < classes; c += kWidth)
    store(scratch.recent + c, load(scratch.recent + c) + scale * load(scratch.weights + c));
  return true;
}

inline double entropy_of(const float* probabilities, int64_t classes) {
  double entropy = 0.0;
  for (int64_t begin = 0; begin < classes; begin += kChunk) {
    const int64_t end = begin + kChunk < classes ? begin + kChunk : classes;
    Sum sum;
    for (int64_t c = begin; c < end; c += kWidth) {
      const Floats p = load(probabilities + c);
      sum.add(select(p > 1.2e-38f, p * log_positive(larger(p, all(1.2e-38f))), Floats{}));
    }
    entropy -= sum.value();
  }
  return entropy > 0.0 ? entropy : 0.0;
}

template <class T>
inline float score_sample(const T* logits, int64_t members, int64_t samples, int64_t classes, int64_t sample,
                          CommitteeKind kind, CommitteeScratch scratch) {
  for (int64_t c = 0; c < classes; c += kWidth) {
    store(scratch.mean + c, Floats{});
    store(scratch.recent + c, Floats{});
  }
  double entropies = 0.0;
  int64_t counted = 0;
  bool rankable = true;
  int32_t most = 0;
  for (int64_t member = 0; member < members && rankable; ++member) {
    int64_t vote = 0;
    rankable = add_member(logits + (member * samples + sample) * classes, classes, 1.0f / static_cast<float>(members),
                          scratch, &entropies, &vote);
    // Equal terms would be rounded the same way every time: no sum takes in more than a few dozen.
    if (member % kMembersTogether == kMembersTogether - 1 || member == members - 1)
      for (int64_t c = 0; c < classes; c += kWidth) {
        store(scratch.mean + c, load(scratch.mean + c) + load(scratch.recent + c));
        store(scratch.recent + c, Floats{});
      }
    if (rankable) {
      const int32_t votes = ++scratch.votes[vote];
      if (votes > most) most = votes;
      scratch.voted[counted++] = static_cast<int32_t>(vote);
    }
  }
  while (counted > 0) scratch.votes[scratch.voted[--counted]] = 0;
  if (!rankable) return NAN;
  switch (kind) {
    case CommitteeKind::mean_entropy:
      return static_cast<float>(entropy_of(scratch.mean, classes));
    case CommitteeKind::bald: {
      const double information = entropy_of(scratch.mean, classes) - entropies / (double)members;
      return information > 0.0 ? static_cast<float>(information) : 0.0f;
    }
    case CommitteeKind::variation_ratio:
      return static_cast<float>(1.0 - (double)most / (double)members);
    default: {
      double total = 0.0;
      float top = 0.0f;
      int64_t best = 0;
      for (int64_t c = 0; c < classes; ++c)
        if (scratch.mean[c] > top) {
          top = scratch.mean[c];
          best = c;
        }
      for (int64_t c = 0; c < classes; ++c)
        if (c != best) total += (double)scratch.mean[c];
      return static_cast<float>(total);
    }
  }
}

// kWidth samples side by side, a sample per lane: for few classes.
template <class T>
inline void score_samples_of_few(const T* logits, int64_t members, int64_t samples, int64_t classes, int64_t sample,
                                 int64_t count, CommitteeKind kind, float* scores) {
  Floats columns[kTransposed], mean[kTransposed], recent_mean[kTransposed], votes[kTransposed];
  for (int64_t c = 0; c < classes; ++c) mean[c] = recent_mean[c] = votes[c] = Floats{};
  Floats entropies = Floats{}, recent = Floats{};
  Ints rankable = Ints{} == Ints{};
  const float share = 1.0f / static_cast<float>(members);
  for (int64_t member = 0; member < members; ++member) {
    transpose(logits + (member * samples + sample) * classes, count, classes, columns);
    Floats top = columns[0];
    for (int64_t c = 1; c < classes; ++c) top = larger(columns[c], top);
    Ints undecided = Ints{} == Ints{};
    Floats total = Floats{}, shifted = Floats{};
    for (int64_t c = 0; c < classes; ++c) {
      const Floats z = columns[c];
      const Ints votes_here = (z == top) & undecided;
      undecided &= ~votes_here;
      votes[c] += select(votes_here, all(1.0f), Floats{});
      const Floats difference = clamp_exponent(z - top);
      const Floats weight = select(z == -INFINITY, Floats{}, exp_of_clamped(difference));
      columns[c] = weight;
      total += weight;
      shifted += difference * weight;
    }
    // NaN and infinities anywhere in a row have made its total NaN.
    rankable &= total > 0.0f;
    recent += log_positive(total) - shifted / total;
    const Floats scale = share / total;
    for (int64_t c = 0; c < classes; ++c) recent_mean[c] += columns[c] * scale;
    if (member % kMembersTogether == kMembersTogether - 1 || member == members - 1) {
      entropies += recent;
      recent = Floats{};
      for (int64_t c = 0; c < classes; ++c) {
        mean[c] += recent_mean[c];
        recent_mean[c] = Floats{};
      }
    }
  }
  Floats result = Floats{};
  if (kind == CommitteeKind::variation_ratio) {
    for (int64_t c = 0; c < classes; ++c) result = larger(result, votes[c]);
    result = 1.0f - result / static_cast<float>(members);
  } else if (kind == CommitteeKind::mean_least_confidence) {
    Floats top = mean[0];
    for (int64_t c = 1; c < classes; ++c) {  // all but the largest, added up
      result += smaller(mean[c], top);
      top = larger(mean[c], top);
    }
  } else {
    for (int64_t c = 0; c < classes; ++c) {
      const Floats p = mean[c];
      result -= select(p > 1.2e-38f, p * log_positive(larger(p, all(1.2e-38f))), Floats{});
    }
    if (kind == CommitteeKind::bald) result -= entropies * share;
    result = larger(result, Floats{});
  }
  result = select(rankable, result, all(NAN));
  float lanes[kWidth];
  store(lanes, result);
  for (int64_t lane = 0; lane < count; ++lane) scores[sample + lane] = lanes[lane];
}

template <class T>
inline void score_samples(const T* logits, int64_t members, int64_t samples, int64_t classes, int64_t begin,
                          int64_t end, CommitteeKind kind, float* scores, void* memory) {
  if (classes <= kTransposed) {
    for (int64_t sample = begin; sample < end; sample += kWidth)
      score_samples_of_few(logits, members, samples, classes, sample, end - sample < kWidth ? end - sample : kWidth,
                           kind, scores);
    return;
  }
  CommitteeScratch scratch;
  scratch.weights = static_cast<float*>(memory);
  scratch.mean = scratch.weights + padded(classes);
  scratch.recent = scratch.mean + padded(classes);
  scratch.votes = reinterpret_cast<int32_t*>(scratch.recent + padded(classes));
  scratch.voted = scratch.votes + classes;
  for (int64_t c = 0; c < classes; ++c) scratch.votes[c] = 0;
  for (int64_t sample = begin; sample < end; ++sample)
    scores[sample] = score_sample(logits, members, samples, classes, sample, kind, scratch);
}

inline void score_committee(const void* logits, Element element, int64_t members, int64_t samples, int64_t classes,
                            int64_t begin, int64_t end, CommitteeKind kind, float* scores, void* scratch) {
  if (element == Element::float32)
    score_samples(static_cast<const float*>(logits), members, samples, classes, begin, end, kind, scores, scratch);
  else if (element == Element::bfloat16)
    score_samples(static_cast<const BFloat16*>(logits), members, samples, classes, begin, end, kind, scores, scratch);
  else
    score_samples(static_cast<const Half*>(logits), members, samples, classes, begin, end, kind, scores, scratch);
}
