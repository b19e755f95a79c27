#include "half.h"

#include <bit>

namespace rbee {

std::optional<uint16_t> half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  if (exponent >= -14 && exponent <= 15) {
    if ((magnitude & 0x1fff) != 0) return std::nullopt;
    return static_cast<uint16_t>(sign | ((magnitude - (112u << 23)) >> 13));
  }
  // What is smaller stands for whole multiples of 2**-24.
  const float steps = std::bit_cast<float>(magnitude) * 0x1p24f;
  if (exponent < -14 && steps == static_cast<float>(static_cast<int>(steps))) {
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(steps));
  }
  return std::nullopt;
}

}  // namespace rbee
