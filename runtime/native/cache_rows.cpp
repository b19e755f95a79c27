#include "cache_rows.h"

#include "rounded_part.h"
#include "rows.h"

namespace rbee::RBEE_VARIANT {
namespace {

constexpr Angles kNotTurned{nullptr, nullptr, 0};

template <typename Element>
void put_rows(const float* key, const float* value, size_t size, const Angles& angles,
              Element* keys, Element* values, size_t position) {
  rotate(key, size, angles, 1.0f, keys + position * size);
  rotate(value, size, kNotTurned, 1.0f, values + position * size);
}

// Rounds 32 numbers of a position, and has a part of a panel hold their scale, which is returned.
float put_part(const float* x, float spoilt, size_t position, Byte* part, int8_t* integers) {
  auto* scale = reinterpret_cast<Half*>(part) + position % kBytePositions;
  const First one(1);
  store(scale, repeat(scale_of_part(x) + spoilt), one);
  const float held = sum(load(scale, one));
  round_part(x, held, integers);
  return held;
}

}  // namespace

void put(const float* key, const float* value, size_t size, const Angles& angles, float* keys,
         float* values, size_t position) {
  put_rows(key, value, size, angles, keys, values, position);
}

void put(const float* key, const float* value, size_t size, const Angles& angles, Half* keys,
         Half* values, size_t position) {
  put_rows(key, value, size, angles, keys, values, position);
}

void put(const float* key, const float* value, size_t size, const Angles& angles, Byte* keys,
         Byte* values, size_t position) {
  // No number where a value is none: weights that are none would be lost in integers.
  float spoilt = 0;
  int8_t integers[kBytePart];
  for (size_t i = 0; i < size / kBytePart; ++i) {
    Byte* part = values + byte_part(size, position, i);
    spoilt += 0 * put_part(value + i * kBytePart, 0, position, part, integers);
    Byte* fours = part + four_values(position) + position % 4;
    for (size_t n = 0; n < kBytePart; ++n) fours[n * 4].bits = static_cast<uint8_t>(integers[n]);
  }
  float turned[kMostByteSize];
  rotate(key, size, angles, 1.0f, turned);
  for (size_t i = 0; i < size / kBytePart; ++i) {
    Byte* part = keys + byte_part(size, position, i);
    put_part(turned + i * kBytePart, spoilt, position, part, integers);
    Byte* fours = part + sixteen_keys(position) + position % kLanes * 4;
    for (size_t n = 0; n < kBytePart; ++n) {
      fours[n / 4 * 4 * kLanes + n % 4].bits = static_cast<uint8_t>(integers[n] + kByteMiddle);
    }
  }
}

}  // namespace rbee::RBEE_VARIANT
