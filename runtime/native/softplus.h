// A smooth step, of one number.
#pragma once

#include <algorithm>
#include <cmath>

namespace rbee {

// log(1 + e**x).
inline float softplus(float x) { return std::max(x, 0.0f) + std::log1p(std::exp(-std::fabs(x))); }

}  // namespace rbee
