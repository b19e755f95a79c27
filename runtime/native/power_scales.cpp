#include "power_scales.h"

#include <algorithm>

namespace rbee {

bool all_are_powers(const float* scales, const uint8_t* integers, size_t count, size_t block) {
  constexpr uint32_t kAllButExponent = 0x807fffff;
  constexpr uint32_t kLeastNormal = 1u << 23;
  // Of sums of products with larger ones, 32-bit floats may hold none; nor of what kernels weigh.
  constexpr uint32_t kBeyond = (127u + 64) << 23;
  for (size_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<uint32_t>(scales[i]);
    if ((bits & kAllButExponent) == 0 && bits < kBeyond) continue;
    const uint8_t* of_block = integers + i * block;
    const bool is_zero =
        std::all_of(of_block, of_block + block, [](uint8_t integer) { return integer == 128; });
    if (bits >= kLeastNormal || !is_zero) return false;
  }
  return true;
}

}  // namespace rbee
