// The filters of a causal convolution of each channel by itself.
#pragma once

#include <vector>

#include "operator.h"

namespace rbee {

class Filters {
 public:
  static constexpr size_t kMostTaps = 64;

  // Reads a constant input, float[channels, 1, taps].
  Filters(const OnnxRuntime& ort, const ort::KernelInfo* info, size_t input, size_t channels,
          size_t taps);

  size_t taps() const { return taps_; }
  // Those of all taps from a channel on: that of the next tap is `stride()` numbers further.
  const float* from(size_t channel) const { return ordered_.data() + channel; }
  size_t stride() const { return channels_; }

 private:
  size_t channels_, taps_;
  std::vector<float> ordered_;  // [taps, channels]
};

}  // namespace rbee
