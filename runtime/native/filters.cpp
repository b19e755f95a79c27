#include "filters.h"

#include <cstring>

namespace rbee {

void SeenRows::keep(size_t tokens, size_t channel, size_t width, float* present) const {
  for (size_t i = 0; i < before; ++i) {
    std::memcpy(present + i * past_stride + channel, at(tokens + i) + channel,
                width * sizeof(float));
  }
}

Filters::Filters(const OnnxRuntime& ort, const ort::KernelInfo* info, size_t input,
                 size_t channels, size_t taps)
    : channels_(channels), taps_(taps) {
  if (taps < 2 || taps > kMostTaps) throw Failure{"taps are none or too many"};
  const auto* filters = ort.constant<float>(info, input);
  if (filters == nullptr) throw Failure{"filters are no constant"};
  ordered_.resize(taps * channels);
  for (size_t c = 0; c < channels; ++c) {
    for (size_t tap = 0; tap < taps; ++tap) ordered_[tap * channels + c] = filters[c * taps + tap];
  }
}

void Filters::convolve(const Kernels& kernels, const SeenRows& rows, size_t token, size_t channel,
                       size_t width, const float* bias, float* y) const {
  const float* seen[kMostTaps];
  for (size_t tap = 0; tap < taps_; ++tap) seen[tap] = rows.at(token + tap) + channel;
  kernels.convolve_silu(seen, taps_, from(channel), channels_, width,
                        bias != nullptr ? bias + channel : nullptr, y);
}

}  // namespace rbee
