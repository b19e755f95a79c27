#include "filters.h"

namespace rbee {

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

}  // namespace rbee
