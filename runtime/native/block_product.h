// Products with block-quantised weights: MatMulNBits, and BlockProduct for blocks with offsets.
#pragma once

#include "kernels.h"
#include "operator.h"

namespace rbee {

class BlockProduct {
 public:
  // Which inputs are the offsets and the bias; 0 for none.
  BlockProduct(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels, size_t offsets,
               size_t bias);

  void compute(ort::KernelContext* context) const;

 private:
  void compute_in_bf16(ort::KernelContext* context, const float* x, size_t count, float* y) const;

  OnnxRuntime ort_;
  const Kernels& kernels_;
  PackedWeights weights_;
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

}  // namespace rbee
