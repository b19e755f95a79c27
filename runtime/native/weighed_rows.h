// Rows that others are added to.
#pragma once

#include <cstddef>
#include <cstdint>

#include "inlined.h"

namespace rbee {

// For each row that is added, which row of float[.., width] it goes to, no two of them to one, and
// what it is multiplied by.
struct WeighedRows {
  const uint32_t* numbers;
  const float* weights;
  float* first;
  size_t width;

  RBEE_INLINED float* operator[](size_t row) const { return first + numbers[row] * width; }
};

}  // namespace rbee
