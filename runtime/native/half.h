// Floats of 16 bits, of those of 32.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>

namespace rbee {

// The exponents of 16-bit floats are from -14 on; what is smaller they have as multiples of 2**-24.
constexpr uint32_t kLeastNormalHalf = 113u << 23;

// The 16-bit float of the same value; nothing where there is none.
std::optional<uint16_t> half(float value);

// The same of what has one.
inline uint16_t half_of_exact(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffff;
  const auto steps = static_cast<int32_t>(std::min(std::abs(value), 0x1p-14f) * 0x1p24f);
  const uint32_t unsigned_half = magnitude < kLeastNormalHalf ? static_cast<uint32_t>(steps)
                                                              : (magnitude - (112u << 23)) >> 13;
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | unsigned_half);
}

// The 16-bit float that is nearest, as one of 32 bits; of what is too large, another that is.
inline float rounded_to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  constexpr float kOfSuchSteps = 0.75f;
  const float rounded = std::bit_cast<float>((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu);
  return (bits & 0x7fffffff) < kLeastNormalHalf ? value + kOfSuchSteps - kOfSuchSteps : rounded;
}

}  // namespace rbee
