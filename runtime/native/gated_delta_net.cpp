#include "gated_delta_net.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "softplus.h"
#include "work.h"

namespace rbee {
namespace {

enum Input : size_t { kQkvz, kB, kA, kPastConv, kPastState, kFilters, kDecay, kStep, kNorm };
enum Output : size_t { kY, kPresentConv, kPresentState };

// Tokens that are made ready together, and then read and write the state.
constexpr size_t kTokens = 64;
// Added to the square of a length that is divided by.
constexpr float kLeast = 1e-6f;

// Heads of values that one of keys has.
size_t shared(size_t value_heads, size_t key_heads) {
  if (key_heads == 0 || value_heads % key_heads != 0) throw Failure{"heads cannot be shared"};
  return value_heads / key_heads;
}

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

}  // namespace

// What a step is given and gives.
struct GatedDeltaNet::Step {
  size_t batch, tokens;
  const float *qkvz, *b, *a, *decay, *lacking, *norm, *past_conv, *past_state;
  float *y, *conv, *state;
};

// Memory for kTokens tokens of one head of keys, and for a part of a state.
struct GatedDeltaNet::Room {
  float *queries, *keys, *values, *kept, *written, *columns;
};

GatedDeltaNet::GatedDeltaNet(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
    : ort_(api),
      kernels_(kernels),
      key_heads_(static_cast<size_t>(ort_.attribute(info, "key_heads"))),
      group_(shared(static_cast<size_t>(ort_.attribute(info, "value_heads")), key_heads_)),
      key_dim_(static_cast<size_t>(ort_.attribute(info, "key_dim"))),
      value_dim_(static_cast<size_t>(ort_.attribute(info, "value_dim"))),
      tiled_(ort_.attribute(info, "tiled") != 0),
      epsilon_(ort_.float_attribute(info, "epsilon")),
      filters_(ort_, info, kFilters, channels(),
               static_cast<size_t>(ort_.attribute(info, "taps"))) {
  // x / sqrt(sum(x ** 2) + least) is an RMS norm, whose mean is of as many; queries are scaled.
  const float unit = 1.0f / std::sqrt(static_cast<float>(key_dim_));
  of_keys_.assign(key_dim_, unit);
  of_queries_.assign(key_dim_, unit * unit);
}

GatedDeltaNet::Step GatedDeltaNet::open(ort::KernelContext* context) const {
  const auto dimensions = [&](Input input) { return ort_.dimensions(ort_.input(context, input)); };
  const auto data = [&](Input input) { return ort_.data<const float>(ort_.input(context, input)); };
  using Shape = std::vector<int64_t>;
  const Shape shape = dimensions(kQkvz);
  const auto width = static_cast<int64_t>(value_width());
  const auto heads = static_cast<int64_t>(key_heads_ * group_);
  const auto rows = static_cast<int64_t>(filters_.taps() - 1);
  const auto channels = static_cast<int64_t>(this->channels());
  if (shape.size() != 3 || shape[2] != channels + width) throw Failure{"qkvz is of another width"};
  const Shape pace = {shape[0], shape[1], heads};
  const Shape conv = {shape[0], rows, channels};
  const Shape state = {shape[0], heads, static_cast<int64_t>(key_dim_),
                       static_cast<int64_t>(value_dim_)};
  if (dimensions(kB) != pace || dimensions(kA) != pace) throw Failure{"b or a has another shape"};
  if (dimensions(kPastConv) != conv || dimensions(kPastState) != state) {
    throw Failure{"a past has another shape"};
  }
  if (dimensions(kDecay) != Shape{heads} || dimensions(kStep) != Shape{heads} ||
      dimensions(kNorm) != Shape{static_cast<int64_t>(value_dim_)}) {
    throw Failure{"decay, step or norm has another shape"};
  }
  return {static_cast<size_t>(shape[0]),
          static_cast<size_t>(shape[1]),
          data(kQkvz),
          data(kB),
          data(kA),
          data(kDecay),
          data(kStep),
          data(kNorm),
          data(kPastConv),
          data(kPastState),
          ort_.output<float>(context, kY, {shape[0], shape[1], width}),
          ort_.output<float>(context, kPresentConv, conv),
          ort_.output<float>(context, kPresentState, state)};
}

size_t GatedDeltaNet::room() const {
  return kTokens * (2 * key_dim_ + group_ * (value_dim_ + 2)) + key_dim_ * kDeltaColumns;
}

void GatedDeltaNet::compute(ort::KernelContext* context) const {
  const Step step = open(context);
  const size_t heads = step.batch * key_heads_;
  if (heads == 0) return;
  const size_t state = group_ * key_dim_ * value_dim_ * sizeof(float);
  const size_t count = tasks(heads, heads * step.tokens * state);
  auto* memory = static_cast<float*>(scratch(count * room() * sizeof(float)));
  ort_.in_parallel(context, count, [&](size_t task) {
    Room own;
    own.queries = memory + task * room();
    own.keys = own.queries + kTokens * key_dim_;
    own.values = own.keys + kTokens * key_dim_;
    own.kept = own.values + kTokens * group_ * value_dim_;
    own.written = own.kept + kTokens * group_;
    own.columns = own.written + kTokens * group_;
    for (size_t i = heads * task / count; i < heads * (task + 1) / count; ++i) {
      run_head(step, i / key_heads_, i % key_heads_, own);
    }
  });
}

void GatedDeltaNet::run_head(const Step& step, size_t row, size_t head, const Room& room) const {
  const size_t size = key_dim_ * value_dim_, width = value_width();
  const auto state = [&](size_t h) {
    return (row * key_heads_ * group_ + value_head(head, h)) * size;
  };
  for (size_t h = 0; h < group_ && step.state != step.past_state; ++h) {
    std::memcpy(step.state + state(h), step.past_state + state(h), size * sizeof(float));
  }
  for (size_t first = 0; first < step.tokens; first += kTokens) {
    const size_t count = std::min(kTokens, step.tokens - first);
    prepare(step, row, head, first, count, room);
    for (size_t h = 0; h < group_; ++h) {
      const size_t at = value_head(head, h) * value_dim_;
      float* y = step.y + (row * step.tokens + first) * width + at;
      const DeltaTokens tokens = {count,
                                  room.queries,
                                  room.keys,
                                  room.values + h * value_dim_,
                                  group_ * value_dim_,
                                  room.kept + h * kTokens,
                                  room.written + h * kTokens,
                                  y,
                                  width};
      kernels_.delta_rule(tokens, key_dim_, value_dim_, step.state + state(h),
                          room.columns);
      for (size_t t = 0; t < count; ++t, y += width) {
        const float* z = step.qkvz +
                         (row * step.tokens + first + t) * (channels() + width) + channels() + at;
        kernels_.norm(y, step.norm, epsilon_, value_dim_, y);
        kernels_.gated_silu(z, y, value_dim_, y);
      }
    }
  }
  keep_latest(step, row, head);
}

SeenRows GatedDeltaNet::seen(const Step& step, size_t row) const {
  const size_t stride = channels() + value_width(), before = filters_.taps() - 1;
  return {step.past_conv + row * before * channels(), before, channels(),
          step.qkvz + row * step.tokens * stride, stride};
}

void GatedDeltaNet::prepare(const Step& step, size_t row, size_t head, size_t first, size_t count,
                            const Room& room) const {
  const SeenRows rows = seen(step, row);
  const auto convolve = [&](size_t t, size_t channel, size_t width, float* to) {
    filters_.convolve(kernels_, rows, first + t, channel, width, nullptr, to);
  };
  for (size_t t = 0; t < count; ++t) {
    float* q = room.queries + t * key_dim_;
    float* k = room.keys + t * key_dim_;
    convolve(t, head * key_dim_, key_dim_, q);
    convolve(t, key_width() + head * key_dim_, key_dim_, k);
    const float least = kLeast / static_cast<float>(key_dim_);
    kernels_.norm(q, of_queries_.data(), least, key_dim_, q);
    kernels_.norm(k, of_keys_.data(), least, key_dim_, k);
    for (size_t h = 0; h < group_; ++h) {
      const size_t own_head = value_head(head, h);
      convolve(t, 2 * key_width() + own_head * value_dim_, value_dim_,
               room.values + (t * group_ + h) * value_dim_);
      const size_t at = (row * step.tokens + first + t) * key_heads_ * group_ + own_head;
      const float pace = step.decay[own_head] * softplus(step.a[at] + step.lacking[own_head]);
      room.kept[h * kTokens + t] = std::exp(pace);
      room.written[h * kTokens + t] = sigmoid(step.b[at]);
    }
  }
}

void GatedDeltaNet::keep_latest(const Step& step, size_t row, size_t head) const {
  const SeenRows rows = seen(step, row);
  float* present = step.conv + row * rows.before * channels();
  const auto keep = [&](size_t channel, size_t width) {
    rows.keep(step.tokens, channel, width, present);
  };
  keep(head * key_dim_, key_dim_);
  keep(key_width() + head * key_dim_, key_dim_);
  for (size_t h = 0; h < group_; ++h) {
    keep(2 * key_width() + value_head(head, h) * value_dim_, value_dim_);
  }
}

}  // namespace rbee
