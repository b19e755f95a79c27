// Attention of texts that stand one after another, every token to all tokens of its text.
#pragma once

#include <vector>

#include "kernels.h"
#include "operator.h"

namespace rbee {

// Its inputs are queries, keys and values side by side, float[1, tokens, 3 * width], and where each
// text begins and the last ends, int32[texts + 1]; its output is float[1, tokens, width].
class PackedAttention {
 public:
  static constexpr const char* kName = "PackedAttention";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kInt32};
  static constexpr size_t kRequired = 2;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};

  PackedAttention(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);

  void compute(ort::KernelContext* context) const;

 private:
  struct Step;
  // Queries of one head and one text that are worked on together.
  struct Group {
    size_t head;
    size_t text;   // its first token
    size_t end;    // the first of the next text
    size_t first;  // the group's first token
    size_t last;
  };

  Step open(ort::KernelContext* context) const;
  void by_head(ort::KernelContext* context, const Step& step) const;
  std::vector<Group> groups(const Step& step) const;

  OnnxRuntime ort_;
  const Kernels& kernels_;
  size_t heads_;
};

}  // namespace rbee
