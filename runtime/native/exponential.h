// Exponential functions of sixteen numbers.
#pragma once

#include "simd.h"

namespace rbee::RBEE_VARIANT {

// The least that exponentials are: just above where floats lose their digits, one by one, and
// processors some hundred cycles at each.
constexpr float kLeastExponential = 1.22e-38f;

// e**x to within 2e-7 of its value; 0 below -87.29, infinite above 88.8; NaN stays NaN.
inline Floats exponential(Floats x) {
  // e**x = 2**n * e**r, with n whole and |r| <= log(2) / 2; e**r by Taylor's series.
  x = lesser(repeat(128.0f), greater(repeat(-87.3f), x));
  const Floats n = whole(times(x, repeat(1.44269504f)));
  // log(2) in two parts, the first with few enough bits for n times it to be exact.
  Floats r = subtract_product(n, repeat(0.693359375f), x);
  r = subtract_product(n, repeat(-2.12194440e-4f), r);
  Floats sum = repeat(1.0f / 720);
  sum = multiply_add(sum, r, repeat(1.0f / 120));
  sum = multiply_add(sum, r, repeat(1.0f / 24));
  sum = multiply_add(sum, r, repeat(1.0f / 6));
  sum = multiply_add(sum, r, repeat(0.5f));
  sum = multiply_add(sum, r, repeat(1.0f));
  sum = multiply_add(sum, r, repeat(1.0f));
  return zero_below(times_power_of_two(sum, n), repeat(kLeastExponential));
}

// cap * tanh(x / cap); tanh(u) = 1 - 2 / (e**(2 u) + 1).
inline Floats capped(Floats x, float cap) {
  const Floats twice = times(x, repeat(2.0f / cap));
  const Floats one = repeat(1.0f);
  const Floats part = divide(repeat(2.0f), add(exponential(twice), one));
  return times(repeat(cap), subtract(one, part));
}

}  // namespace rbee::RBEE_VARIANT
