#include "short_convolution.h"

#include <algorithm>
#include <cstring>

#include "work.h"

namespace rbee {
namespace {

enum Input : size_t { kBcx, kPastConv, kFilters };
enum Output : size_t { kY, kPresentConv };

// Channels that are gone through together, and tokens: with those before them, b * x of as many
// stay in the first-level cache.
constexpr size_t kChannels = 128;
constexpr size_t kTokens = 32;

}  // namespace

// What a step is given and gives.
struct ShortConvolution::Step {
  size_t batch, tokens;
  const float *bcx, *past;
  float *y, *present;
};

ShortConvolution::ShortConvolution(ort::Api* api, const ort::KernelInfo* info,
                                   const Kernels& kernels)
    : ort_(api),
      kernels_(kernels),
      channels_(static_cast<size_t>(ort_.attribute(info, "channels"))),
      filters_(ort_, info, kFilters, channels_, static_cast<size_t>(ort_.attribute(info, "taps"))) {
}

ShortConvolution::Step ShortConvolution::open(ort::KernelContext* context) const {
  using Shape = std::vector<int64_t>;
  const Shape shape = ort_.dimensions(ort_.input(context, kBcx));
  const auto channels = static_cast<int64_t>(channels_);
  if (shape.size() != 3 || shape[2] != 3 * channels) throw Failure{"bcx is of another width"};
  const Shape kept = {shape[0], static_cast<int64_t>(filters_.taps() - 1), channels};
  if (ort_.dimensions(ort_.input(context, kPastConv)) != kept) {
    throw Failure{"the past has another shape"};
  }
  return {static_cast<size_t>(shape[0]),
          static_cast<size_t>(shape[1]),
          ort_.data<const float>(ort_.input(context, kBcx)),
          ort_.data<const float>(ort_.input(context, kPastConv)),
          ort_.output<float>(context, kY, {shape[0], shape[1], channels}),
          ort_.output<float>(context, kPresentConv, kept)};
}

void ShortConvolution::compute(ort::KernelContext* context) const {
  const Step step = open(context);
  const size_t across = (channels_ + kChannels - 1) / kChannels;
  const size_t pieces = step.batch * across;
  if (pieces == 0) return;
  const size_t count =
      tasks(pieces, step.batch * step.tokens * channels_ * kBytesPerActivation);
  const size_t room = (filters_.taps() - 1 + kTokens) * kChannels;
  auto* memory = static_cast<float*>(scratch(count * room * sizeof(float)));
  ort_.in_parallel(context, count, [&](size_t task) {
    for (size_t i = pieces * task / count; i < pieces * (task + 1) / count; ++i) {
      const size_t first = i % across * kChannels;
      const size_t width = std::min(kChannels, channels_ - first);
      run(step, i / across, first, width, memory + task * room);
    }
  });
}

void ShortConvolution::run(const Step& step, size_t row, size_t first, size_t width,
                           float* room) const {
  const size_t before = filters_.taps() - 1;
  const size_t state = row * before * channels_ + first;
  for (size_t i = 0; i < before; ++i) {
    std::copy_n(step.past + state + i * channels_, width, room + i * width);
  }
  const float* bcx = step.bcx + row * step.tokens * 3 * channels_ + first;
  float* y = step.y + row * step.tokens * channels_ + first;
  for (size_t done = 0; done < step.tokens; done += kTokens) {
    const size_t count = std::min(kTokens, step.tokens - done);
    for (size_t t = 0; t < count; ++t, bcx += 3 * channels_, y += channels_) {
      const float* x = bcx + 2 * channels_;
      float* latest = room + (before + t) * width;
      for (size_t c = 0; c < width; ++c) latest[c] = bcx[c] * x[c];
      const float* rows[Filters::kMostTaps];
      for (size_t tap = 0; tap <= before; ++tap) rows[tap] = room + (t + tap) * width;
      kernels_.convolve_gated(rows, before + 1, filters_.from(first), filters_.stride(), width,
                              bcx + channels_, y);
    }
    // What the next of them see.
    std::memmove(room, room + count * width, before * width * sizeof(float));
  }
  for (size_t i = 0; i < before; ++i) {
    std::copy_n(room + i * width, width, step.present + state + i * channels_);
  }
}

}  // namespace rbee
