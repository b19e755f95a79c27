#include "stretch.h"

#include <bit>
#include <limits>

#include "exponential.h"

namespace rbee::RBEE_VARIANT {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Sums, or largest numbers, in four chains by turns: none waits for what another adds up.
constexpr size_t kChains = 4;

struct Chains {
  explicit Chains(Floats all) : of{all, all, all, all} {}
  float total() const { return sum(add(add(of[0], of[1]), add(of[2], of[3]))); }
  float most() const { return largest(greater(greater(of[0], of[1]), greater(of[2], of[3]))); }
  Floats of[kChains];
};

// Calls `work(chain, at, lanes)` for each sixteen of `count` numbers, and for the rest.
template <typename Work>
void over_chains(size_t count, const Work& work) {
  size_t i = 0;
  for (; i + kChains * kLanes <= count; i += kChains * kLanes) {
#pragma GCC unroll 4
    for (size_t chain = 0; chain < kChains; ++chain) work(chain, i + chain * kLanes, All{});
  }
  over(count - i, [&](size_t rest, auto lanes) { work(size_t{0}, i + rest, lanes); });
}

}  // namespace

float find_largest(const float* values, size_t count) {
  Chains most(repeat(-kInfinity));
  unsigned unordered = 0;
  over_chains(count, [&](size_t chain, size_t i, auto lanes) {
    const Floats part = select(lanes, load(values + i, lanes), repeat(-kInfinity));
    unordered |= not_numbers(part);
    most.of[chain] = greater(most.of[chain], part);
  });
  return unordered != 0 ? std::numeric_limits<float>::quiet_NaN() : most.most();
}

void weigh_stretch(float* values, size_t count, size_t ahead, float shift, float factor,
                   float* largest, float* sum) {
  Chains most(zeros());
  Chains sums(zeros());
  over_chains(count, [&](size_t chain, size_t i, auto lanes) {
    // Another core may have written them.
    _mm_prefetch(reinterpret_cast<const char*>(values + ahead + i), _MM_HINT_T1);
    const Floats logit = select(lanes, load(values + i, lanes), repeat(-kInfinity));
    const Floats weight = exponential(times(subtract(logit, repeat(shift)), repeat(factor)));
    store(values + i, weight, lanes);
    most.of[chain] = greater(most.of[chain], weight);
    sums.of[chain] = add(sums.of[chain], weight);
  });
  *largest = most.most();
  *sum = sums.total();
}

size_t sum_from(const float* values, size_t count, float threshold, float* sum) {
  Chains sums(zeros());
  size_t found = 0;
  over_chains(count, [&](size_t chain, size_t i, auto lanes) {
    const Floats weight = select(lanes, load(values + i, lanes), repeat(-kInfinity));
    const unsigned kept = at_least(weight, repeat(threshold));
    sums.of[chain] = add(sums.of[chain], zero_below(weight, repeat(threshold)));
    found += std::popcount(kept);
  });
  *sum = sums.total();
  return found;
}

size_t collect(const float* values, size_t count, float least, float below, float* to) {
  size_t found = 0;
  over(count, [&](size_t i, auto lanes) {
    const Floats weight = select(lanes, load(values + i, lanes), repeat(-kInfinity));
    unsigned bits = at_least(weight, repeat(least)) & ~at_least(weight, repeat(below));
    for (; bits != 0; bits &= bits - 1) to[found++] = values[i + std::countr_zero(bits)];
  });
  return found;
}

}  // namespace rbee::RBEE_VARIANT
