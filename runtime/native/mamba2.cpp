#include "mamba2.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "softplus.h"
#include "work.h"

namespace rbee {
namespace {

enum Input : size_t {
  kZxbc,
  kDt,
  kPastConv,
  kPastState,
  kFilters,
  kConvBias,
  kDecay,
  kStep,
  kSkip,
  kNorm
};
enum Output : size_t { kY, kPresentConv, kPresentState };

// Tokens that are made ready together, and then read and write the state.
constexpr size_t kTokens = 64;

}  // namespace

// What a step is given and gives, and what all heads write and read their states by.
struct Mamba2::Step {
  size_t batch, tokens;
  const float *zxbc, *dt, *past_conv, *past_state, *conv_bias, *decay, *lacking, *skip, *norm;
  float *y, *conv, *state;
  float *keys, *queries;  // float[B, S, state_dim]
};

// Memory for kTokens tokens of a head, and for a part of a state.
struct Mamba2::Room {
  float *values, *kept, *written, *columns;
};

Mamba2::Mamba2(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
    : ort_(api),
      kernels_(kernels),
      heads_(static_cast<size_t>(ort_.attribute(info, "heads"))),
      head_dim_(static_cast<size_t>(ort_.attribute(info, "head_dim"))),
      state_dim_(static_cast<size_t>(ort_.attribute(info, "state_dim"))),
      epsilon_(ort_.float_attribute(info, "epsilon")),
      filters_(ort_, info, kFilters, channels(),
               static_cast<size_t>(ort_.attribute(info, "taps"))) {}

Mamba2::Step Mamba2::open(ort::KernelContext* context) const {
  using Shape = std::vector<int64_t>;
  const auto dimensions = [&](Input input) { return ort_.dimensions(ort_.input(context, input)); };
  const auto data = [&](Input input) { return ort_.data<const float>(ort_.input(context, input)); };
  const auto size = [](size_t value) { return static_cast<int64_t>(value); };
  const Shape shape = dimensions(kZxbc);
  if (shape.size() != 3 || shape[2] != size(width() + channels())) {
    throw Failure{"zxbc is of another width"};
  }
  const Shape conv = {shape[0], size(filters_.taps() - 1), size(channels())};
  const Shape state = {shape[0], size(heads_), size(state_dim_), size(head_dim_)};
  if (dimensions(kDt) != Shape{shape[0], shape[1], size(heads_)}) {
    throw Failure{"dt has another shape"};
  }
  if (dimensions(kPastConv) != conv || dimensions(kPastState) != state) {
    throw Failure{"a past has another shape"};
  }
  const Shape heads = {size(heads_)};
  if (dimensions(kConvBias) != Shape{size(channels())} || dimensions(kDecay) != heads ||
      dimensions(kStep) != heads || dimensions(kSkip) != heads ||
      dimensions(kNorm) != Shape{size(width())}) {
    throw Failure{"a vector has another shape"};
  }
  return {static_cast<size_t>(shape[0]),
          static_cast<size_t>(shape[1]),
          data(kZxbc),
          data(kDt),
          data(kPastConv),
          data(kPastState),
          data(kConvBias),
          data(kDecay),
          data(kStep),
          data(kSkip),
          data(kNorm),
          ort_.output<float>(context, kY, {shape[0], shape[1], size(width())}),
          ort_.output<float>(context, kPresentConv, conv),
          ort_.output<float>(context, kPresentState, state),
          nullptr,
          nullptr};
}

SeenRows Mamba2::seen(const Step& step, size_t row) const {
  const size_t stride = width() + channels(), before = filters_.taps() - 1;
  return {step.past_conv + row * before * channels(), before, channels(),
          step.zxbc + row * step.tokens * stride + width(), stride};
}

void Mamba2::compute(ort::KernelContext* context) const {
  Step step = open(context);
  const size_t tokens = step.batch * step.tokens, heads = step.batch * heads_;
  if (heads == 0) return;
  const size_t state = state_dim_ * head_dim_ * sizeof(float);
  const size_t running = tasks(heads, heads * step.tokens * state);
  const size_t room = kTokens * (head_dim_ + 2) + state_dim_ * kDeltaColumns;
  auto* memory = static_cast<float*>(
      scratch((2 * tokens * state_dim_ + running * room) * sizeof(float)));
  step.keys = memory;
  step.queries = step.keys + tokens * state_dim_;
  memory = step.queries + tokens * state_dim_;

  const size_t convolving = tasks(tokens, tokens * 2 * state_dim_ * kBytesPerActivation);
  ort_.in_parallel(context, convolving, [&](size_t task) {
    for (size_t i = tokens * task / convolving; i < tokens * (task + 1) / convolving; ++i) {
      const SeenRows rows = seen(step, i / step.tokens);
      const auto convolve = [&](size_t channel, float* to) {
        filters_.convolve(kernels_, rows, i % step.tokens, channel, state_dim_, step.conv_bias,
                          to + i * state_dim_);
      };
      convolve(width(), step.keys);
      convolve(width() + state_dim_, step.queries);
    }
  });
  for (size_t row = 0; row < step.batch; ++row) {
    float* present = step.conv + row * (filters_.taps() - 1) * channels();
    seen(step, row).keep(step.tokens, width(), 2 * state_dim_, present);
  }
  ort_.in_parallel(context, running, [&](size_t task) {
    Room own;
    own.values = memory + task * room;
    own.kept = own.values + kTokens * head_dim_;
    own.written = own.kept + kTokens;
    own.columns = own.written + kTokens;
    for (size_t i = heads * task / running; i < heads * (task + 1) / running; ++i) {
      run_head(step, i / heads_, i % heads_, own);
    }
  });
  const size_t norming = tasks(tokens, tokens * width() * kBytesPerActivation);
  ort_.in_parallel(context, norming, [&](size_t task) {
    for (size_t i = tokens * task / norming; i < tokens * (task + 1) / norming; ++i) {
      float* y = step.y + i * width();
      kernels_.norm(y, step.norm, epsilon_, width(), y);
    }
  });
}

void Mamba2::run_head(const Step& step, size_t row, size_t head, const Room& room) const {
  const SeenRows rows = seen(step, row);
  const size_t size = state_dim_ * head_dim_, at = head * head_dim_;
  float* state = step.state + (row * heads_ + head) * size;
  if (step.state != step.past_state) {
    std::memcpy(state, step.past_state + (row * heads_ + head) * size, size * sizeof(float));
  }
  for (size_t first = 0; first < step.tokens; first += kTokens) {
    const size_t count = std::min(kTokens, step.tokens - first);
    const size_t token = row * step.tokens + first;
    for (size_t t = 0; t < count; ++t) {
      filters_.convolve(kernels_, rows, first + t, at, head_dim_, step.conv_bias,
                        room.values + t * head_dim_);
      const float dt = softplus(step.dt[(token + t) * heads_ + head] + step.lacking[head]);
      room.kept[t] = std::exp(step.decay[head] * dt);
      room.written[t] = dt;
    }
    float* y = step.y + token * width() + at;
    kernels_.decay_rule({count, step.queries + token * state_dim_, step.keys + token * state_dim_,
                         room.values, head_dim_, room.kept, room.written, y, width()},
                        state_dim_, head_dim_, state, room.columns);
    for (size_t t = 0; t < count; ++t, y += width()) {
      const float* x = room.values + t * head_dim_;
      for (size_t i = 0; i < head_dim_; ++i) y[i] += step.skip[head] * x[i];
      const float* z = step.zxbc + (token + t) * (width() + channels()) + at;
      kernels_.gated_silu(z, y, head_dim_, y);
    }
  }
  rows.keep(step.tokens, at, head_dim_, step.conv + row * rows.before * channels());
}

}  // namespace rbee
