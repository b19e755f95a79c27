// GroupQueryAttention on caches that are written in place. They are of floats in the domain
// com.microsoft, of Halves in rbee, where rows may share a place in the cache; all else is the same.
// In the place of Halves there may be Bytes, in the same memory: a graph knows nothing of it.
#pragma once

#include <type_traits>

#include "attention_step.h"
#include "kernels.h"
#include "operator.h"

namespace rbee {

template <typename Element>
class GroupQueryAttention {
  static constexpr bool kInBytes = std::is_same_v<Element, Byte>;
  static constexpr bool kHasSlots = kInBytes || std::is_same_v<Element, Half>;
  static constexpr ort::ElementType kCache = kHasSlots ? ort::kFloat16 : ort::kFloat;

 public:
  static constexpr const char* kName = "GroupQueryAttention";
  static constexpr ort::ElementType kInputs[] = {
      ort::kFloat, ort::kFloat, ort::kFloat, kCache,      kCache,      ort::kInt32,
      ort::kInt32, ort::kFloat, ort::kFloat, ort::kInt64, kHasSlots ? ort::kInt32 : ort::kFloat,
      ort::kFloat,
      ort::kFloat, ort::kFloat, ort::kFloat, ort::kFloat};
  static constexpr size_t kRequired = 1;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat, kCache, kCache, ort::kFloat};

  GroupQueryAttention(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);

  void compute(ort::KernelContext* context) const;

 private:
  using Step = AttentionStep<Element>;

  Step open(ort::KernelContext* context) const;
  void append(ort::KernelContext* context, const Step& step) const;
  void attend_each(ort::KernelContext* context, const Step& step) const;
  void attend_together(ort::KernelContext* context, const Step& step) const;

  OnnxRuntime ort_;
  const Kernels& kernels_;
  const CacheKernels<Element>& on_cache_;
  size_t heads_;
  size_t kv_heads_;
  float scale_;  // 0 for one by the root of the size
  bool rotates_;
  bool packed_;  // queries, keys and values side by side in one input
  bool has_positions_;
  bool has_slots_;
  bool has_sinks_;
  Scoring scoring_;
};

}  // namespace rbee
