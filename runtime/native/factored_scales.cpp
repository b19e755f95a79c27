#include "factored_scales.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "half.h"

namespace rbee {
namespace {

// The integer that stands for the largest number of a group, in the order in which they are tried:
// quantisers scale it to the largest that there is.
constexpr int kMost = 128;
constexpr int kTries = 2 * kMost - 1;
int candidate(int index) {
  constexpr int kOfSix = 63;
  if (index < kOfSix) return kOfSix - index;                    // 63 to 1
  if (index < kOfSix + kMost) return index - kOfSix - kMost;    // -128 to -1
  return index - kMost + 1;                                     // 64 to 127
}

// The nearest whole number; of what is beyond 2**22, another that is.
float nearest(float x) {
  constexpr float kSteps = 0x1.8p23f;
  return x + kSteps - kSteps;
}

// `fits(i, product)` says whether a product is the number of that index, which is about values[i].
template <typename Fits>
std::optional<Products> products(const std::vector<float>& values, size_t group, const Fits& fits) {
  Products found{std::vector<uint16_t>(values.size() / group),
                 std::vector<int8_t>(values.size())};
  int last = candidate(0);
  for (size_t first = 0, g = 0; first < values.size(); first += group, ++g) {
    const auto begin = values.begin() + static_cast<ptrdiff_t>(first);
    const float largest =
        *std::max_element(begin, begin + static_cast<ptrdiff_t>(group),
                          [](float a, float b) { return std::abs(a) < std::abs(b); });
    const auto fit = [&](int integer) {
      const float factor = rounded_to_half(largest / static_cast<float>(integer));
      const float inverse = factor != 0 ? 1 / factor : 0;
      for (size_t i = first; i < first + group; ++i) {
        const float whole = nearest(values[i] * inverse);
        if (!(whole >= -kMost && whole < kMost) || !fits(i, whole * factor)) return false;
        found.integers[i] = static_cast<int8_t>(whole);
      }
      const std::optional<uint16_t> exact = half(factor);
      if (!exact.has_value()) return false;
      found.factors[g] = *exact;
      return true;
    };
    if (fit(last)) continue;
    int index = 0;
    while (index < kTries && !fit(candidate(index))) ++index;
    if (index == kTries) return std::nullopt;
    last = candidate(index);
  }
  return found;
}

}  // namespace

FactoredMatrix factored(const float* scales, const float* offsets, size_t count, size_t group,
                        float middle) {
  FactoredMatrix found;
  std::vector<float> values(scales, scales + count);
  auto of_scales = products(values, group, [&](size_t i, float product) {
    return product == scales[i];
  });
  if (!of_scales.has_value()) return found;
  if (offsets != nullptr) {
    for (size_t i = 0; i < count; ++i) values[i] = offsets[i] - middle * scales[i];
    auto of_minima = products(values, group, [&](size_t i, float product) {
      return middle * scales[i] + product == offsets[i];
    });
    if (!of_minima.has_value()) return found;
    found.minima = std::move(*of_minima);
  }
  found.scales = std::move(of_scales);
  return found;
}

}  // namespace rbee
