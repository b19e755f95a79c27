// What stands between products: the gate of an MLP, and a sum with its norm.
#pragma once

#include "kernels.h"
#include "operator.h"

namespace rbee {

// activation(gate) * up, of float[..., 2 * width] with the gate first.
class Gated {
 public:
  Gated(ort::Api* api, Gate gate) : ort_(api), gate_(gate) {}

  void compute(ort::KernelContext* context) const;

  static constexpr ort::ElementType kInputs[] = {ort::kFloat};
  static constexpr size_t kRequired = 1;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};

 private:
  OnnxRuntime ort_;
  Gate gate_;
};

// x * sigmoid(x) for an activation.
class GatedSilu : public Gated {
 public:
  static constexpr const char* kName = "GatedSilu";
  GatedSilu(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);
};

// GELU for an activation, in its approximation by tanh.
class GatedGelu : public Gated {
 public:
  static constexpr const char* kName = "GatedGelu";
  GatedGelu(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);
};

// GELU itself for an activation.
class GatedErfGelu : public Gated {
 public:
  static constexpr const char* kName = "GatedErfGelu";
  GatedErfGelu(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);
};

// total = x + skip, and its norm: total * gamma / sqrt(mean(total ** 2) + epsilon).
class AddNorm {
 public:
  static constexpr const char* kName = "SkipSimplifiedLayerNormalization";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kFloat, ort::kFloat,
                                                 ort::kFloat};
  static constexpr size_t kRequired = 3;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat, ort::kFloat, ort::kFloat,
                                                  ort::kFloat};

  AddNorm(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);

  void compute(ort::KernelContext* context) const;

 private:
  OnnxRuntime ort_;
  const Kernels& kernels_;
  float epsilon_;
  bool has_total_;
};

// The same with a layer norm: total less its mean, by the root of its variance and epsilon, times
// gamma, and beta.
class AddLayerNorm {
 public:
  static constexpr const char* kName = "SkipLayerNormalization";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kFloat, ort::kFloat,
                                                 ort::kFloat, ort::kFloat};
  static constexpr size_t kRequired = 3;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat, ort::kFloat, ort::kFloat,
                                                  ort::kFloat};

  AddLayerNorm(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);

  void compute(ort::KernelContext* context) const;

 private:
  OnnxRuntime ort_;
  const Kernels& kernels_;
  float epsilon_;
  bool has_total_;
};

}  // namespace rbee
