// ThreadSanitizer's contexts for the threads of a launch. Making one takes half a millisecond, so that some are kept.
#pragma once

#include <cstdlib>
#include <vector>

#include "sanitizers.h"

namespace simt {

// A context is used once in a launch: used by two blocks, it would order them, and hide their races. Launches are
// ordered anyway.
class Contexts {
 public:
  void begin_launch() { scheduler_tag_ = std::malloc(1); }

  // What the scheduler did until now comes before all that the contexts do which are taken from here on.
  void begin_block() { tsan::release(scheduler_tag_); }

  tsan::Context take() {
    if (!tsan::active() || free_.empty()) return tsan::create();
    const tsan::Context scheduler = tsan::current(), context = free_.back();
    free_.pop_back();
    tsan::enter(context);
    tsan::acquire(scheduler_tag_);
    tsan::enter(scheduler);
    return context;
  }

  void give_back(tsan::Context context) {
    if (free_.size() + used_.size() < kKept)
      used_.push_back(context);
    else
      tsan::destroy(context);
  }

  void end_launch() {
    free_.insert(free_.end(), used_.begin(), used_.end());
    used_.clear();
    std::free(scheduler_tag_);
  }

 private:
  static constexpr size_t kKept = 512;  // of nearly a megabyte each

  std::vector<tsan::Context> free_, used_;
  void* scheduler_tag_ = nullptr;
};

}  // namespace simt
