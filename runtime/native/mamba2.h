// A state space, its convolution and its gate (rbee_export.dialect.mamba).
#pragma once

#include "filters.h"
#include "kernels.h"
#include "operator.h"

namespace rbee {

// What gates the outcome, and what is convolved, float[B, S, width + channels], become float[B, S,
// width]; dt is float[B, S, heads]. Both states may be updated where they are.
class Mamba2 {
 public:
  static constexpr const char* kName = "Mamba2";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kFloat, ort::kFloat,
                                                 ort::kFloat, ort::kFloat, ort::kFloat,
                                                 ort::kFloat, ort::kFloat, ort::kFloat,
                                                 ort::kFloat};
  static constexpr size_t kRequired = 10;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat, ort::kFloat, ort::kFloat};

  Mamba2(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);

  void compute(ort::KernelContext* context) const;

 private:
  struct Step;
  struct Room;

  Step open(ort::KernelContext* context) const;
  SeenRows seen(const Step& step, size_t row) const;
  void run_head(const Step& step, size_t row, size_t head, const Room& room) const;

  OnnxRuntime ort_;
  const Kernels& kernels_;
  size_t heads_, head_dim_, state_dim_;
  float epsilon_;
  Filters filters_;

  size_t width() const { return heads_ * head_dim_; }
  size_t channels() const { return width() + 2 * state_dim_; }
};

}  // namespace rbee
