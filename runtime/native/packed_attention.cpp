#include "packed_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "attend_group.h"

namespace rbee {
namespace {

// Products of queries and keys that are worth waking other threads for.
constexpr size_t kWorthThreads = 128 << 10;

enum Input : size_t { kQkv, kBegins, kCos, kSin, kQueryNorm, kKeyNorm, kBias = kCos };

// The weights of a norm, of so many numbers at a time; null for none.
struct Norm {
  const float* gamma;
  size_t width;
};

// Numbers that there are to be before and after a table of biases.
constexpr size_t kBefore = 16;
constexpr size_t kAfter = 64;

size_t count(const OnnxRuntime& ort, const ort::KernelInfo* info, const char* name) {
  return static_cast<size_t>(std::max<int64_t>(ort.attribute(info, name), 0));
}

}  // namespace

struct PackedAttention::Step {
  const float* qkv;
  const int32_t* begins;  // of each text; the last one's end is the last
  size_t texts;
  size_t tokens;
  size_t size;  // of a head
  Rotary rotary;
  Norm query_norm;
  Norm key_norm;
  float scale;
  const float* biases;  // [heads, 2 * longest - 1]; null for none
  size_t longest;
  size_t reach;        // tokens of the longest text of this step, less one
  float* bias;         // [heads, kBefore + 2 * reach + 1 + kAfter]
  float* queries;  // [tokens, heads, size], turned and scaled
  float* keys;     // [kv_heads, tokens, size], turned
  float* values;   // [kv_heads, tokens, size]
  float* y;        // [tokens, heads, size]
};

PackedAttention::PackedAttention(ort::Api* api, const Kernels& kernels, const How& how)
    : ort_(api), kernels_(kernels), how_(how) {
  if (how_.heads == 0) throw Failure{"num_heads is 0"};
  if (how_.kv_heads == 0 || how_.heads % how_.kv_heads != 0) {
    throw Failure{"num_heads is no multiple of kv_num_heads"};
  }
}

PackedAttention::PackedAttention(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
    : PackedAttention(api, kernels, [&] {
        const size_t heads = count(OnnxRuntime(api), info, "num_heads");
        return How{.heads = heads, .kv_heads = heads};
      }()) {}

PackedAttention::Step PackedAttention::open(ort::KernelContext* context) const {
  Step step{};
  const ort::Value* qkv = ort_.input(context, kQkv);
  const ort::Value* begins = ort_.input(context, kBegins);
  std::vector<int64_t> shape = ort_.dimensions(qkv);
  const auto heads = static_cast<int64_t>(how_.heads + 2 * how_.kv_heads);
  if (shape.size() != 3 || shape[0] != 1 || shape[2] % heads != 0) {
    throw Failure{"queries, keys and values are not those of one row and all heads"};
  }
  step.qkv = ort_.data<const float>(qkv);
  step.tokens = static_cast<size_t>(shape[1]);
  step.size = static_cast<size_t>(shape[2] / heads);
  step.scale = how_.scale != 0 ? how_.scale : 1.0f / std::sqrt(static_cast<float>(step.size));
  step.begins = ort_.data<const int32_t>(begins);
  const int64_t bounds = ort_.dimensions(begins).at(0);
  bool fits = bounds > 0 && step.begins[0] == 0 && step.begins[bounds - 1] == shape[1];
  for (int64_t i = 1; fits && i < bounds; ++i) fits = step.begins[i - 1] <= step.begins[i];
  if (!fits) throw Failure{"cu_seqlens does not cut the tokens into texts"};
  step.texts = static_cast<size_t>(bounds) - 1;
  if (how_.turns) {
    const ort::Value* cos = ort_.input(context, kCos);
    const std::vector<int64_t> table = ort_.dimensions(cos);
    const ort::Value* sin = ort_.input(context, kSin);
    if (table.size() != 2 || ort_.dimensions(sin) != table ||
        2 * static_cast<size_t>(table[1]) > step.size) {
      throw Failure{"cos and sin are not those of a part of a head"};
    }
    step.rotary = {ort_.data<const float>(cos), ort_.data<const float>(sin),
                   static_cast<size_t>(table[0]), static_cast<size_t>(table[1])};
    for (size_t i = 0; i < step.texts; ++i) {
      const auto length = static_cast<size_t>(step.begins[i + 1] - step.begins[i]);
      if (length > step.rotary.positions) throw Failure{"a position has no angle in cos"};
    }
  }
  const auto norm = [&](Input input, size_t width) -> Norm {
    if (!how_.norms) return {nullptr, 0};
    const ort::Value* gamma = ort_.input(context, input);
    const auto size = static_cast<size_t>(ort_.dimensions(gamma).at(0));
    if (size != step.size && size != width) throw Failure{"a norm is of no head's width"};
    return {ort_.data<const float>(gamma), size};
  };
  if (how_.biased) open_bias(context, step);
  step.query_norm = norm(kQueryNorm, how_.heads * step.size);
  step.key_norm = norm(kKeyNorm, how_.kv_heads * step.size);
  shape[2] = static_cast<int64_t>(how_.heads * step.size);
  step.y = ort_.output<float>(context, 0, shape);
  return step;
}

void PackedAttention::open_bias(ort::KernelContext* context, Step& step) const {
  const ort::Value* biases = ort_.input(context, kBias);
  const std::vector<int64_t> table = ort_.dimensions(biases);
  if (table.size() != 2 || static_cast<size_t>(table[0]) != how_.heads || table[1] % 2 != 1) {
    throw Failure{"the bias is not one of every head, and as many distances before as after"};
  }
  step.biases = ort_.data<const float>(biases);
  step.longest = static_cast<size_t>(table[1] + 1) / 2;
  for (size_t i = 0; i < step.texts; ++i) {
    const auto length = static_cast<size_t>(step.begins[i + 1] - step.begins[i]);
    if (length > step.longest) throw Failure{"a distance has no bias"};
    if (length != 0) step.reach = std::max(step.reach, length - 1);
  }
}

// Keys and values of a head are read one after another, and many times.
void PackedAttention::by_head(ort::KernelContext* context, const Step& step) const {
  const size_t size = step.size;
  const size_t width = how_.heads * size;
  const size_t kv_width = how_.kv_heads * size;
  const size_t parts = tasks(step.tokens, step.tokens * width);
  ort_.in_parallel(context, parts, [&](size_t task) {
    thread_local std::vector<float> room;
    room.resize(std::max(room.size(), width));
    const auto normed = [&](const float* x, size_t count, const Norm& norm) -> const float* {
      if (norm.gamma == nullptr) return x;
      for (size_t i = 0; i < count; i += norm.width) {
        kernels_.norm(x + i, norm.gamma, how_.epsilon, norm.width, room.data() + i);
      }
      return room.data();
    };
    size_t token = step.tokens * task / parts;
    const int32_t* text = std::upper_bound(step.begins, step.begins + step.texts,
                                           static_cast<int32_t>(token)) - 1;
    for (const size_t last = step.tokens * (task + 1) / parts; token < last; ++token) {
      while (static_cast<size_t>(text[1]) <= token) ++text;
      const size_t position = token - static_cast<size_t>(*text);
      const Angles angles = how_.turns ? step.rotary.at(position) : kNotTurned;
      // Heads that are not turned are all the same.
      const size_t stretch = how_.turns ? size : width;
      const float* from = step.qkv + token * (width + 2 * kv_width);
      const float* query = normed(from, width, step.query_norm);
      for (size_t i = 0; i < width; i += stretch) {
        kernels_.rotate(query + i, stretch, angles, step.scale,
                               step.queries + token * width + i);
      }
      const float* key = normed(from + width, kv_width, step.key_norm);
      const float* value = from + width + kv_width;
      for (size_t head = 0; head < how_.kv_heads; ++head) {
        const size_t to = (head * step.tokens + token) * size;
        if (how_.turns) {
          kernels_.rotate(key + head * size, size, angles, 1.0f, step.keys + to);
        } else {
          std::copy_n(key + head * size, size, step.keys + to);
        }
        std::copy_n(value + head * size, size, step.values + to);
      }
    }
  });
}

std::vector<PackedAttention::Group> PackedAttention::groups(const Step& step) const {
  const size_t sharing = how_.heads / how_.kv_heads;
  std::vector<Group> found;
  for (size_t i = 0; i < step.texts; ++i) {
    const auto text = static_cast<size_t>(step.begins[i]);
    const auto end = static_cast<size_t>(step.begins[i + 1]);
    const size_t queries = (end - text) * sharing;
    const size_t parts = (queries + kGroup - 1) / kGroup;
    for (size_t head = 0; head < how_.kv_heads; ++head) {
      // Where later tokens see more, they are begun first.
      for (size_t part = parts; part-- > 0;) {
        found.push_back(
            {head, text, end, queries * part / parts, queries * (part + 1) / parts});
      }
    }
  }
  return found;
}

void PackedAttention::compute(ort::KernelContext* context) const {
  Step step = open(context);
  const size_t size = step.size;
  const size_t sharing = how_.heads / how_.kv_heads;
  const size_t queries = step.tokens * how_.heads * size;
  const size_t kept = step.tokens * how_.kv_heads * size;
  if (queries == 0) return;
  const size_t stride = kBefore + 2 * step.reach + 1 + kAfter;
  const size_t biases = how_.biased ? how_.heads * stride : 0;
  step.queries = static_cast<float*>(scratch((queries + 2 * kept + biases) * sizeof(float)));
  step.keys = step.queries + queries;
  step.values = step.keys + kept;
  step.bias = step.values + kept;
  by_head(context, step);
  if (how_.biased) {
    for (size_t head = 0; head < how_.heads; ++head) {
      float* own = std::fill_n(step.bias + head * stride, kBefore, 0.0f);
      const size_t from = head * (2 * step.longest - 1) + step.longest - 1 - step.reach;
      std::fill_n(std::copy_n(step.biases + from, 2 * step.reach + 1, own), kAfter, 0.0f);
    }
  }

  const std::vector<Group> all = groups(step);
  // As many tasks as pieces, so that no thread waits long for the last; but of a few words, one.
  size_t work = 0;
  for (const Group& group : all) {
    work += (group.last - group.first) * (group.end - group.text) * size;
  }
  const size_t parts = work < kWorthThreads ? 1 : all.size();
  const auto attend = [&](const Group& group) {
    const size_t length = group.end - group.text;
    const size_t at = (group.kv_head * step.tokens + group.text) * size;
    const HeadCache<float> cache{step.keys + at, step.values + at, size, length};
    Scoring scoring = how_.scoring;
    scoring.end = length;
    if (how_.biased) scoring.bias = step.bias + group.kv_head * stride + kBefore + step.reach;
    // Where it matters where it stands.
    const bool placed = how_.causal || scoring.ahead != 0;
    Query own[kGroup];
    for (size_t q = group.first; q < group.last; ++q) {
      const size_t token = q / sharing;
      const size_t head = group.kv_head * sharing + q % sharing;
      const size_t offset = ((group.text + token) * how_.heads + head) * size;
      // Elsewhere a token sees what the last one does.
      const size_t position = placed ? token : length - 1;
      own[q - group.first] = {step.queries + offset, position, step.y + offset};
    }
    const bool on_unit = kernels_.matrix_unit && length >= kTokensForTheUnit;
    attend_group(kernels_, on_unit, own, group.last - group.first, cache, scoring);
  };
  ort_.in_parallel(context, parts, [&](size_t part) {
    for (size_t i = part; i < all.size(); i += parts) attend(all[i]);
  });
}

PackedCausalAttention::PackedCausalAttention(ort::Api* api, const ort::KernelInfo* info,
                                             const Kernels& kernels)
    : PackedAttention(api, kernels, how(OnnxRuntime(api), info)) {}

PackedAttention::How PackedAttention::turned(const OnnxRuntime& ort, const ort::KernelInfo* info) {
  const bool norms = ort.has_input(info, kQueryNorm);
  if (norms != ort.has_input(info, kKeyNorm)) throw Failure{"one of q_norm and k_norm is given"};
  return {
      .heads = count(ort, info, "num_heads"),
      .kv_heads = count(ort, info, "kv_num_heads"),
      .scale = ort.attribute_or(info, "scale", 0.0f),
      .turns = true,
      .norms = norms,
      .epsilon = norms ? ort.float_attribute(info, "epsilon") : 0.0f,
  };
}

PackedAttention::How PackedCausalAttention::how(const OnnxRuntime& ort,
                                                const ort::KernelInfo* info) {
  How how = turned(ort, info);
  const int64_t window = ort.attribute_or(info, "local_window_size", int64_t{-1});
  how.causal = true;
  how.scoring = {ort.attribute_or(info, "softcap", 0.0f),
                 window > 0 ? static_cast<size_t>(window) : 0};
  return how;
}

PackedRotaryAttention::PackedRotaryAttention(ort::Api* api, const ort::KernelInfo* info,
                                             const Kernels& kernels)
    : PackedAttention(api, kernels, how(OnnxRuntime(api), info)) {}

PackedAttention::How PackedRotaryAttention::how(const OnnxRuntime& ort,
                                                const ort::KernelInfo* info) {
  How how = turned(ort, info);
  const size_t reach = count(ort, info, "reach");
  if (reach == 0) throw Failure{"reach is not above 0"};
  how.scoring = {.window = reach + 1, .ahead = reach};
  return how;
}

PackedRelativeAttention::PackedRelativeAttention(ort::Api* api, const ort::KernelInfo* info,
                                                 const Kernels& kernels)
    : PackedAttention(api, kernels, [&] {
        const size_t heads = count(OnnxRuntime(api), info, "num_heads");
        How how{.heads = heads, .kv_heads = heads, .biased = true};
        how.scoring.ahead = std::numeric_limits<int32_t>::max();
        return how;
      }()) {}

}  // namespace rbee
