// The scores, numbered as the operators pass them. Every one of them is "higher = choose first".
#pragma once

namespace prunefuse {

enum class ScoreKind : int { least_confidence = 0, entropy = 1, margin = 2 };

// Of the committee's mean prediction: mean_least_confidence, mean_entropy. bald is the mutual information between the
// prediction and the member; variation_ratio is the share of the members that do not vote for the most voted class.
enum class CommitteeKind : int { bald = 0, mean_entropy = 1, variation_ratio = 2, mean_least_confidence = 3 };

}  // namespace prunefuse
