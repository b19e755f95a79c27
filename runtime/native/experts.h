// The experts of a sparse layer: gated MLPs, of which each token goes through a few.
#pragma once

#include <vector>

#include "kernels.h"
#include "operator.h"
#include "part_products.h"
#include "routing.h"

namespace rbee {

class Experts {
 public:
  // Hidden states and router logits; integers, scales and offsets of gate, up and down; their biases;
  // what experts are chosen by besides, where their weights are sigmoids.
  static constexpr ort::ElementType kInputs[] = {
      ort::kFloat, ort::kFloat, ort::kUint8, ort::kFloat, ort::kFloat, ort::kUint8, ort::kFloat,
      ort::kFloat, ort::kUint8, ort::kFloat, ort::kFloat, ort::kFloat, ort::kFloat, ort::kFloat,
      ort::kFloat};
  static constexpr size_t kRequired = 4;  // then come offsets and biases, which may be left out
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};

  struct Kind {
    bool gate_offsets;  // of gate and up
    bool down_offsets;
    bool biased;  // all three matrices
    Gate gate;
  };

  Experts(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels, const Kind& kind);

  void compute(ort::KernelContext* context) const;

 private:
  struct Step;

  Panels gate_up(size_t expert) const;
  Panels down(size_t expert) const;
  void choose(Step& step, const float* logits) const;
  void gate(const Step& step, const float* x) const;
  void round_gated(const Step& step) const;
  void add_down(const Step& step, float* y) const;
  void add_bias(const Step& step, size_t token, size_t first, size_t last, float* y) const;

  OnnxRuntime ort_;
  const Kernels& kernels_;
  Choice choice_;
  PackedWeights gate_up_;  // of all experts, one after another, panels of both by turns
  PackedWeights down_;
  Gate gate_;
  std::vector<float> gate_up_bias_;  // in the order of the panels; empty for none
  const float* down_bias_ = nullptr;
  ByteProducts in_bytes_;
  UnitProducts on_unit_;
  bool has_unit_;  // and these weights can be multiplied on it
};

// The operators, of the domain rbee, by what has offsets.
template <bool Gate, bool Down>
class GatedSiluExperts : public Experts {
 public:
  static constexpr const char* kName =
      Gate ? (Down ? "GatedSiluBlockExpertsBlock" : "GatedSiluBlockExperts")
           : (Down ? "GatedSiluExpertsBlock" : "GatedSiluExperts");

  GatedSiluExperts(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
      : Experts(api, info, kernels, {Gate, Down, false, kernels.gated_silu}) {}
};

template <bool Gate, bool Down>
class ClampedSiluExperts : public Experts {
 public:
  static constexpr const char* kName =
      Gate ? (Down ? "ClampedSiluBlockExpertsBlock" : "ClampedSiluBlockExperts")
           : (Down ? "ClampedSiluExpertsBlock" : "ClampedSiluExperts");

  ClampedSiluExperts(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
      : Experts(api, info, kernels, {Gate, Down, true, kernels.gated_clamped_silu}) {}
};

}  // namespace rbee
