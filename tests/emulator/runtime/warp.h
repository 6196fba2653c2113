// The threads of a block, in warps: who can run, who waits for whom, and when a wait is over.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

#include "../simt_runtime.h"
#include "fiber.h"
#include "random.h"

namespace simt {

// What a thread waits for. A mask of 0 stands for the whole block.
struct Request {
  const char* name = "";
  unsigned mask = 0;
  uint64_t value = 0;
  unsigned value_bytes = 0;
  int width = 32;
  bool orders_memory = false;

  bool is_same_call(const Request& other) const {
    return mask == other.mask && value_bytes == other.value_bytes && width == other.width &&
           std::strcmp(name, other.name) == 0;
  }
};

struct Warp;

struct Thread {
  Fiber fiber;
  uint3 index{};
  unsigned lane = 0;
  Warp* warp = nullptr;
  Request request;

  unsigned bit() const { return 1u << lane; }
};

// Calls visit(lane) for each lane of the mask.
template <class Visit>
void for_each_lane(unsigned mask, Visit visit) {
  for (; mask; mask &= mask - 1) visit(static_cast<unsigned>(std::countr_zero(mask)));
}

// What the threads did before, each of them sees after. The tag must be new: an old one would also bring along what
// others did, and hide races with them.
template <class ForEachThread>
void order_memory(ForEachThread for_each_thread) {
  if (!tsan::active()) return;
  void* tag = std::malloc(1);
  for_each_thread([tag](Thread& thread) {
    thread.fiber.act_as_fiber();
    tsan::release(tag);
  });
  for_each_thread([tag](Thread& thread) {
    thread.fiber.act_as_fiber();
    tsan::acquire(tag);
  });
  Fiber::act_as_scheduler();
  std::free(tag);
}

struct Warp {
  Thread* threads = nullptr;
  unsigned existing = 0;  // a bit for each lane, here and below
  unsigned started = 0;
  unsigned runnable = 0;  // every lane is either this or one of the next three, unless it is running
  unsigned in_exchange = 0;
  unsigned in_block_barrier = 0;
  unsigned exited = 0;
  WarpValues values{};

  // Lets those go on whose partners have all come with the same call.
  void release_complete_groups() {
    for (unsigned rest = in_exchange; rest;) {
      const Thread& first = threads[std::countr_zero(rest)];
      if (is_complete(first.request)) {
        release(first.request);
        rest &= ~first.request.mask;
      } else {
        rest &= ~first.bit();
      }
    }
  }

  void release_from_block_barrier() {
    runnable |= in_block_barrier;
    in_block_barrier = 0;
  }

 private:
  bool is_complete(const Request& request) const {
    if (request.mask & ~in_exchange) return false;
    bool complete = true;
    for_each_lane(request.mask, [&](unsigned lane) { complete &= request.is_same_call(threads[lane].request); });
    return complete;
  }

  // The values are copied: lanes that go on may post their next ones before others have read these. Those are read
  // before anything is released again, because all runnable lanes of a warp run in between.
  void release(const Request& request) {
    const unsigned mask = request.mask;
    for_each_lane(mask, [&](unsigned lane) { values.of_lane[lane] = threads[lane].request.value; });
    if (request.orders_memory)
      order_memory([&](auto visit) { for_each_lane(mask, [&](unsigned lane) { visit(threads[lane]); }); });
    in_exchange &= ~mask;
    runnable |= mask;
  }
};

}  // namespace simt
