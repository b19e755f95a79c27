#include "group_query_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "attend_group.h"
#include "byte_panels.h"

namespace rbee {
namespace {

enum Input : size_t {
  kQuery,
  kKey,
  kValue,
  kPastKey,
  kPastValue,
  kFilled,
  kLongest,
  kCos,
  kSin,
  kPositions,
  kSlots,  // or, on caches of floats, something unknown
  kSinks,
};

// Tokens of a row from which on its queries are worked on together.
constexpr size_t kManyTokens = 4;

}  // namespace

template <typename Element>
GroupQueryAttention<Element>::GroupQueryAttention(ort::Api* api, const ort::KernelInfo* info,
                                                  const Kernels& kernels)
    : ort_(api),
      kernels_(kernels),
      on_cache_(kernels_on<Element>(kernels)),
      heads_(static_cast<size_t>(ort_.attribute(info, "num_heads"))),
      kv_heads_(static_cast<size_t>(ort_.attribute(info, "kv_num_heads"))),
      scale_(ort_.attribute_or(info, "scale", 0.0f)),
      rotates_(ort_.attribute_or(info, "do_rotary", int64_t{0}) != 0),
      packed_(!ort_.has_input(info, kKey)),
      has_positions_(ort_.has_input(info, kPositions)),
      has_slots_(kHasSlots && ort_.has_input(info, kSlots)),
      has_sinks_(ort_.has_input(info, kSinks)) {
  const int64_t window = ort_.attribute_or(info, "local_window_size", int64_t{-1});
  scoring_ = {ort_.attribute_or(info, "softcap", 0.0f),
              window > 0 ? static_cast<size_t>(window) : 0};
  // What a kernel does not do it must refuse.
  const auto refuse = [](bool given, const char* what) {
    if (given) throw Failure{std::string(what) + " is given"};
  };
  refuse(ort_.attribute_or(info, "rotary_interleaved", int64_t{0}) != 0, "rotary_interleaved");
  refuse(ort_.attribute_or(info, "smooth_softmax", int64_t{0}) > 0, "smooth_softmax");
  refuse(ort_.attribute_or(info, "qk_output", int64_t{0}) != 0, "qk_output");
  refuse(ort_.attribute_or(info, "causal", int64_t{1}) != 1, "causal");
  refuse(ort_.attribute_or(info, "sliding_window_cache", int64_t{0}) != 0, "sliding_window_cache");
  for (size_t i = kSlots; i < std::size(kInputs); ++i) {
    const bool known = i == kSinks || (kHasSlots && i == kSlots);
    refuse(!known && ort_.has_input(info, i), "an input that is not known");
  }
  refuse(!ort_.has_input(info, kPastKey) || !ort_.has_output(info, 2), "no cache");
  if (heads_ == 0 || kv_heads_ == 0 || heads_ % kv_heads_ != 0) {
    throw Failure{"num_heads is no multiple of kv_num_heads"};
  }
}

template <typename Element>
AttentionStep<Element> GroupQueryAttention<Element>::open(ort::KernelContext* context) const {
  Step step{};
  const ort::Value* query = ort_.input(context, kQuery);
  const std::vector<int64_t> shape = ort_.dimensions(query);
  const ort::Value* past_key = ort_.input(context, kPastKey);
  const ort::Value* past_value = ort_.input(context, kPastValue);
  const std::vector<int64_t> past = ort_.dimensions(past_key);
  step.batch = static_cast<size_t>(shape[0]);
  step.tokens = static_cast<size_t>(shape[1]);
  step.size = static_cast<size_t>(past[3]);
  step.kv_heads = kv_heads_;
  const size_t kv_width = kv_heads_ * step.size;
  step.query = ort_.data<const float>(query);
  step.query_stride = static_cast<size_t>(shape[2]);
  if (step.query_stride != heads_ * step.size + (packed_ ? 2 * kv_width : 0)) {
    throw Failure{"the queries' width is not that of the heads"};
  }
  if (packed_) {
    step.key = step.query + heads_ * step.size;
    step.value = step.key + kv_width;
    step.kv_stride = step.query_stride;
  } else {
    step.key = ort_.data<const float>(ort_.input(context, kKey));
    step.value = ort_.data<const float>(ort_.input(context, kValue));
    step.kv_stride = kv_width;
  }
  step.filled = ort_.data<const int32_t>(ort_.input(context, kFilled));
  const int64_t longest = *ort_.data<const int32_t>(ort_.input(context, kLongest));
  if (rotates_) {
    const ort::Value* cos = ort_.input(context, kCos);
    const std::vector<int64_t> table = ort_.dimensions(cos);
    step.rotary = {ort_.data<const float>(cos),
                   ort_.data<const float>(ort_.input(context, kSin)),
                   static_cast<size_t>(table[0]), static_cast<size_t>(table[1])};
    if (has_positions_) {
      step.positions = ort_.data<const int64_t>(ort_.input(context, kPositions));
    }
  }
  step.scale = scale_ != 0 ? scale_ : 1.0f / std::sqrt(static_cast<float>(step.size));

  if (has_slots_) step.slots = ort_.data<const int32_t>(ort_.input(context, kSlots));
  if (has_sinks_) {
    const ort::Value* sinks = ort_.input(context, kSinks);
    if (ort_.dimensions(sinks) != std::vector<int64_t>{static_cast<int64_t>(heads_)}) {
      throw Failure{"head_sink is not one of each head"};
    }
    step.sinks = ort_.data<const float>(sinks);
  }
  std::vector<int64_t> present = past;
  if constexpr (kInBytes) {
    // What to the graph are 16-bit floats are panels, 17 rows each.
    constexpr size_t kRows = elements<Byte>(kBytePositions, kBytePart) / (kBytePart * sizeof(Half));
    const auto rows = static_cast<size_t>(past[2]);
    if (step.size % kBytePart != 0 || step.size > kMostByteSize || rows % kRows != 0) {
      throw Failure{"this is no cache of 8 bits"};
    }
    step.capacity = rows / kRows * kBytePositions;
  } else {
    present[2] = std::max(past[2], longest);
    step.capacity = static_cast<size_t>(present[2]);
  }
  for (size_t row = 0; row < step.batch; ++row) {
    const int64_t last = step.filled[row];
    if (last + 1 < static_cast<int64_t>(step.tokens) ||
        last >= static_cast<int64_t>(step.capacity)) {
      throw Failure{"seqlens_k does not fit the cache"};
    }
    const int64_t slot = has_slots_ ? step.slots[row] : static_cast<int64_t>(row);
    if (slot < 0 || slot >= past[0]) throw Failure{"the cache has no such row"};
    for (size_t token = 0; rotates_ && token < step.tokens; ++token) {
      if (step.turn(row, token) >= step.rotary.positions) {
        throw Failure{"a position has no angle in cos_cache"};
      }
    }
  }
  step.y = ort_.output<float>(
      context, 0, {shape[0], shape[1], static_cast<int64_t>(heads_ * step.size)});
  step.present_key = ort_.output<Element>(context, 1, present);
  step.present_value = ort_.output<Element>(context, 2, present);
  // Elsewhere, the past comes along; what this step adds is written over its end.
  const auto carry = [&](const ort::Value* from, Element* to) {
    const auto* source = ort_.data<const Element>(from);
    if (source == to) return;
    const size_t room = elements<Element>(step.capacity, step.size);
    const size_t run = kInBytes ? room : static_cast<size_t>(past[2]) * step.size;
    for (size_t head = 0; head < static_cast<size_t>(past[0]) * kv_heads_; ++head) {
      std::memcpy(to + head * room, source + head * run, run * sizeof(Element));
    }
  };
  carry(past_key, step.present_key);
  carry(past_value, step.present_value);
  return step;
}

template <typename Element>
void GroupQueryAttention<Element>::append(ort::KernelContext* context, const Step& step) const {
  const size_t size = step.size;
  const size_t rows = step.batch * step.tokens;
  const size_t width = (heads_ + 2 * kv_heads_) * size;
  const size_t parts = tasks(rows, rows * width / 4);
  ort_.in_parallel(context, parts, [&](size_t task) {
    for (size_t i = rows * task / parts; i < rows * (task + 1) / parts; ++i) {
      const size_t row = i / step.tokens;
      const size_t position = step.start(row) + i % step.tokens;
      const Angles angles = step.rotary.at(step.turn(row, i % step.tokens));
      for (size_t h = 0; h < heads_; ++h) {
        kernels_.rotate(step.query + i * step.query_stride + h * size, size, angles, step.scale,
                        step.queries + (i * heads_ + h) * size);
      }
      for (size_t h = 0; h < kv_heads_; ++h) {
        const size_t at = step.offset(row, h);
        const size_t from = i * step.kv_stride + h * size;
        on_cache_.put(step.key + from, step.value + from, size, angles, step.present_key + at,
                      step.present_value + at, position);
      }
    }
  });
}

template <typename Element>
void GroupQueryAttention<Element>::attend_each(ort::KernelContext* context,
                                               const Step& step) const {
  struct Part {
    size_t token;  // of all rows
    size_t kv_head;
    Range range;
    bool first;
    size_t parts;  // of this token and head; with the first
  };
  const size_t group = heads_ / kv_heads_;
  std::vector<Part> parts;
  size_t work = 0;
  for (size_t i = 0; i < step.batch * step.tokens; ++i) {
    const Range seen = seen_from(step.start(i / step.tokens) + i % step.tokens, scoring_);
    for (size_t h = 0; h < kv_heads_; ++h) {
      for (size_t from = seen.first; from < seen.last; from += kSpan) {
        parts.push_back({i, h, {from, std::min(from + kSpan, seen.last)}, from == seen.first,
                         (seen.count() + kSpan - 1) / kSpan});
      }
    }
    work += 2 * seen.count() * kv_heads_ * step.size;
  }
  const size_t numbers = group * (step.size + kSpan + (kInBytes ? kBeside : 0));
  std::vector<Partial> partials(parts.size() * group);
  thread_local std::vector<float> kept;
  kept.resize(std::max(kept.size(), parts.size() * numbers));
  float* room = kept.data();  // of this thread; each of the others has a `kept` of its own
  const size_t count = tasks(parts.size(), work);
  ort_.in_parallel(context, count, [&](size_t task) {
    for (size_t p = parts.size() * task / count; p < parts.size() * (task + 1) / count; ++p) {
      const Part& part = parts[p];
      const size_t row = part.token / step.tokens;
      const HeadCache<Element> cache = step.cache(row, part.kv_head);
      float* values = room + p * numbers;
      for (size_t q = 0; q < group; ++q) partials[p * group + q].values = values + q * step.size;
      on_cache_.attend(step.queries + (part.token * heads_ + part.kv_head * group) * step.size,
                       group, cache, part.range, scoring_, values + group * step.size,
                       &partials[p * group]);
    }
  });
  for (size_t p = 0; p < parts.size(); ++p) {
    if (!parts[p].first) continue;
    for (size_t q = 0; q < group; ++q) {
      const size_t head = parts[p].kv_head * group + q;
      float* y = step.y + (parts[p].token * heads_ + head) * step.size;
      kernels_.combine(&partials[p * group + q], group, parts[p].parts, step.sink(head), step.size,
                       y);
    }
  }
}

template <typename Element>
void GroupQueryAttention<Element>::attend_together(ort::KernelContext* context,
                                                   const Step& step) const {
  const size_t group = heads_ / kv_heads_;
  const size_t queries = step.tokens * group;
  const size_t groups = (queries + kGroup - 1) / kGroup;
  const size_t items = step.batch * kv_heads_ * groups;
  const bool on_unit = kernels_.matrix_unit && step.tokens >= kTokensForTheUnit;
  ort_.in_parallel(context, items, [&](size_t item) {
    const size_t row = item / (kv_heads_ * groups);
    const size_t head = item / groups % kv_heads_;
    // The later tokens see more: they are begun first.
    const size_t part = groups - 1 - item % groups;
    const HeadCache<Element> cache = step.cache(row, head);
    Query own[kGroup];
    const size_t first = queries * part / groups;
    const size_t last = queries * (part + 1) / groups;
    for (size_t q = first; q < last; ++q) {
      const size_t token = q / group;
      const size_t of = head * group + q % group;
      const size_t offset = ((row * step.tokens + token) * heads_ + of) * step.size;
      own[q - first] = {step.queries + offset, step.start(row) + token, step.y + offset,
                        step.sink(of)};
    }
    attend_group(kernels_, on_unit, own, last - first, cache, scoring_);
  });
}

template <typename Element>
void GroupQueryAttention<Element>::compute(ort::KernelContext* context) const {
  Step step = open(context);
  if (step.batch * step.tokens == 0) return;
  step.queries = static_cast<float*>(
      scratch(step.batch * step.tokens * heads_ * step.size * sizeof(float)));
  append(context, step);
  if (step.tokens < kManyTokens) {
    attend_each(context, step);
  } else {
    attend_together(context, step);
  }
}

template class GroupQueryAttention<float>;
template class GroupQueryAttention<Half>;
template class GroupQueryAttention<Byte>;

}  // namespace rbee
