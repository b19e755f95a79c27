// Attention of texts that stand one after another, every token to tokens of its own text.
#pragma once

#include <vector>

#include "attention_step.h"
#include "kernels.h"
#include "operator.h"

namespace rbee {

// Every token to all tokens of its text. Its inputs are queries, keys and values side by side,
// float[1, tokens, (heads + 2 * kv_heads) * size], and where each text begins and the last ends,
// int32[texts + 1]; its output is float[1, tokens, heads * size].
class PackedAttention {
 public:
  static constexpr const char* kName = "PackedAttention";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kInt32};
  static constexpr size_t kRequired = 2;
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};

  PackedAttention(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);

  void compute(ort::KernelContext* context) const;

 protected:
  // How tokens attend.
  struct How {
    size_t heads;
    size_t kv_heads;
    float scale;  // of scores; 0 for 1 / sqrt(size)
    Scoring scoring;
    bool causal;    // a token sees none that comes later
    bool turns;     // the inputs go on with cosines and sines
    bool norms;     // and with the weights of norms of queries and keys
    float epsilon;  // in those norms
    bool biased;    // the third input is what is added to scores, by distance
  };

  PackedAttention(ort::Api* api, const Kernels& kernels, const How& how);

  // What attributes and inputs say of heads that are turned, and how they are normalised.
  static How turned(const OnnxRuntime& ort, const ort::KernelInfo* info);

  OnnxRuntime ort_;

 private:
  struct Step;
  // Queries that share keys and values, of one text, and are worked on together: those of its first
  // token come first.
  struct Group {
    size_t kv_head;
    size_t text;  // its first token
    size_t end;   // the first of the next text
    size_t first;
    size_t last;
  };

  Step open(ort::KernelContext* context) const;
  void open_bias(ort::KernelContext* context, Step& step) const;
  void by_head(ort::KernelContext* context, const Step& step) const;
  std::vector<Group> groups(const Step& step) const;

  const Kernels& kernels_;
  How how_;
};

// Every token to those of its text up to itself, or to the latest of them, heads turned by where it
// stands in its text. After the inputs above come cosines and sines, float[positions, half], and
// optionally the weights of norms of queries and keys, float[size] or as wide as all of either.
class PackedCausalAttention : public PackedAttention {
 public:
  static constexpr const char* kName = "PackedCausalAttention";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kInt32, ort::kFloat,
                                                 ort::kFloat, ort::kFloat, ort::kFloat};
  static constexpr size_t kRequired = 4;

  PackedCausalAttention(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);

 private:
  static How how(const OnnxRuntime& ort, const ort::KernelInfo* info);
};

// Every token to those of its text that are so far from it at most, before it or after it; its
// inputs are those of PackedCausalAttention.
class PackedRotaryAttention : public PackedAttention {
 public:
  static constexpr const char* kName = "PackedRotaryAttention";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kInt32, ort::kFloat,
                                                 ort::kFloat, ort::kFloat, ort::kFloat};
  static constexpr size_t kRequired = 4;

  PackedRotaryAttention(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);

 private:
  static How how(const OnnxRuntime& ort, const ort::KernelInfo* info);
};

// Every token to all tokens of its text, with numbers added to scores that depend on the head and
// on how much later the key is than the query: float[heads, 2 * longest - 1], of -(longest - 1) on.
class PackedRelativeAttention : public PackedAttention {
 public:
  static constexpr const char* kName = "PackedRelativeAttention";
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kInt32, ort::kFloat};
  static constexpr size_t kRequired = 3;

  PackedRelativeAttention(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels);
};

}  // namespace rbee
