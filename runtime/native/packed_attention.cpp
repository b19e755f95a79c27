#include "packed_attention.h"

#include <algorithm>
#include <cmath>

#include "attend_group.h"

namespace rbee {
namespace {

constexpr Scoring kPlain{0.0f, 0};

}  // namespace

struct PackedAttention::Step {
  const float* qkv;
  const int32_t* begins;  // of each text; the last one's end is the last
  size_t texts;
  size_t tokens;
  size_t size;     // of a head
  float* queries;  // [tokens, heads, size], scaled
  float* keys;     // [heads, tokens, size]
  float* values;   // [heads, tokens, size]
  float* y;        // [tokens, heads, size]
};

PackedAttention::PackedAttention(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
    : ort_(api),
      kernels_(kernels),
      heads_(static_cast<size_t>(ort_.attribute(info, "num_heads"))) {
  if (heads_ == 0) throw Failure{"num_heads is 0"};
}

PackedAttention::Step PackedAttention::open(ort::KernelContext* context) const {
  Step step{};
  const ort::Value* qkv = ort_.input(context, 0);
  const ort::Value* begins = ort_.input(context, 1);
  std::vector<int64_t> shape = ort_.dimensions(qkv);
  if (shape.size() != 3 || shape[0] != 1 || shape[2] % (3 * static_cast<int64_t>(heads_)) != 0) {
    throw Failure{"queries, keys and values are not those of one row and all heads"};
  }
  step.qkv = ort_.data<const float>(qkv);
  step.tokens = static_cast<size_t>(shape[1]);
  step.size = static_cast<size_t>(shape[2]) / 3 / heads_;
  step.begins = ort_.data<const int32_t>(begins);
  const int64_t bounds = ort_.dimensions(begins).at(0);
  bool fits = bounds > 0 && step.begins[0] == 0 && step.begins[bounds - 1] == shape[1];
  for (int64_t i = 1; fits && i < bounds; ++i) fits = step.begins[i - 1] <= step.begins[i];
  if (!fits) throw Failure{"cu_seqlens does not cut the tokens into texts"};
  step.texts = static_cast<size_t>(bounds) - 1;
  shape[2] /= 3;
  step.y = ort_.output<float>(context, 0, shape);
  return step;
}

// Keys and values of a head are read one after another, and many times.
void PackedAttention::by_head(ort::KernelContext* context, const Step& step) const {
  const size_t width = heads_ * step.size;
  const float scale = 1.0f / std::sqrt(static_cast<float>(step.size));
  const size_t parts = tasks(step.tokens, step.tokens * width);
  ort_.in_parallel(context, parts, [&](size_t task) {
    const size_t last = step.tokens * (task + 1) / parts;
    for (size_t token = step.tokens * task / parts; token < last; ++token) {
      const float* from = step.qkv + token * 3 * width;
      kernels_.floats.rotate(from, width, kNotTurned, scale, step.queries + token * width);
      for (size_t head = 0; head < heads_; ++head) {
        const size_t to = (head * step.tokens + token) * step.size;
        const float* key = from + width + head * step.size;
        std::copy_n(key, step.size, step.keys + to);
        std::copy_n(key + width, step.size, step.values + to);
      }
    }
  });
}

std::vector<PackedAttention::Group> PackedAttention::groups(const Step& step) const {
  std::vector<Group> found;
  for (size_t i = 0; i < step.texts; ++i) {
    const auto text = static_cast<size_t>(step.begins[i]);
    const auto end = static_cast<size_t>(step.begins[i + 1]);
    const size_t parts = (end - text + kGroup - 1) / kGroup;
    for (size_t head = 0; head < heads_; ++head) {
      for (size_t part = 0; part < parts; ++part) {
        found.push_back({head, text, end, text + (end - text) * part / parts,
                         text + (end - text) * (part + 1) / parts});
      }
    }
  }
  return found;
}

void PackedAttention::compute(ort::KernelContext* context) const {
  Step step = open(context);
  const size_t width = heads_ * step.size;
  if (step.tokens * width == 0) return;
  step.queries = static_cast<float*>(scratch(3 * step.tokens * width * sizeof(float)));
  step.keys = step.queries + step.tokens * width;
  step.values = step.keys + step.tokens * width;
  by_head(context, step);

  const std::vector<Group> all = groups(step);
  ort_.in_parallel(context, all.size(), [&](size_t i) {
    const Group& group = all[i];
    const size_t length = group.end - group.text;
    const size_t at = (group.head * step.tokens + group.text) * step.size;
    const HeadCache<float> cache{step.keys + at, step.values + at, step.size, length};
    Query own[kGroup];
    for (size_t token = group.first; token < group.last; ++token) {
      const size_t offset = token * width + group.head * step.size;
      // Every token sees what the last one does.
      own[token - group.first] = {step.queries + offset, length - 1, step.y + offset};
    }
    const bool on_unit = kernels_.matrix_unit && length >= kTokensForTheUnit;
    attend_group(kernels_, on_unit, own, group.last - group.first, cache, kPlain);
  });
}

}  // namespace rbee
