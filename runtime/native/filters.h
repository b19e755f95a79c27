// The filters of a causal convolution of each channel by itself, and what it goes over.
#pragma once

#include <vector>

#include "kernels.h"
#include "operator.h"

namespace rbee {

// Rows of tokens: those that are kept from earlier steps, then a step's own.
struct SeenRows {
  const float* past;
  size_t before;  // of those
  size_t past_stride;
  const float* own;
  size_t own_stride;

  // Counted from the earliest that is kept.
  const float* at(size_t row) const {
    return row < before ? past + row * past_stride : own + (row - before) * own_stride;
  }

  // Keeps the latest of some channels, once a step has had its tokens. From the earliest on: where
  // past and present are the same memory, none is written before it is read.
  void keep(size_t tokens, size_t channel, size_t width, float* present) const;
};

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

  // What becomes of some channels of a step's token, SiLU and all; `bias`, of all channels, may be
  // null.
  void convolve(const Kernels& kernels, const SeenRows& rows, size_t token, size_t channel,
                size_t width, const float* bias, float* y) const;

 private:
  size_t channels_, taps_;
  std::vector<float> ordered_;  // [taps, channels]
};

}  // namespace rbee
