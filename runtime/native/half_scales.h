// Scales and minima of blocks that 16 bits hold.
#pragma once

#include <cstddef>

#include "half.h"

namespace rbee {

bool all_are_halves(const float* scales, size_t count);

// The 16-bit float of which and of `middle` scales an offset is the sum, rounded once, where there
// is one. `middle` is a power of two: its product with a scale is exact.
inline float half_minimum(float scale, float offset, float middle) {
  return rounded_to_half(offset - middle * scale);
}

// Whether all of so many offsets are such sums; offsets may be null.
bool all_have_half_minima(const float* scales, const float* offsets, size_t count, float middle);

}  // namespace rbee
