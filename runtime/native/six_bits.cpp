#include "six_bits.h"

#include <algorithm>

namespace rbee {

bool fit_six_bits(const uint8_t* integers, size_t count) {
  constexpr size_t kTogether = 4096;
  for (size_t first = 0; first < count; first += kTogether) {
    uint8_t above = 0;
    for (size_t i = first; i < std::min(first + kTogether, count); ++i) {
      above |= static_cast<uint8_t>(integers[i] - 96);
    }
    if (above >= 1 << 6) return false;
  }
  return true;
}

}  // namespace rbee
