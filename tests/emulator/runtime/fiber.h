// A fiber: a stack of its own, and the place on it where it stopped.
#pragma once

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "sanitizers.h"

// Saves the callee-saved registers and the stack pointer, then goes on where `continue_at` was saved. The compiler
// saves all other registers around the call. Kernels do not change the floating-point control words, so these stay.
extern "C" void simt_switch_stack(void** save_at, void* continue_at);

// Where every fiber begins; see block.h.
extern "C" void simt_fiber_entry();

#if defined(__x86_64__) && defined(__ELF__)
asm(R"(
.pushsection .text
.globl simt_switch_stack
.hidden simt_switch_stack
.type simt_switch_stack, @function
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch_stack, .-simt_switch_stack
.popsection
)");
#else
#error "The emulator switches fibers on x86-64 ELF systems only: add simt_switch_stack and Fiber::start for this one"
#endif

namespace simt {

// The stacks of a block's threads. Only pages that were touched take memory; below every stack lies a guard page.
class Stacks {
 public:
  static constexpr size_t kBytes = 256 << 10;

  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks() { unmap(); }

  // To ThreadSanitizer a new mapping is new memory; without one, locals of two blocks' threads that lie in the same
  // place would race.
  void prepare(unsigned count) {
    if (count <= count_ && !tsan::active()) return;
    unmap();
    void* memory =
        mmap(nullptr, count * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<char*>(memory);
    count_ = count;
    for (unsigned i = 0; i < count; ++i)
      if (mprotect(bottom(i), kGuardBytes, PROT_NONE) != 0) throw std::bad_alloc();
  }

  char* bottom(unsigned index) const { return memory_ + index * kBytes; }

 private:
  static constexpr size_t kGuardBytes = 4096;

  void unmap() {
    if (memory_) munmap(memory_, count_ * kBytes);
    memory_ = nullptr;
    count_ = 0;
  }

  char* memory_ = nullptr;
  unsigned count_ = 0;
};

class Fiber {
 public:
  // The next resume() calls simt_fiber_entry on this stack.
  void start(char* bottom, unsigned index, tsan::Context context) {
    bottom_ = bottom;
    fake_stack_ = nullptr;
    context_ = context;
    // Tops of stacks that differ by a multiple of 4096 would share a few lines of the cache.
    void** top = reinterpret_cast<void**>(bottom + Stacks::kBytes - index % 64 * 64);
    *--top = nullptr;  // the entry's return address: it never returns, and unwinders stop here
    *--top = reinterpret_cast<void*>(simt_fiber_entry);
    for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
    stack_pointer_ = top;
  }

  // Called by the scheduler: runs the fiber until it pauses or ends.
  void resume() {
    tsan::enter(context_);
    asan::leave_stack(&scheduler().fake_stack, bottom_, Stacks::kBytes);
    simt_switch_stack(&scheduler().stack_pointer, stack_pointer_);
    asan::enter_stack(scheduler().fake_stack, nullptr, nullptr);
  }

  // Called by the fiber: first of all, to go back to the scheduler, and last of all.
  void began() { asan::enter_stack(nullptr, &scheduler().stack_bottom, &scheduler().stack_bytes); }

  void pause() {
    leave(&fake_stack_);
    asan::enter_stack(fake_stack_, &scheduler().stack_bottom, &scheduler().stack_bytes);
  }

  [[noreturn]] void end() {
    leave(nullptr);
    std::abort();
  }

  // What comes from here on is the scheduler's doing, or the fiber's again, to ThreadSanitizer.
  static void act_as_scheduler() { tsan::enter(scheduler().context); }
  void act_as_fiber() { tsan::enter(context_); }

  static void set_scheduler() { scheduler().context = tsan::current(); }
  tsan::Context context() const { return context_; }

 private:
  struct Scheduler {
    void* stack_pointer;
    void* fake_stack;
    const void* stack_bottom;
    size_t stack_bytes;
    tsan::Context context;
  };

  static Scheduler& scheduler() {
    static Scheduler the_one{};
    return the_one;
  }

  void leave(void** fake_stack) {
    act_as_scheduler();
    asan::leave_stack(fake_stack, scheduler().stack_bottom, scheduler().stack_bytes);
    simt_switch_stack(&stack_pointer_, scheduler().stack_pointer);
  }

  void* stack_pointer_ = nullptr;
  char* bottom_ = nullptr;
  void* fake_stack_ = nullptr;
  tsan::Context context_ = nullptr;
};

}  // namespace simt
