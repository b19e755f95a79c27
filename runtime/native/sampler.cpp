#include "sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

namespace rbee {
namespace {

// Weights summed up at a time: drawing looks into one such stretch only.
constexpr size_t kStretch = 512;
// Weights that are sorted rather than divided by a threshold once more.
constexpr size_t kFew = 512;
// Where to look first for the end of the likeliest, the largest weight being 1; and how much lower
// next, in bits of a float: a sixteenth.
constexpr float kFirstGuess = 1e-2f;
constexpr uint32_t kLower = 4 << 23;

// How many weights there are from a threshold on, and their sum.
struct Part {
  size_t count = 0;
  double sum = 0.0;
};

// The likeliest that reach a limit: those above `least`, and of those equal to it the first `ties`.
struct Cutoff {
  float least = 0.0f;
  size_t ties = 0;
  bool excess = false;  // whether there are more ties than stay
  Part kept;
};

// One row of logits, and then of weights in their place, cut into stretches. Most of a vocabulary
// weighs next to nothing: a stretch whose largest is below a threshold is not looked at again.
class Row {
 public:
  Row(const Kernels& kernels, float* values, size_t vocab)
      : kernels_(kernels), values_(values), vocab_(vocab) {
    const size_t count = (vocab + kStretch - 1) / kStretch;
    tops_.resize(count);
    sums_.resize(count);
  }

  // The largest logit; NaN where any is.
  float largest();
  size_t first_equal(float wanted) const;
  // Turns logits into weights relative to the largest's, which becomes 1.
  void weigh(float largest, float inverse_temperature);
  double total() const { return std::accumulate(sums_.begin(), sums_.end(), 0.0); }
  Part from(float threshold) const;
  // Finds the largest weight such that it and all above reach the limit, which is a number of them
  // or a sum.
  Cutoff find_cutoff(double limit, bool by_count) const;
  // Takes the weight from those that equal the least, but for the first.
  void cut_ties(Cutoff cutoff);
  // The first of the weights from a threshold on at which the running sum exceeds a fraction of
  // the whole. Rounding may put that at the very end: the last of them has it then.
  size_t pick(float threshold, double fraction) const;

 private:
  size_t end(size_t stretch) const { return std::min(vocab_, (stretch + 1) * kStretch); }
  size_t size(size_t stretch) const { return end(stretch) - stretch * kStretch; }
  Part stretch_from(size_t stretch, float threshold) const;

