// Weighed sums of values of a cache of 8 bits, as sums of products of integers.
#pragma once

#include "rounded_part.h"

namespace rbee::RBEE_VARIANT {

// Rounds the weights of a panel's positions times their scales to integers from 0 to 255; returns
// what these are to be multiplied by. Positions without a weight may have no scale.
inline float round_weights(const float* weights, const Half* scales, uint8_t* to) {
  const auto scaled = [&](size_t i) {
    return greater(times(load(weights + i), load(scales + i)), zeros());
  };
  static_assert(kBytePositions == 2 * kLanes);
  const Floats low = scaled(0), high = scaled(kLanes);
  const float most = largest(greater(low, high));
  const Floats factor = repeat(most > 0 ? 255.0f / most : 0.0f);
  store_bytes(to, rounded(times(low, factor)));
  store_bytes(to + kLanes, rounded(times(high, factor)));
  return most / 255.0f;
}

// Sums of a part's values over a panel, sixteen numbers at a time from one on, for each of so many
// rows of rounded weights.
template <size_t Rows, size_t Lines>
[[gnu::always_inline]] inline void sum_panel(const uint8_t* weights, const int8_t* values,
                                             Integers (&sums)[Rows][Lines]) {
  for (auto& row : sums) {
    for (Integers& sum : row) sum = repeat(0);
  }
#pragma GCC unroll 8
  for (size_t j = 0; j < kBytePositions; j += 4) {
    Integers lines[Lines];
    for (size_t l = 0; l < Lines; ++l) {
      lines[l] = load_integers(values + j * kBytePart + l * kLanes * 4);
    }
    for (size_t r = 0; r < Rows; ++r) {
      const FourBytes four = repeat_four(weights + r * kBytePositions + j);
      for (size_t l = 0; l < Lines; ++l) sums[r][l] = add_dot_of_four(sums[r][l], four, lines[l]);
    }
  }
}

}  // namespace rbee::RBEE_VARIANT
