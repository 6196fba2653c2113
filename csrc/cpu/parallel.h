// Threads as the caller provides them: run(begin, end) over parts of [0, count), each at least `grain` long.
#pragma once

#include <cstdint>
#include <functional>

namespace prunefuse::cpu {

using Range = std::function<void(int64_t begin, int64_t end)>;

struct Threads {
  int count;
  std::function<void(int64_t count, int64_t grain, const Range& run)> parallel_for;
};

}  // namespace prunefuse::cpu
