// Runs one block: its threads are fibers that switch only where they wait for each other.
#pragma once

#include <array>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "contexts.h"
#include "random.h"
#include "shared_memory.h"
#include "warp.h"

namespace simt {

constexpr unsigned kMaxThreads = 1024;

// Where the running thread is; kernels read it as threadIdx and so on.
struct Position {
  uint3 thread{}, block{};
  dim3 block_size, grid_size;
};
inline constinit Position position{};

class Block {
 public:
  // Throws what the first thread threw that failed, or an Error if the threads cannot go on.
  void run(uint3 index, size_t dynamic_shared_bytes, void (*kernel)(const void*), const void* arguments, void* end_tag,
           Random& random) {
    position.block = index;
    kernel_ = kernel;
    arguments_ = arguments;
    end_tag_ = end_tag;
    shared_memory_.begin_block(dynamic_shared_bytes);
    start();
    run_threads(random);
    if (failure_) abandon();
    for (unsigned i = 0; i < count_; ++i) contexts_.give_back(threads_[i].fiber.context());
    if (const std::string overrun = shared_memory_.overrun(); !failure_ && !overrun.empty())
      failure_ = std::make_exception_ptr(Error("simt: " + describe_block() + ": " + overrun));
    shared_memory_.end_block();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  void begin_launch() { contexts_.begin_launch(); }
  void end_launch() {
    contexts_.end_launch();
    shared_memory_.end_launch();
  }

  // ---- Called by a fiber ----

  bool is_running() const { return current_ != nullptr; }
  Thread& current() { return *current_; }

  void run_kernel() {
    Thread& thread = *current_;
    thread.fiber.began();
    try {
      kernel_(arguments_);
    } catch (const Abandoned&) {
    } catch (...) {
      if (!failure_) failure_ = std::current_exception();
    }
    thread.warp->exited |= thread.bit();
    tsan::release(end_tag_);
    thread.fiber.end();
  }

  void wait_for_lanes(const Request& request) {
    Thread& thread = *current_;
    if (!(request.mask & thread.bit())) refuse_mask(request, "the calling lane is not in it");
    if (request.mask & ~thread.warp->existing)
      refuse_mask(request, "the block has fewer threads, this warp's are " + hex(thread.warp->existing));
    thread.request = request;
    thread.warp->in_exchange |= thread.bit();
    pause(thread);
  }

  unsigned wait_for_block(const Request& request) {
    Thread& thread = *current_;
    thread.request = request;
    thread.warp->in_block_barrier |= thread.bit();
    pause(thread);
    return true_predicates_;
  }

  void* shared(const void* key, size_t bytes, size_t alignment) {
    std::string refusal;
    void* memory = shared_memory_.array(key, bytes, alignment, current_->fiber, refusal);
    if (!refusal.empty()) refuse(refusal);
    return memory;
  }

  void* dynamic_shared() {
    std::string refusal;
    void* memory = shared_memory_.dynamic(refusal);
    if (!refusal.empty()) refuse(refusal);
    return memory;
  }

  std::string describe(const Thread& thread) const {
    return describe_block() + " " + coordinates("thread", thread.index);
  }

 private:
  [[noreturn]] static void refuse_mask(const Request& request, const std::string& reason) {
    refuse(std::string(request.name) + " with mask " + hex(request.mask) + ": " + reason);
  }

  struct Abandoned {};  // thrown in the other threads when one has failed, so that they leave their stacks in order

  void start() {
    const dim3 size = position.block_size;
    count_ = size.x * size.y * size.z;
    warp_count_ = (count_ + 31) / 32;
    stacks_.prepare(count_);
    Fiber::set_scheduler();
    contexts_.begin_block();
    for (unsigned w = 0; w < warp_count_; ++w) {
      Warp& warp = warps_[w];
      const unsigned lanes = count_ - 32 * w;
      warp = Warp{};
      warp.threads = &threads_[32 * w];
      warp.existing = warp.runnable = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
    }
    for (unsigned i = 0; i < count_; ++i) {
      Thread& thread = threads_[i];
      thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
      thread.lane = i % 32;
      thread.warp = &warps_[i / 32];
      thread.request = Request{};
      thread.fiber.start(stacks_.bottom(i), i, contexts_.take());
    }
  }

  void run_threads(Random& random) {
    // In half of the blocks a warp runs on until its threads wait for the whole block; in the others warps take turns.
    const bool run_ahead = random.below(2) == 1;
    unsigned order[kMaxThreads / 32];
    for (unsigned w = 0; w < warp_count_; ++w) order[w] = w;
    for (;;) {
      random.shuffle(order, warp_count_);
      bool progress = false;
      for (unsigned i = 0; i < warp_count_; ++i) {
        Warp& warp = warps_[order[i]];
        while (warp.runnable) {
          progress = true;
          run_lanes(warp, random);
          if (failure_) return;
          warp.release_complete_groups();
          if (!run_ahead) break;
        }
      }
      if (progress) continue;
      if (all_exited()) return;
      if (const std::string reason = why_nobody_can_go_on(); !reason.empty()) {
        failure_ = std::make_exception_ptr(Error("simt: " + reason));
        return;
      }
      release_block_barrier();
    }
  }

  void run_lanes(Warp& warp, Random& random) {
    unsigned order[32], lanes = 0;
    for_each_lane(std::exchange(warp.runnable, 0), [&](unsigned lane) { order[lanes++] = lane; });
    random.shuffle(order, lanes);
    for (unsigned i = 0; i < lanes && !failure_; ++i) {
      Thread& thread = warp.threads[order[i]];
      warp.started |= thread.bit();
      resume(thread);
    }
  }

  void resume(Thread& thread) {
    current_ = &thread;
    position.thread = thread.index;
    thread.fiber.resume();
    current_ = nullptr;
  }

  void pause(Thread& thread) {
    thread.fiber.pause();
    if (failure_) throw Abandoned();
  }

  void abandon() {
    for (unsigned i = 0; i < count_; ++i) {
      Thread& thread = threads_[i];
      if (thread.warp->started & ~thread.warp->exited & thread.bit()) resume(thread);
    }
  }

  bool all_exited() const {
    for (unsigned w = 0; w < warp_count_; ++w)
      if (warps_[w].exited != warps_[w].existing) return false;
    return true;
  }

  // Called when no thread is runnable and some have not exited. Empty if all of them wait at one barrier of the block.
  std::string why_nobody_can_go_on() const {
    for (unsigned i = 0; i < count_; ++i)
      if (threads_[i].warp->in_exchange & threads_[i].bit()) return why_incomplete(threads_[i]);

    const Thread* waiting = nullptr;
    unsigned exited = 0;
    for (unsigned i = 0; i < count_; ++i) {
      const Thread& thread = threads_[i];
      if (thread.warp->exited & thread.bit())
        ++exited;
      else if (!waiting)
        waiting = &thread;
      else if (!waiting->request.is_same_call(thread.request))
        return "different barriers: " + describe_wait(*waiting) + ", " + describe_wait(thread);
    }
    if (exited)
      return "barrier that not all reach: " + describe_wait(*waiting) + ", but " + std::to_string(exited) + " of the " +
             std::to_string(count_) + " threads have exited";
    return "";
  }

  // Among the lanes that the thread waits for there is one that will never come.
  std::string why_incomplete(const Thread& thread) const {
    const Warp& warp = *thread.warp;
    std::string reason;
    for_each_lane(thread.request.mask, [&](unsigned lane) {
      const Thread& other = warp.threads[lane];
      if (!reason.empty()) return;
      if (warp.exited & other.bit())
        reason = "deadlock: " + describe_wait(thread) + ", but " + describe(other) + " has exited";
      else if (warp.in_block_barrier & other.bit())
        reason = "deadlock: " + describe_wait(thread) + ", but " + describe_wait(other);
      else if (!thread.request.is_same_call(other.request))
        reason = "divergent warp: " + describe_wait(thread) + ", but " + describe_wait(other);
    });
    return reason;
  }

  void release_block_barrier() {
    true_predicates_ = 0;
    for (unsigned i = 0; i < count_; ++i) true_predicates_ += threads_[i].request.value != 0;
    order_memory([&](auto visit) {
      for (unsigned i = 0; i < count_; ++i) visit(threads_[i]);
    });
    for (unsigned w = 0; w < warp_count_; ++w) warps_[w].release_from_block_barrier();
  }

  static std::string coordinates(const char* name, uint3 index) {
    return std::string(name) + "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," +
           std::to_string(index.z) + ")";
  }

  std::string describe_block() const { return coordinates("block", position.block); }

  std::string describe_wait(const Thread& thread) const {
    const Request& request = thread.request;
    std::string text = describe(thread) + " waits in " + request.name;
    if (request.mask) text += " with mask " + hex(request.mask);
    if (request.width != 32) text += " and width " + std::to_string(request.width);
    if (request.value_bytes) text += " on " + std::to_string(8 * request.value_bytes) + " bits";
    return text;
  }

  std::array<Thread, kMaxThreads> threads_;
  std::array<Warp, kMaxThreads / 32> warps_;
  unsigned count_ = 0, warp_count_ = 0;
  Stacks stacks_;
  Contexts contexts_;
  SharedMemory shared_memory_;

  void (*kernel_)(const void*) = nullptr;
  const void* arguments_ = nullptr;
  void* end_tag_ = nullptr;
  Thread* current_ = nullptr;
  unsigned true_predicates_ = 0;  // at the last barrier of the block
  std::exception_ptr failure_;
};

}  // namespace simt
