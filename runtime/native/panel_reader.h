// A panel of weights, read block after block.
#pragma once

#include <type_traits>

#include "dot_products.h"
#include "fetch.h"

namespace rbee::RBEE_VARIANT {

// Bytes between the weights at work and those that are fetched into the core's first cache, and into
// its second before: the first waits for few lines at a time, too few for how long memory takes.
constexpr size_t kAhead = 3072;
constexpr size_t kFarAhead = 8192;

RBEE_INLINED void fetch_ahead(const uint8_t* of, size_t bytes) {
  fetch_into_second(of + kFarAhead, bytes);
  fetch(of + kAhead, bytes);
}

// Sixteen numbers from memory, and on to what is behind them.
template <typename Number>
RBEE_INLINED Floats take(const uint8_t*& from) {
  const Floats numbers = load(reinterpret_cast<const Number*>(from));
  from += kLanes * sizeof(Number);
  return numbers;
}

// `Block` 0 means that the block's size is known at run time only.
template <Form kForm, size_t Block, Held How, bool Offsets>
class PanelReader {
 public:
  // From a block on, which is the first of its group.
  RBEE_INLINED PanelReader(const Panels& weights, size_t index, size_t first = 0)
      : block_(Block != 0 ? Block : weights.shape().block),
        // A constant, where the block is: what is fetched for each is written out.
        block_bytes_(kLanes *
                     (block_ * bits_of(kForm) / 8 + bytes_of_a_number(How) * (Offsets ? 2 : 1))),
        number_(first),
        head_(weights.panel(index)),
        at_(head_ + weights.head_bytes() + first * block_bytes_),
        middle_(repeat(weights.middle())) {
    if constexpr (kForm == Form::kNumbers) table_ = load_table(weights.table().integers.data());
    if constexpr (How == Held::kProducts) {
      if (first == 0) fetch_ahead(head_, weights.head_bytes());
      head_ += first / blocks_of_group() * kLanes * sizeof(uint16_t) * (Offsets ? 2 : 1);
    }
  }

  // Reads a block's scales and offsets, and goes on to its integers.
  RBEE_INLINED void begin_block() {
    fetch_ahead(at_, block_bytes_);
    if constexpr (How == Held::kProducts) {
      if (number_ % blocks_of_group() == 0) {
        factor_ = take<Half>(head_);
        if constexpr (Offsets) minimum_factor_ = take<Half>(head_);
      }
      scale_ = times(factor_, take<int8_t>(at_));
      if constexpr (Offsets) offset_ = times(minimum_factor_, take<int8_t>(at_));
    } else {
      using Short = std::conditional_t<How == Held::kHalves, Half, Power>;
      using Number = std::conditional_t<How == Held::kFloats, float, Short>;
      scale_ = take<Number>(at_);
      if constexpr (Offsets) offset_ = take<Number>(at_);
    }
    if constexpr (Offsets && How != Held::kFloats) {
      offset_ = multiply_add(middle_, scale_, offset_);
    }
  }
  // Goes on to the next block.
  RBEE_INLINED void end_block() {
    at_ += kLanes * block_ * bits_of(kForm) / 8;
    ++number_;
  }

  RBEE_INLINED size_t block() const { return block_; }
  RBEE_INLINED Floats scale() const { return scale_; }
  RBEE_INLINED Floats offset() const { return offset_; }
  RBEE_INLINED const uint8_t* integers() const { return at_; }
  RBEE_INLINED Integers table() const { return table_; }

 private:
  RBEE_INLINED size_t blocks_of_group() const { return kGroupInputs / block_; }

  size_t block_;
  size_t block_bytes_;
  size_t number_;
  const uint8_t* head_;
  const uint8_t* at_;
  Floats middle_;
  Floats factor_, minimum_factor_;
  Floats scale_, offset_;
  Integers table_;
};

}  // namespace rbee::RBEE_VARIANT
