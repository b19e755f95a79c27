// Linear attention with a state, its convolution and its gates (rbee_export.dialect.delta_net).
#pragma once

#include <vector>

#include "filters.h"
#include "kernels.h"
#include "operator.h"

namespace rbee {

// Queries, keys, values and what gates their outcome, float[B, S, channels + values], become float[B,
// S, values]; b and a are float[B, S, value_heads]. Both states may be updated where they are.
class GatedDeltaNet {
 public:
  static constexpr const char* kName = "GatedDeltaNet";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kFloat, ort::kFloat,
                                                 ort::kFloat, ort::kFloat, ort::kFloat,
                                                 ort::kFloat, ort::kFloat, ort::kFloat};
  static constexpr size_t kRequired = 9;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat, ort::kFloat, ort::kFloat};

  GatedDeltaNet(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);

  void compute(ort::KernelContext* context) const;

 private:
  struct Step;
  struct Room;

  Step open(ort::KernelContext* context) const;
  SeenRows seen(const Step& step, size_t row) const;
  // All that belongs to a head of keys: the convolution of its channels, and its heads of values.
  void run_head(const Step& step, size_t row, size_t head, const Room& room) const;
  void prepare(const Step& step, size_t row, size_t head, size_t first, size_t count,
               const Room& room) const;
  void keep_latest(const Step& step, size_t row, size_t head) const;
  size_t room() const;

  OnnxRuntime ort_;
  const Kernels& kernels_;
  size_t key_heads_, group_, key_dim_, value_dim_;
  bool tiled_;  // heads of values that share one of keys are `key_heads_` apart
  float epsilon_;
  Filters filters_;
  std::vector<float> of_queries_, of_keys_;

  size_t key_width() const { return key_heads_ * key_dim_; }
  size_t value_width() const { return key_heads_ * group_ * value_dim_; }
  size_t channels() const { return 2 * key_width() + value_width(); }
  // The heads of values that a head of keys has.
  size_t value_head(size_t head, size_t h) const {
    return tiled_ ? h * key_heads_ + head : head * group_ + h;
  }
};

}  // namespace rbee
