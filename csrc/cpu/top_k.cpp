#include "top_k.h"

#include <algorithm>
#include <vector>

#include "../core/order.h"

namespace prunefuse::cpu {

namespace {

template <class Key>
struct Ranked {
  Key key;  // smaller is better
  int64_t position;
};

template <class Key>
bool is_better(const Ranked<Key>& a, const Ranked<Key>& b) {
  return a.key < b.key || (a.key == b.key && a.position < b.position);
}

// By key, stable, 11 bits at a time.
template <class Key>
void radix_sort(std::vector<Ranked<Key>>& items) {
  constexpr int kBits = 11, kBins = 1 << kBits;
  std::vector<Ranked<Key>> other(items.size());
  for (int shift = 0; shift < static_cast<int>(8 * sizeof(Key)); shift += kBits) {
    std::vector<int64_t> begins(kBins + 1, 0);
    for (const auto& item : items) ++begins[((item.key >> shift) & (kBins - 1)) + 1];
    if (*std::max_element(begins.begin(), begins.end()) == static_cast<int64_t>(items.size())) continue;
    for (int bin = 0; bin < kBins; ++bin) begins[bin + 1] += begins[bin];
    for (const auto& item : items) other[begins[(item.key >> shift) & (kBins - 1)]++] = item;
    items.swap(other);
  }
}

template <class Score>
void select(const Score* scores, int64_t count, int64_t k, int64_t* positions) {
  using Key = decltype(order_key(Score{}));
  constexpr int kShift = 8 * static_cast<int>(sizeof(Key)) - 16;
  if (k == 0) return;
  // The first 16 bits of the keys, counted, say which of them can be among the k best.
  std::vector<int64_t> counts(1 << 16, 0);
  for (int64_t i = 0; i < count; ++i) ++counts[static_cast<Key>(~order_key(scores[i])) >> kShift];
  Key last = 0;
  int64_t kept = counts[0];
  while (kept < k) kept += counts[++last];
  std::vector<Ranked<Key>> items;
  items.reserve(static_cast<size_t>(kept));
  for (int64_t i = 0; i < count; ++i) {
    const Key key = ~order_key(scores[i]);
    if (key >> kShift <= last) items.push_back({key, i});
  }
  if (kept > k) {
    std::nth_element(items.begin(), items.begin() + k, items.end(), is_better<Key>);
    items.resize(static_cast<size_t>(k));
    std::sort(items.begin(), items.end(), is_better<Key>);
  } else {
    radix_sort(items);
  }
  for (int64_t i = 0; i < k; ++i) positions[i] = items[static_cast<size_t>(i)].position;
}

}  // namespace

void top_k(const float* scores, int64_t count, int64_t k, int64_t* positions) { select(scores, count, k, positions); }
void top_k(const double* scores, int64_t count, int64_t k, int64_t* positions) { select(scores, count, k, positions); }

}  // namespace prunefuse::cpu
