// Integers of eight bits that six hold.
#pragma once

#include <cstddef>
#include <cstdint>

#include "inlined.h"

namespace rbee {

// Whether so many, all around 128, are from 96 to 159: GGUF's types of five and six bits are.
bool fit_six_bits(const uint8_t* integers, size_t count);

// Holds four lines of 64 such integers, less 96, in three: in the low and the high nibbles of the
// first and the second line the lower four bits of each, and in the third the upper two of all.
RBEE_INLINED void pack_six_bits(const uint8_t* lines, uint8_t* to) {
  constexpr size_t kLine = 64;
  for (size_t i = 0; i < kLine; ++i) {
    const auto integer = [&](size_t line) { return (lines[line * kLine + i] - 96u) & 0x3f; };
    const unsigned a = integer(0), b = integer(1), c = integer(2), d = integer(3);
    to[i] = static_cast<uint8_t>((a & 0xf) | b << 4);
    to[kLine + i] = static_cast<uint8_t>((c & 0xf) | d << 4);
    to[2 * kLine + i] =
        static_cast<uint8_t>(a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (d >> 4) << 6);
  }
}

}  // namespace rbee
