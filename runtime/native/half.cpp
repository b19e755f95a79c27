#include "half.h"

#include <bit>
#include <cmath>

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

float rounded_to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  // Below, 16-bit floats are whole multiples of 2**-24.
  if ((bits & 0x7fffffff) < 113u << 23) return std::nearbyint(value * 0x1p24f) * 0x1p-24f;
  return std::bit_cast<float>((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu);
}

}  // namespace rbee
