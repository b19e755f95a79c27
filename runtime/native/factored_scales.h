// Scales that are products, found again from what they come to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace rbee {

// Numbers, each the product of its group's 16-bit float and of an integer of its own.
struct Products {
  std::vector<uint16_t> factors;
  std::vector<int8_t> integers;
};

// The scales and the minima of a matrix; no scales where they are not such products.
struct FactoredMatrix {
  std::optional<Products> scales;
  Products minima;
};

// Factors `count` scales, and the minima of as many offsets unless they are null, of groups of so
// many one after another. An offset is the sum of `middle` scales, which is a power of two, and its
// minimum, rounded once. Each comes out again bit by bit, or nothing does.
FactoredMatrix factored(const float* scales, const float* offsets, size_t count, size_t group,
                        float middle);

}  // namespace rbee
