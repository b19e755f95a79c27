#include "integer_table.h"

#include <algorithm>

namespace rbee {
namespace {

constexpr uint16_t kNone = 0x100;

IntegerTable table_from(const std::array<int, 16>& values) {
  IntegerTable table;
  table.pairs.fill(kNone);
  for (size_t i = 0; i < values.size(); ++i) {
    table.integers[i] = static_cast<uint8_t>(values[i] + 128);
  }
  for (size_t first = 0; first < values.size(); ++first) {
    for (size_t second = 0; second < values.size(); ++second) {
      const size_t two = table.integers[first] | table.integers[second] << 8;
      table.pairs[two] = static_cast<uint16_t>(first | second << 4);
    }
  }
  return table;
}

bool are_all_from(const IntegerTable& table, const uint8_t* integers, size_t count) {
  constexpr size_t kTogether = 256;
  for (size_t first = 0; first < count; first += kTogether) {
    uint16_t numbers = 0;
    for (size_t i = first; i < std::min(first + kTogether, count); i += 2) {
      numbers |= numbers_of_two(table, integers + i);
    }
    if (numbers >= kNone) return false;
  }
  return true;
}

}  // namespace

const IntegerTable* table_of(const uint8_t* integers, size_t count) {
  // kvalues_iq4nl, of IQ4_NL and IQ4_XS, and kvalues_mxfp4 in ggml's ggml-common.h.
  static const std::array kTables{
      table_from({-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}),
      table_from({0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}),
  };
  const auto* found = std::find_if(kTables.begin(), kTables.end(), [&](const IntegerTable& table) {
    return are_all_from(table, integers, count);
  });
  return found != kTables.end() ? found : nullptr;
}

}  // namespace rbee
