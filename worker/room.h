// How much of a device is free. Pure; not thread-safe.
#pragma once

#include <cstdint>

namespace assay::worker {

// Tests share a device while a slot is free and, on a GPU, while what they need of its memory fits together.
// A GPU test whose need is not known (0), or is more than the GPU has, has it alone.
class Room {
 public:
  // memory_bytes 0: not known, so that on a GPU every test runs alone.
  Room(uint32_t slots, uint64_t memory_bytes, bool by_memory)
      : slots_(slots), memory_bytes_(memory_bytes), by_memory_(by_memory) {}

  bool Fits(uint64_t need_bytes) const {
    if (taken_slots_ >= slots_ || alone_) return false;
    if (!by_memory_ || taken_slots_ == 0) return true;
    return !NeedsAll(need_bytes) && need_bytes <= memory_bytes_ - taken_bytes_;
  }
  // Only where it fits; to be given back with the same need.
  void Take(uint64_t need_bytes) {
    ++taken_slots_;
    if (!by_memory_) return;
    if (NeedsAll(need_bytes)) {
      alone_ = true;
    } else {
      taken_bytes_ += need_bytes;
    }
  }
  void Give(uint64_t need_bytes) {
    --taken_slots_;
    if (!by_memory_) return;
    if (NeedsAll(need_bytes)) {
      alone_ = false;
    } else {
      taken_bytes_ -= need_bytes;
    }
  }

  uint32_t slots() const { return slots_; }
  uint64_t memory_bytes() const { return memory_bytes_; }
  uint32_t taken_slots() const { return taken_slots_; }

 private:
  bool NeedsAll(uint64_t need_bytes) const { return need_bytes == 0 || need_bytes > memory_bytes_; }

  uint32_t slots_;
  uint64_t memory_bytes_;
  bool by_memory_;
  uint32_t taken_slots_ = 0;
  uint64_t taken_bytes_ = 0;
  bool alone_ = false;
};

}  // namespace assay::worker
