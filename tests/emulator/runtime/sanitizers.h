// What AddressSanitizer and ThreadSanitizer have to know about fibers.
//
// The functions are weak: they are there if the program that this runtime is linked to was built with the sanitizer.
#pragma once

#include <cstddef>

extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake_stack, const void** old_bottom, size_t* old_size);
[[gnu::weak]] void __asan_poison_memory_region(const volatile void* begin, size_t bytes);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_destroy_fiber(void* fiber);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* tag);
[[gnu::weak]] void __tsan_release(void* tag);
}

namespace simt::asan {

inline bool active() { return __asan_poison_memory_region != nullptr; }

// Before the switch: the stack to come, and where to keep the fake stack of this one (nullptr: it ends here).
inline void leave_stack(void** fake_stack, const void* next_bottom, size_t next_size) {
  if (active()) __sanitizer_start_switch_fiber(fake_stack, next_bottom, next_size);
}

// After the switch, on the new stack: the fake stack kept when it was left, and where to note the old stack.
inline void enter_stack(void* fake_stack, const void** old_bottom, size_t* old_size) {
  if (active()) __sanitizer_finish_switch_fiber(fake_stack, old_bottom, old_size);
}

inline void poison(const void* begin, size_t bytes) {
  if (active()) __asan_poison_memory_region(begin, bytes);
}

}  // namespace simt::asan

// To ThreadSanitizer every thread of a kernel is a thread: it has a context, which has its own clock. Running one after
// the other orders nothing by itself, so accesses race unless a release by one and an acquire by the other, on one tag,
// lie between them.
namespace simt::tsan {

using Context = void*;

inline bool active() { return __tsan_create_fiber != nullptr; }
inline Context current() { return active() ? __tsan_get_current_fiber() : nullptr; }

// What the creator did so far comes before everything that the new context does.
inline Context create() { return active() ? __tsan_create_fiber(0) : nullptr; }
inline void destroy(Context context) {
  if (active()) __tsan_destroy_fiber(context);
}

// From here on the running code is taken for that context's. This needs no switch of stacks.
inline void enter(Context context) {
  constexpr unsigned without_synchronising = 1;
  if (active()) __tsan_switch_to_fiber(context, without_synchronising);
}

inline void release(void* tag) {
  if (active()) __tsan_release(tag);
}
inline void acquire(void* tag) {
  if (active()) __tsan_acquire(tag);
}

}  // namespace simt::tsan
