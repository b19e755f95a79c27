// The arrays of one step of attention.
#pragma once

#include <cstddef>
#include <cstdint>

#include "head_cache.h"

namespace rbee {

// Tables of a rotary embedding: float[positions, half] each.
struct Rotary {
  const float* cos;
  const float* sin;
  size_t positions;
  size_t half;

  Angles at(size_t position) const {
    return {cos + position * half, sin + position * half, half};
  }
};

// A step's arrays. The cache is [slots, kv_heads, capacity, size], or as many panels of Bytes; past
// and present may be one.
template <typename Element>
struct AttentionStep {
  size_t batch;
  size_t tokens;  // of each row
  size_t size;    // of a head
  size_t kv_heads;
  size_t capacity;
  const float* query;
  const float* key;
  const float* value;
  size_t query_stride;  // from token to token
  size_t kv_stride;
  const int32_t* filled;  // positions after this step, less one
  const int32_t* slots;   // where each row is in the cache; null if that is in order
  const int64_t* positions;
  Rotary rotary;
  float scale;
  const float* sinks;  // of each head of queries; null for none
  Element* present_key;
  Element* present_value;
  float* queries;  // [batch, tokens, heads, size], turned and scaled
  float* y;        // the same shape

  // Position of a row's first token in its cache.
  size_t start(size_t row) const { return static_cast<size_t>(filled[row]) + 1 - tokens; }

  // Where a row's head begins in the cache.
  size_t offset(size_t row, size_t head) const {
    const size_t slot = slots != nullptr ? static_cast<size_t>(slots[row]) : row;
    return (slot * kv_heads + head) * elements<Element>(capacity, size);
  }

  HeadCache<Element> cache(size_t row, size_t head) const {
    const size_t at = offset(row, head);
    return {present_key + at, present_value + at, size, start(row) + tokens};
  }

  float sink(size_t head) const { return sinks != nullptr ? sinks[head] : kNoSink; }

  // Position by which a token is turned.
  size_t turn(size_t row, size_t token) const {
    return positions != nullptr ? static_cast<size_t>(positions[row * tokens + token])
                                : start(row) + token;
  }
};

}  // namespace rbee