  const Kernels& kernels_;
  float* values_;
  size_t vocab_;
  // Of the thread's, so that nothing is allocated from step to step.
  static thread_local std::vector<float> tops_;
  static thread_local std::vector<double> sums_;
  static thread_local std::vector<float> left_;
};

thread_local std::vector<float> Row::tops_;
thread_local std::vector<double> Row::sums_;
thread_local std::vector<float> Row::left_;

float Row::largest() {
  bool all = true;
  for (size_t stretch = 0; stretch < tops_.size(); ++stretch) {
    tops_[stretch] = kernels_.find_largest(values_ + stretch * kStretch, size(stretch));
    all = all && !std::isnan(tops_[stretch]);
  }
  if (!all) return std::numeric_limits<float>::quiet_NaN();
  return *std::max_element(tops_.begin(), tops_.end());
}

size_t Row::first_equal(float wanted) const {
  const size_t stretch = std::find(tops_.begin(), tops_.end(), wanted) - tops_.begin();
  const float* first = values_ + stretch * kStretch;
  return static_cast<size_t>(std::find(first, first + kStretch, wanted) - values_);
}

void Row::weigh(float largest, float inverse_temperature) {
  for (size_t stretch = 0; stretch < tops_.size(); ++stretch) {
    float sum;
    // The next row's logits come meanwhile.
    kernels_.weigh_stretch(values_ + stretch * kStretch, size(stretch), vocab_, largest,
                           inverse_temperature, &tops_[stretch], &sum);
    sums_[stretch] = sum;
  }
}

Part Row::stretch_from(size_t stretch, float threshold) const {
  float sum;
  const size_t count =
      kernels_.sum_from(values_ + stretch * kStretch, size(stretch), threshold, &sum);
  return {count, sum};
}

Part Row::from(float threshold) const {
  Part all;
  for (size_t stretch = 0; stretch < tops_.size(); ++stretch) {
    if (tops_[stretch] < threshold) continue;
    const Part part = stretch_from(stretch, threshold);
    all.count += part.count;
    all.sum += part.sum;
  }
  return all;
}

// Positive floats are ordered as their bits are, so halving closes in on the weight; once few are
// left to choose from, they are sorted.
Cutoff Row::find_cutoff(double limit, bool by_count) const {
  const auto reaches = [&](const Part& part) {
    return (by_count ? static_cast<double>(part.count) : part.sum) >= limit;
  };
  uint32_t low = 0;
  uint32_t high = std::bit_cast<uint32_t>(1.0f) + 1;
  uint32_t middle = std::bit_cast<uint32_t>(kFirstGuess);
  size_t count = vocab_;
  Part above;
  while (high - low > 1 && count - above.count > kFew) {
    const Part part = from(std::bit_cast<float>(middle));
    if (reaches(part)) {
      low = middle;
      count = part.count;
    } else {
      high = middle;
      above = part;
    }
    middle = low == 0 && high > kLower ? high - kLower : low + (high - low) / 2;
  }
  const auto least = std::bit_cast<float>(low);
  const auto below = std::bit_cast<float>(high);
  left_.clear();
  for (size_t stretch = 0; stretch < tops_.size(); ++stretch) {
    if (tops_[stretch] < least) continue;
    float some[kStretch];
    const float* from = values_ + stretch * kStretch;
    const size_t count = kernels_.collect(from, size(stretch), least, below, some);
    left_.insert(left_.end(), some, some + count);
  }
  std::sort(left_.begin(), left_.end(), std::greater<>());
  Cutoff cutoff{below, 0, false, above};
  size_t at = 0;
  for (; at < left_.size() && (at == 0 || !reaches(cutoff.kept)); ++at) {
    cutoff.ties = left_[at] == cutoff.least ? cutoff.ties + 1 : 1;
    cutoff.least = left_[at];
    ++cutoff.kept.count;
    cutoff.kept.sum += left_[at];
  }
  cutoff.excess = at < left_.size() && left_[at] == cutoff.least;
  return cutoff;
}

void Row::cut_ties(Cutoff cutoff) {
  for (size_t i = 0; i < vocab_; ++i) {
    if (values_[i] != cutoff.least) continue;
    if (cutoff.ties == 0) {
      values_[i] = 0.0f;
    } else {
      --cutoff.ties;
    }
  }
}

size_t Row::pick(float threshold, double fraction) const {
  double total = 0.0;
  for (size_t stretch = 0; stretch < tops_.size(); ++stretch) {
    if (threshold > 0.0f) {
      const bool any = tops_[stretch] >= threshold;
      sums_[stretch] = any ? stretch_from(stretch, threshold).sum : 0.0;
    }
    total += sums_[stretch];
  }
  double drawn = fraction * total;
  size_t chosen = 0;
  for (size_t stretch = 0; stretch < sums_.size(); ++stretch) {
    if (sums_[stretch] == 0.0) continue;
    chosen = stretch;
    if (drawn < sums_[stretch]) break;
    drawn -= sums_[stretch];
  }
  size_t token = chosen * kStretch;
  for (size_t i = token; i < end(chosen); ++i) {
    if (values_[i] < threshold || values_[i] == 0.0f) continue;
    token = i;
    if (drawn < values_[i]) break;
    drawn -= values_[i];
  }
  return token;
}

}  // namespace

int64_t draw(const Kernels& kernels, float* logits, size_t vocab, const DrawParameters& how) {
  Row row(kernels, logits, vocab);
  const float largest = row.largest();
  if (!std::isfinite(largest)) return -1;
  if (how.inverse_temperature == 0.0) return static_cast<int64_t>(row.first_equal(largest));
  row.weigh(largest, static_cast<float>(how.inverse_temperature));
  Cutoff cutoff;
  const bool by_count = how.top_k > 0.0;
  if (by_count) {
    cutoff = row.find_cutoff(std::min(how.top_k, static_cast<double>(vocab)), true);
  }
  if (how.top_p < 1.0) {
    const double whole = by_count ? cutoff.kept.sum : row.total();
    cutoff = row.find_cutoff(how.top_p * whole, false);
  }
  if (cutoff.excess) row.cut_ties(cutoff);
  const float least = std::max(cutoff.least, static_cast<float>(how.min_p));
  return static_cast<int64_t>(row.pick(least, how.uniform));
}

}  // namespace rbee
