// Products with block-quantised weights: MatMulNBits, BlockProduct for blocks with offsets, and
// both with the gate of an MLP.
#pragma once

#include <vector>

#include "kernels.h"
#include "operator.h"

namespace rbee {

class BlockProduct {
 public:
  // Which inputs are the offsets and the bias; 0 for none. A gate makes of the outputs' two halves,
  // its own and what it is for, one; null for none.
  BlockProduct(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels, size_t offsets,
               size_t bias, Gate gate = nullptr);

  void compute(ort::KernelContext* context) const;

 private:
  void compute_in_bf16(ort::KernelContext* context, const float* x, size_t count, float* y) const;

  OnnxRuntime ort_;
  const Kernels& kernels_;
  Gate gate_;
  PackedWeights weights_;
  std::vector<float> ordered_bias_;  // as the panels are
  const float* bias_;
  bool has_unit_;  // and these weights can be multiplied on it
};

// Of the domain com.microsoft: y = x @ w.T + bias.
class MatMulNBits : public BlockProduct {
 public:
  static constexpr const char* kName = "MatMulNBits";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kUint8, ort::kFloat,
                                                 ort::kUint8, ort::kInt32, ort::kFloat};
  static constexpr size_t kRequired = 3;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};

  MatMulNBits(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);
};

// Of the domain rbee: the same, each block of the weights with an offset.
class OffsetBlockProduct : public BlockProduct {
 public:
  static constexpr const char* kName = "BlockProduct";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kUint8, ort::kFloat,
                                                 ort::kFloat, ort::kFloat};
  static constexpr size_t kRequired = 4;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};

  OffsetBlockProduct(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
      : BlockProduct(api, info, kernels, 3, 4) {}
};

// Of the domain rbee: a gate, of a product without offsets, ...
template <typename Activation>
class GatedProduct : public BlockProduct {
 public:
  static constexpr const char* kName = Activation::kProduct;
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kUint8, ort::kFloat,
                                                 ort::kFloat};
  static constexpr size_t kRequired = 3;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};

  GatedProduct(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
      : BlockProduct(api, info, kernels, 0, 3, Activation::gate(kernels)) {}
};

// ... and of one with offsets.
template <typename Activation>
class GatedOffsetProduct : public BlockProduct {
 public:
  static constexpr const char* kName = Activation::kOffsetProduct;
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kUint8, ort::kFloat,
                                                 ort::kFloat, ort::kFloat};
  static constexpr size_t kRequired = 4;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};

  GatedOffsetProduct(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
      : BlockProduct(api, info, kernels, 3, 4, Activation::gate(kernels)) {}
};

struct Silu {
  static constexpr const char* kProduct = "GatedSiluProduct";
  static constexpr const char* kOffsetProduct = "GatedSiluBlockProduct";
  static Gate gate(const Kernels& kernels) { return kernels.gated_silu; }
};

struct Gelu {
  static constexpr const char* kProduct = "GatedGeluProduct";
  static constexpr const char* kOffsetProduct = "GatedGeluBlockProduct";
  static Gate gate(const Kernels& kernels) { return kernels.gated_gelu; }
};

}  // namespace rbee
