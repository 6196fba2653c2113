// What one pass over a row of logits has to remember for every score: an online log-sum-exp.
#pragma once

#include "kinds.h"
#include "portable.h"

namespace prunefuse {

// With m = top1: others = sum of e^(z - m) over all logits but one that equals m, shifted = sum of (z - m) e^(z - m).
// The top itself would add 1 and 0; leaving its 1 out keeps the digits of 1 - p1 where p1 is near 1.
// A logit of -inf is a probability of zero and adds nothing.
struct Prediction {
  float top1 = -INFINITY;
  float top2 = -INFINITY;
  float others = 0.0f;
  float shifted = 0.0f;
  bool unrankable = false;  // NaN or +inf was among the logits

  HOST_DEVICE void add(float logit) {
    unrankable |= !(logit < INFINITY);  // NaN compares false
    if (!(logit > -INFINITY)) return;
    if (logit > top1) {
      const float difference = top1 - logit;  // -inf at the first logit
      const float scale = difference > -INFINITY ? expf(difference) : 0.0f;
      if (scale > 0.0f) {
        shifted = scale * (shifted + difference * (1.0f + others));
        others = scale * (1.0f + others);
      } else {
        shifted = others = 0.0f;
      }
      top2 = top1;
      top1 = logit;
    } else {
      top2 = logit > top2 ? logit : top2;
      const float difference = logit - top1;
      const float weight = expf(difference);
      others += weight;
      shifted += weight > 0.0f ? difference * weight : 0.0f;
    }
  }

  // The same as if the other's logits had been added here.
  HOST_DEVICE void merge(Prediction other) {
    unrankable |= other.unrankable;
    if (!(other.top1 > -INFINITY)) return;
    if (!(top1 > -INFINITY)) {
      const bool seen = unrankable;
      *this = other;
      unrankable = seen;
      return;
    }
    Prediction high = *this, low = other;
    if (other.top1 > top1) {
      high = other;
      low = *this;
    }
    const float difference = low.top1 - high.top1;
    const float scale = expf(difference);
    const float runner_up = high.top2 > low.top1 ? high.top2 : low.top1;
    others = high.others;
    shifted = high.shifted;
    if (scale > 0.0f) {
      others += scale * (1.0f + low.others);
      shifted += scale * (low.shifted + difference * (1.0f + low.others));
    }
    top1 = high.top1;
    top2 = runner_up;
  }

  // Nothing but -inf has no prediction either.
  HOST_DEVICE bool has_no_score() const { return unrankable || !(top1 > -INFINITY); }

  HOST_DEVICE float entropy() const {
    const float value = log1pf(others) - shifted / (1.0f + others);
    return value > 0.0f ? value : 0.0f;
  }

  HOST_DEVICE float score(ScoreKind kind) const {
    if (has_no_score()) return NAN;
    if (kind == ScoreKind::entropy) return entropy();
    if (kind == ScoreKind::least_confidence) return others / (1.0f + others);
    return top2 > -INFINITY ? expm1f(top2 - top1) / (1.0f + others) : -1.0f / (1.0f + others);
  }
};

}  // namespace prunefuse
