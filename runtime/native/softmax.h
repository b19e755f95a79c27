// Scores that become weights, and what is done to a row of any size.
#pragma once

#include <array>
#include <limits>

#include "exponential.h"

namespace rbee::RBEE_VARIANT {

// Below every score, and finite: what is masked is e**(-infinity) even where nothing was seen yet.
constexpr float kLowest = -1e30f;
constexpr float kNothing = -std::numeric_limits<float>::infinity();

// Turns scores into e**(score - largest), and returns their sum.
inline float weigh(float* scores, size_t count, float largest) {
  Floats total = zeros();
  over(count, [&](size_t i, auto lanes) {
    const Floats score = load(scores + i, lanes);
    const Floats weight =
        select(lanes, exponential(subtract(score, repeat(largest))), zeros());
    store(scores + i, weight, lanes);
    total = add(total, weight);
  });
  return sum(total);
}

inline float cap_and_find_largest(float* scores, size_t count, float cap) {
  Floats most = repeat(kLowest);
  over(count, [&](size_t i, auto lanes) {
    Floats score = load(scores + i, lanes);
    if (cap != 0) {
      score = capped(score, cap);
      store(scores + i, score, lanes);
    }
    most = select(lanes, greater(most, score), most);
  });
  return largest(most);
}

inline void divide_by(float divisor, float* y, size_t size) {
  over(size, [&](size_t i, auto lanes) {
    store(y + i, divide(load(y + i, lanes), repeat(divisor)), lanes);
  });
}

// Calls `body(start, lanes)` for runs of `Lines` sixteens, whose lanes are an array, and then for
// each sixteen that is left, and for the rest.
template <size_t Lines, typename Body>
inline void over_lines(size_t size, const Body& body) {
  size_t start = 0;
  for (; start + Lines * kLanes <= size; start += Lines * kLanes) {
    body(start, std::array<All, Lines>());
  }
  over(size - start, [&](size_t i, auto lanes) { body(start + i, std::array{lanes}); });
}

}  // namespace rbee::RBEE_VARIANT
