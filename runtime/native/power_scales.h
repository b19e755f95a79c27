// Scales of blocks that are powers of two, as MXFP4's are.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace rbee {

// The exponent of a float of 32 bits, where it stands; of what is less than such have, 0.
inline uint8_t exponent_of(float power) {
  return static_cast<uint8_t>(std::bit_cast<uint32_t>(power) >> 23);
}

// Whether so many scales are each a power of two below 2**64 that a float's exponent holds, or 0. Those of blocks
// of nothing but 128, which stands for 0, may be smaller: what quantises has the smallest there is.
bool all_are_powers(const float* scales, const uint8_t* integers, size_t count, size_t block);

}  // namespace rbee
