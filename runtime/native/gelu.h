// GELU of sixteen numbers.
#pragma once

#include "simd.h"

namespace rbee::RBEE_VARIANT {

// x * (1 + erf(x / sqrt(2))) / 2 to within 1.1e-5, which does not show once outputs are rounded to
// eight bits or to bfloat16, as what follows does; NaN stays NaN.
inline Floats gelu(Floats x) {
  // What is missing of x where it is positive, or left of it where it is negative: with s = |x| it
  // is s * (c - s)**4 times a polynomial of s - c / 2 that errs least, and nothing from c on.
  constexpr float kEnd = 4.8f;
  const Floats size = lesser(repeat(kEnd), magnitude(x));
  const Floats rest = subtract(repeat(kEnd), size);
  const Floats from_middle = subtract(size, repeat(kEnd / 2));
  Floats sum = repeat(1.93431174e-06f);
  sum = multiply_add(sum, from_middle, repeat(4.43355111e-06f));
  sum = multiply_add(sum, from_middle, repeat(-1.87033766e-05f));
  sum = multiply_add(sum, from_middle, repeat(-2.77898806e-07f));
  sum = multiply_add(sum, from_middle, repeat(0.00011545889f));
  sum = multiply_add(sum, from_middle, repeat(-0.000262795656f));
  sum = multiply_add(sum, from_middle, repeat(0.000247000571f));
  const Floats square = times(rest, rest);
  const Floats tail = times(size, times(square, square));
  return subtract_product(tail, sum, greater(zeros(), x));
}

}  // namespace rbee::RBEE_VARIANT
