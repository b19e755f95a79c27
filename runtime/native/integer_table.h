// Integers of eight bits that are all from a table of sixteen.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "inlined.h"

namespace rbee {

struct IntegerTable {
  std::array<uint8_t, 16> integers;  // around 128
  // Of each two neighbours, the second in the upper byte: where they stand among them, side by side
  // in eight bits; more than that of two that do not.
  std::array<uint16_t, 1 << 16> pairs;
};

// The table of GGUF's that so many integers are all from, which is an even number; null where there
// is none.
const IntegerTable* table_of(const uint8_t* integers, size_t count);

// Where two neighbours stand in a table, the first in the lower four bits.
RBEE_INLINED uint16_t numbers_of_two(const IntegerTable& table, const uint8_t* integers) {
  uint16_t two;
  std::memcpy(&two, integers, sizeof two);
  return table.pairs[two];
}

}  // namespace rbee
