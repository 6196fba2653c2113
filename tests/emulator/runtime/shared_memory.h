// The shared memory of the block that runs.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "fiber.h"
#include "sanitizers.h"

namespace simt {

// Every array lies between two guards. AddressSanitizer stops at any access to them; without it a write is found when
// the block has ended.
class SharedArray {
 public:
  SharedArray(const void* key, size_t bytes, size_t alignment) : key_(key), bytes_(bytes) {
    // No more alignment than was asked for (but the 8 bytes that AddressSanitizer needs): a vector load from an array
    // of scalars is as misaligned here as it may be on the device.
    const size_t exact = alignment < 8 ? 8 : alignment;
    offset_ = kGuardBytes + exact;
    const size_t total = (offset_ + bytes + kGuardBytes) / kGuardBytes * kGuardBytes + kGuardBytes;
    memory_.reset(static_cast<unsigned char*>(std::aligned_alloc(kGuardBytes, total)));
    if (!memory_) throw std::bad_alloc();
    std::memset(memory_.get(), kGuard, total);
    std::memset(data(), kUninitialised, bytes);
    asan::poison(memory_.get(), offset_);
    asan::poison(data() + bytes, kGuardBytes);
  }

  const void* key() const { return key_; }
  size_t bytes() const { return bytes_; }
  unsigned char* data() const { return memory_.get() + offset_; }
  void* tag() const { return memory_.get(); }

  // How many bytes around the array were written to. A loop, because ThreadSanitizer would take memcmp for a race.
  unsigned written_outside() const {
    unsigned count = 0;
    for (const unsigned char* byte = memory_.get(); byte < data(); ++byte) count += *byte != kGuard;
    for (const unsigned char* byte = data() + bytes_; byte < data() + bytes_ + kGuardBytes; ++byte)
      count += *byte != kGuard;
    return count;
  }

 private:
  static constexpr size_t kGuardBytes = 1024;
  static constexpr unsigned char kGuard = 0xFD;
  static constexpr unsigned char kUninitialised = 0xFF;  // NaN as a float, -1 as an integer: conspicuous

  struct Free {
    void operator()(unsigned char* memory) const { std::free(memory); }
  };

  const void* key_;
  size_t bytes_;
  size_t offset_ = 0;
  std::unique_ptr<unsigned char[], Free> memory_;
};

class SharedMemory {
 public:
  static constexpr size_t kStaticLimit = 48 << 10;
  static constexpr size_t kTotalLimit = 227 << 10;  // static and dynamic, of compute capability 9.0

  // Called by the scheduler, before each block.
  void begin_block(size_t dynamic_bytes) {
    static_bytes_ = 0;
    dynamic_bytes_ = dynamic_bytes;
    if (dynamic_bytes) arrays_.emplace_back(&dynamic_bytes_, dynamic_bytes, 16);
  }

  // Called by a fiber: the array of this key, made when the block's first thread asks for it.
  // Why it cannot be had is left in `refusal`.
  void* array(const void* key, size_t bytes, size_t alignment, Fiber& fiber, std::string& refusal) {
    SharedArray* array = find(key);
    if (!array) {
      static_bytes_ += bytes;
      if (static_bytes_ > kStaticLimit)
        refusal = "too much static shared memory: expected at most " + std::to_string(kStaticLimit) +
                  " bytes in a block, got " + std::to_string(static_bytes_) + "; use DYNAMIC_SHARED";
      else if (static_bytes_ + dynamic_bytes_ > kTotalLimit)
        refusal = "too much shared memory: expected at most " + std::to_string(kTotalLimit) +
                  " bytes in a block, got " + std::to_string(static_bytes_) + " static and " +
                  std::to_string(dynamic_bytes_) + " dynamic";
      if (!refusal.empty()) return nullptr;
      // Not this fiber's doing: else the others would race with its filling of the memory.
      Fiber::act_as_scheduler();
      array = &arrays_.emplace_back(key, bytes, alignment);
      tsan::release(array->tag());
      fiber.act_as_fiber();
    }
    tsan::acquire(array->tag());
    return array->data();
  }

  void* dynamic(std::string& refusal) {
    SharedArray* array = find(&dynamic_bytes_);
    if (!array) refusal = "dynamic shared memory is used, but the launch gave it 0 bytes";
    return array ? array->data() : nullptr;
  }

  // Empty if no thread wrote outside of an array.
  std::string overrun() const {
    for (const SharedArray& array : arrays_)
      if (const unsigned written = array.written_outside())
        return "a thread wrote outside of its shared array of " + std::to_string(array.bytes()) +
               " bytes: " + std::to_string(written) + " bytes around it have changed; AddressSanitizer finds the line";
    return "";
  }

  // To ThreadSanitizer, freeing is a write by the scheduler, and races with the threads until the launch has ended.
  void end_block() {
    if (tsan::active())
      for (SharedArray& array : arrays_) kept_.push_back(std::move(array));
    arrays_.clear();
  }

  void end_launch() { kept_.clear(); }

 private:
  SharedArray* find(const void* key) {
    for (SharedArray& array : arrays_)
      if (array.key() == key) return &array;
    return nullptr;
  }

  std::vector<SharedArray> arrays_, kept_;
  size_t static_bytes_ = 0;
  size_t dynamic_bytes_ = 0;
};

}  // namespace simt
