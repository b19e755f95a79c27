// A part of a head, rounded to 8 bits.
#pragma once

#include "byte_panels.h"
#include "simd.h"

namespace rbee::RBEE_VARIANT {

// A scale by which 32 numbers are at most 127; NaN where one of them is not finite.
inline float scale_of_part(const float* x) {
  const Floats low = load(x), high = load(x + kLanes);
  const float most = largest(greater(magnitude(low), magnitude(high)));
  return most / 127.0f + sum(multiply_add(low, zeros(), times(high, zeros())));
}

// Divides 32 numbers by their scale, to integers from -127 to 127; returns these integers' sum.
inline int32_t round_part(const float* x, float scale, int8_t* to) {
  const Floats factor = repeat(scale > 0 ? 1.0f / scale : 0.0f);
  const auto round = [&](size_t i) {
    const Floats most = repeat(127.0f);
    const Floats scaled = times(load(x + i), factor);
    const Integers integers =
        rounded(lesser(greater(scaled, subtract(zeros(), most)), most));
    store_bytes(to + i, integers);
    return integers;
  };
  return sum(add(round(0), round(kLanes)));
}

}  // namespace rbee::RBEE_VARIANT
