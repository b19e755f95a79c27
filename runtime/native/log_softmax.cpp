#include "log_softmax.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

namespace rbee {
namespace {

// Logits looked at together; as many as there is room for on a stack, and the last are fewer.
constexpr size_t kStretch = 512;

size_t size_of(size_t start, size_t vocab) { return std::min(kStretch, vocab - start); }

// The sum of e**(x - largest).
double sum_weights(const Kernels& kernels, const float* logits, size_t vocab, float largest) {
  double sum = 0.0;
  float weights[kStretch];
  for (size_t start = 0; start < vocab; start += kStretch) {
    const size_t size = size_of(start, vocab);
    std::copy_n(logits + start, size, weights);
    float most;
    float part;
    kernels.weigh_stretch(weights, size, 0, largest, 1.0f, &most, &part);
    sum += part;
  }
  return sum;
}

// The `top` largest logits, the first of equals, in their order. `tops` has each stretch's largest.
void find_likeliest(const float* logits, size_t vocab, const std::vector<float>& tops, size_t top,
                    std::vector<std::pair<float, size_t>>& found) {
  // As many stretches as are asked for have one at least as large as the least of their largest.
  float least = -std::numeric_limits<float>::infinity();
  if (tops.size() >= top) {
    thread_local std::vector<float> sorted;
    sorted = tops;
    std::nth_element(sorted.begin(), sorted.begin() + (top - 1), sorted.end(), std::greater<>());
    least = sorted[top - 1];
  }
  found.clear();
  for (size_t stretch = 0; stretch < tops.size(); ++stretch) {
    if (tops[stretch] < least) continue;
    const size_t start = stretch * kStretch;
    for (size_t i = start; i < start + size_of(start, vocab); ++i) {
      if (logits[i] >= least) found.emplace_back(logits[i], i);
    }
  }
  std::partial_sort(found.begin(), found.begin() + top, found.end(),
                    [](const auto& one, const auto& other) {
                      return one.first != other.first ? one.first > other.first
                                                      : one.second < other.second;
                    });
}

}  // namespace

double log_softmax(const Kernels& kernels, const float* logits, size_t vocab, size_t top,
                   int64_t* likeliest, double* values) {
  thread_local std::vector<float> tops;
  tops.clear();
  float largest = -std::numeric_limits<float>::infinity();
  for (size_t start = 0; start < vocab; start += kStretch) {
    const float most = kernels.find_largest(logits + start, size_of(start, vocab));
    if (std::isnan(most)) return most;
    largest = std::max(largest, most);
    tops.push_back(most);
  }
  if (!std::isfinite(largest)) return std::numeric_limits<double>::quiet_NaN();
  const double whole = largest + std::log(sum_weights(kernels, logits, vocab, largest));
  if (top == 0) return whole;
  thread_local std::vector<std::pair<float, size_t>> found;
  find_likeliest(logits, vocab, tops, top, found);
  for (size_t rank = 0; rank < top; ++rank) {
    likeliest[rank] = static_cast<int64_t>(found[rank].second);
    values[rank] = found[rank].first - whole;
  }
  return whole;
}

}  // namespace rbee
