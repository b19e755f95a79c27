// How keys and values of a head stand in a cache of 8 bits.
//
// A number is an integer from -127 to 127 times a scale that 32 numbers of a position share, a part.
// 32 positions are a panel: part after part, float16[32], their scales, and 1,024 bytes of integers.
//
//   keys    for each four numbers, four bytes of each of sixteen positions, then the same of the
//           other sixteen; with 128 added. That is how weights stand (packed_weights.h), with
//           positions for outputs.
//   values  for each four positions, four bytes of each number
#pragma once

#include "head_cache.h"

namespace rbee {

constexpr size_t kByteScales = kBytePositions * sizeof(Half);
constexpr size_t kBytePartBytes = kByteScales + kBytePositions * kBytePart;
// Numbers of a head at most.
constexpr size_t kMostByteSize = 512;
// What is added to integers of keys.
constexpr int kByteMiddle = 128;

// Where the part of a panel begins that holds a position of a head, ...
RBEE_INLINED size_t byte_part(size_t size, size_t position, size_t part) {
  return elements<Byte>(position / kBytePositions * kBytePositions, size) + part * kBytePartBytes;
}
// ... and where in it a key's sixteen positions begin, or a value's four.
RBEE_INLINED size_t sixteen_keys(size_t position) {
  return kByteScales + position % kBytePositions / 16 * 16 * kBytePart;
}
RBEE_INLINED size_t four_values(size_t position) {
  return kByteScales + position % kBytePositions / 4 * 4 * kBytePart;
}

// What a part of a panel holds of a position and of those after it.
struct BytePart {
  const Byte* first;
  size_t position;

  RBEE_INLINED static BytePart of(const Byte* head, size_t size, size_t position, size_t part) {
    return {head + byte_part(size, position, part), position};
  }
  RBEE_INLINED const Half* scales() const {
    return reinterpret_cast<const Half*>(first) + position % kBytePositions;
  }
  RBEE_INLINED const uint8_t* keys() const { return &first[sixteen_keys(position)].bits; }
  RBEE_INLINED const int8_t* values() const {
    return reinterpret_cast<const int8_t*>(first + four_values(position));
  }
};

}  // namespace rbee
