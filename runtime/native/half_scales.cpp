#include "half_scales.h"

#include <algorithm>
#include <bit>
#include <cstdint>

namespace rbee {
namespace {

// Whether each of so many is one, of many at a time: of nearly all it takes a few operations on bits
// to know that they are (`doubtful` is 0 then), and `sure` is asked of all where one leaves doubts.
template <typename Doubtful, typename Sure>
bool all_are(size_t count, const Doubtful& doubtful, const Sure& sure) {
  constexpr size_t kTogether = 256;
  for (size_t first = 0; first < count; first += kTogether) {
    const size_t last = std::min(first + kTogether, count);
    uint32_t doubts = 0;
    for (size_t i = first; i < last; ++i) doubts |= doubtful(i);
    for (size_t i = first; doubts != 0 && i < last; ++i) {
      if (!sure(i)) return false;
    }
  }
  return true;
}

uint32_t beyond_normal_halves(uint32_t bits) {
  const uint32_t above_least = (bits & 0x7fffffff) - kLeastNormalHalf;  // of exponents -14 to 15
  return static_cast<uint32_t>(above_least >= 30u << 23);
}

}  // namespace

bool all_are_halves(const float* scales, size_t count) {
  return all_are(
      count,
      [=](size_t i) {
        const auto bits = std::bit_cast<uint32_t>(scales[i]);
        return (bits & 0x1fff) | beyond_normal_halves(bits);
      },
      [=](size_t i) { return half(scales[i]).has_value(); });
}

bool all_have_half_minima(const float* scales, const float* offsets, size_t count, float middle) {
  return offsets == nullptr ||
         all_are(
             count,
             [=](size_t i) {
               const float minimum = half_minimum(scales[i], offsets[i], middle);
               const float sum = middle * scales[i] + minimum;
               return (std::bit_cast<uint32_t>(sum) ^ std::bit_cast<uint32_t>(offsets[i])) |
                      beyond_normal_halves(std::bit_cast<uint32_t>(minimum));
             },
             [=](size_t i) {
               const float minimum = half_minimum(scales[i], offsets[i], middle);
               return middle * scales[i] + minimum == offsets[i] && half(minimum).has_value();
             });
}

}  // namespace rbee
