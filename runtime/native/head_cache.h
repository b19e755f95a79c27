// What attention goes over: the cache of one head, positions in it, and queries.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "inlined.h"

namespace rbee {

// How scores become weights.
struct Scoring {
  float cap;      // scores pass through cap * tanh(score / cap); 0 for none
  size_t window;  // positions a query sees, itself included; 0 for all before it
  size_t ahead = 0;  // and positions after it, ...
  size_t end = 0;    // ... unless there is no such one
  // Added to scores first, at the position of the key less that of the query; null for nothing.
  // There are numbers for 16 less than the least such distance, and for 64 more than the largest.
  const float* bias = nullptr;
};

// A number in 16 bits, of which 5 are its exponent's: float16.
struct Half {
  uint16_t bits;
};

// A byte of a cache of 8 bits. Numbers do not stand there one by one: see byte_panels.h.
struct Byte {
  uint8_t bits;
};

// Numbers of a head in 8 bits that have a scale in common, and positions that stand together.
constexpr size_t kBytePart = 32;
constexpr size_t kBytePositions = 32;

// How many Elements so many positions of a head take; of Bytes, positions that stand together.
template <typename Element>
RBEE_INLINED constexpr size_t elements(size_t positions, size_t size) {
  return positions * size;
}
template <>
RBEE_INLINED constexpr size_t elements<Byte>(size_t positions, size_t size) {
  return positions * (size + size / kBytePart * sizeof(Half));
}

// Keys and values of one head: [filled, size] each, row after row, of float or Half; or panels of
// Bytes.
template <typename Element>
struct HeadCache {
  const Element* keys;
  const Element* values;
  size_t size;
  size_t filled;
};

// Positions [first, last).
struct Range {
  size_t first;
  size_t last;
  RBEE_INLINED size_t count() const { return last - first; }
};

// What the query at a position sees.
RBEE_INLINED Range seen_from(size_t position, const Scoring& scoring) {
  const size_t last = position + 1;
  return {scoring.window != 0 && last > scoring.window ? last - scoring.window : 0,
          scoring.ahead != 0 ? std::min(last + scoring.ahead, scoring.end) : last};
}

// Positions that one task goes over for a single query: the same cuts in any company.
constexpr size_t kSpan = 128;
// Scores that are computed besides at most, of positions that stand together with these.
constexpr size_t kBeside = 62;

// The outcome of a part of the positions, for one query: sum(e**(s - largest) * value), where
// largest is that of the scores s, and sum(e**(s - largest)).
struct Partial {
  float* values;  // float[size]
  float largest;
  float total;
};

// Queries that one task goes over together, and keys that are put in order once for all of them.
constexpr size_t kGroup = 192;
constexpr size_t kKeys = 64;

// By which a query or a key is turned: float[half] each.
struct Angles {
  const float* cos;
  const float* sin;
  size_t half;
};

// A sink is a score beside those of the keys, of no value: it takes a share of the weights and adds
// nothing. This one takes none.
constexpr float kNoSink = -std::numeric_limits<float>::infinity();

// One query of many.
struct Query {
  const float* values;  // float[size], with the scores' factor in them
  size_t position;
  float* y;  // float[size]
  float sink = kNoSink;
};

}  // namespace rbee
