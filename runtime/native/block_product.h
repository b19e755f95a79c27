// Products with block-quantised weights: MatMulNBits, BlockProduct for blocks with offsets, both
// with the gate of an MLP, and the first with an activation.
#pragma once

#include <vector>

#include "kernels.h"
#include "operator.h"

namespace rbee {

class BlockProduct {
 public:
  // Which inputs are the offsets and the bias; 0 for none. A gate makes one of the outputs' two
  // halves, its own and what it is for.
  BlockProduct(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels, size_t offsets,
               size_t bias, const Epilogue& epilogue = {});

  void compute(ort::KernelContext* context) const;

 private:
  void compute_in_bf16(ort::KernelContext* context, const float* x, size_t count, float* y) const;

  OnnxRuntime ort_;
  const Kernels& kernels_;
  Epilogue epilogue_;
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
template <typename Kind>
class GatedProduct : public BlockProduct {
 public:
  static constexpr const char* kName = Kind::kProduct;
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kUint8, ort::kFloat,
                                                 ort::kFloat};
  static constexpr size_t kRequired = 3;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};

  GatedProduct(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
      : BlockProduct(api, info, kernels, 0, 3, {.gate = Kind::gate(kernels)}) {}
};

// ... and of one with offsets.
template <typename Kind>
class GatedOffsetProduct : public BlockProduct {
 public:
  static constexpr const char* kName = Kind::kOffsetProduct;
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kUint8, ort::kFloat,
                                                 ort::kFloat, ort::kFloat};
  static constexpr size_t kRequired = 4;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};

  GatedOffsetProduct(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
      : BlockProduct(api, info, kernels, 3, 4, {.gate = Kind::gate(kernels)}) {}
};

// Of the domain rbee: GELU of a product without offsets.
class GeluProduct : public BlockProduct {
 public:
  static constexpr const char* kName = "GeluProduct";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kUint8, ort::kFloat,
                                                 ort::kFloat};
  static constexpr size_t kRequired = 3;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};

  GeluProduct(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
      : BlockProduct(api, info, kernels, 0, 3, {.activation = kernels.gelu}) {}
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

struct ErfGelu {
  static constexpr const char* kProduct = "GatedErfGeluProduct";
  static constexpr const char* kOffsetProduct = "GatedErfGeluBlockProduct";
  static Gate gate(const Kernels& kernels) { return kernels.gated_erf_gelu; }
};

}  // namespace rbee
