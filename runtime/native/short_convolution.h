// A gated convolution over the latest tokens (rbee_export.dialect.short_convolution).
#pragma once

#include "filters.h"
#include "kernels.h"
#include "operator.h"

namespace rbee {

// b, c and x, float[B, S, 3 * channels], become c * conv(b * x), float[B, S, channels]; the state,
// the latest b * x, may be updated where it is.
class ShortConvolution {
 public:
  static constexpr const char* kName = "ShortConvolution";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kFloat, ort::kFloat};
  static constexpr size_t kRequired = 3;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat, ort::kFloat};

  ShortConvolution(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);

  void compute(ort::KernelContext* context) const;

 private:
  struct Step;

  Step open(ort::KernelContext* context) const;
  // Some channels of all tokens of a row; `room` is for so many of kTokens and those before.
  void run(const Step& step, size_t row, size_t first, size_t width, float* room) const;

  OnnxRuntime ort_;
  const Kernels& kernels_;
  size_t channels_;
  Filters filters_;
};

}  // namespace rbee
