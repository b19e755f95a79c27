#include "experts.h"

#include <algorithm>

#include "bf16_product.h"
#include "work.h"

namespace rbee {
namespace {

// Tokens of a sequence that an expert takes, on average, from which on they are multiplied on the
// matrix unit: it takes as long to make weights bfloat16 as to multiply by them in eight bits.
constexpr size_t kManyRows = 16;

enum Input : size_t {
  kX,
  kRouter,
  kGate = 2,
  kUp = 5,
  kDown = 8,
  kGateBias = 11,
  kUpBias,
  kDownBias,
  kChoiceBias
};

size_t positive(const OnnxRuntime& ort, const ort::KernelInfo* info, const char* name) {
  const int64_t value = ort.attribute(info, name);
  if (value < 1) throw Failure{std::string(name) + " is not positive"};
  return static_cast<size_t>(value);
}

const float* bias(const OnnxRuntime& ort, const ort::KernelInfo* info, size_t input) {
  const float* found = ort.constant<float>(info, input);
  if (found == nullptr) throw Failure{"the biases are not constant"};
  return found;
}

Choice choice_of(const OnnxRuntime& ort, const ort::KernelInfo* info) {
  Choice choice{positive(ort, info, "experts"), positive(ort, info, "active"),
                ort.attribute(info, "normalized") != 0, nullptr};
  if (ort.has_input(info, kChoiceBias)) choice.bias = bias(ort, info, kChoiceBias);
  if (choice.active > choice.experts) throw Failure{"more experts are active than there are"};
  return choice;
}

BlockMatrix matrix(const OnnxRuntime& ort, const ort::KernelInfo* info, size_t first,
                   bool offsets) {
  const BlockMatrix found{ort.constant<uint8_t>(info, first), ort.constant<float>(info, first + 1),
                          offsets ? ort.constant<float>(info, first + 2) : nullptr};
  if (found.integers == nullptr || found.scales == nullptr ||
      (offsets && found.offsets == nullptr)) {
    throw Failure{"the weights are not constant"};
  }
  return found;
}

void check(const WeightsShape& shape) {
  if (shape.bits != 4 && shape.bits != 8) throw Failure{"bits is neither 4 nor 8"};
  if (shape.block < 16 || shape.block % 16 != 0) throw Failure{"block_size is no multiple of 16"};
}

PackedWeights pack_gate_up(const OnnxRuntime& ort, const ort::KernelInfo* info, bool offsets) {
  const size_t width = positive(ort, info, "N");
  if (width % kPanel != 0) throw Failure{"N is no multiple of 16"};
  const WeightsShape shape{2 * positive(ort, info, "experts") * width, positive(ort, info, "K"),
                           positive(ort, info, "bits"), positive(ort, info, "block_size"), true};
  check(shape);
  return PackedWeights(shape, matrix(ort, info, kGate, offsets), matrix(ort, info, kUp, offsets));
}

PackedWeights pack_down(const OnnxRuntime& ort, const ort::KernelInfo* info, bool offsets) {
  const size_t hidden = positive(ort, info, "K");
  if (hidden % kPanel != 0) throw Failure{"K is no multiple of 16"};
  const WeightsShape shape{positive(ort, info, "experts") * hidden, positive(ort, info, "N"),
                           positive(ort, info, "down_bits"),
                           positive(ort, info, "down_block_size"), false};
  check(shape);
  return PackedWeights(shape, matrix(ort, info, kDown, offsets));
}

// The biases of all experts as panels of gate and up are, by turns.
std::vector<float> in_turns(const float* gate, const float* up, size_t count) {
  std::vector<float> ordered(2 * count);
  for (size_t i = 0; i < count; i += kPanel) {
    std::copy_n(gate + i, kPanel, &ordered[2 * i]);
    std::copy_n(up + i, kPanel, &ordered[2 * i + kPanel]);
  }
  return ordered;
}

// Memory that is laid out piece by piece; from null, to see how much it takes.
class Room {
 public:
  explicit Room(void* memory) : next_(reinterpret_cast<uintptr_t>(memory)) {}

  template <typename T>
  T* take(size_t count) {
    auto* taken = reinterpret_cast<T*>(next_);
    next_ += (count * sizeof(T) + 63) / 64 * 64;
    return taken;
  }
  size_t taken() const { return next_; }

 private:
  uintptr_t next_;
};

// Of items that count for `each` and begin at `start`, the first that does not begin before a share.
size_t item_at(size_t share, size_t start, size_t each, size_t items) {
  return share <= start ? 0 : std::min(items, (share - start + each - 1) / each);
}

}  // namespace

struct Experts::Step {
  ort::KernelContext* context;
  const PartProducts& products;
  size_t tokens;
  size_t rows;
  size_t x_bytes;     // of the rounded rows of a part
  size_t tile_bytes;  // of those of a gated tile
  float* room;
  uint32_t* chosen;
  float* chosen_weights;
  uint32_t* starts;
  float* gated;  // [rows, width]
  uint8_t* rounded;
  uint8_t* rounded_gated;
  Routing routing;

  // Lays out what it takes.
  void lay_out(Room& room_for, const Choice& choice, size_t width) {
    room = room_for.take<float>(kMostTasks * choice.experts);
    chosen = room_for.take<uint32_t>(rows);
    chosen_weights = room_for.take<float>(rows);
    starts = room_for.take<uint32_t>(choice.experts + 1);
    gated = room_for.take<float>(rows * width);
    rounded = room_for.take<uint8_t>(kMostTasks * x_bytes);
    const size_t tiles = Routing::most_tiles(choice, rows);
    rounded_gated = room_for.take<uint8_t>(tiles * tile_bytes);
    routing.tokens = room_for.take<uint32_t>(rows);
    routing.weights = room_for.take<float>(rows);
    routing.parts = room_for.take<Part>(tiles);
  }
};

Experts::Experts(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels,
                 const Kind& kind)
    : ort_(api),
      kernels_(kernels),
      choice_(choice_of(ort_, info)),
      gate_up_(pack_gate_up(ort_, info, kind.gate_offsets)),
      down_(pack_down(ort_, info, kind.down_offsets)),
      gate_(kind.gate),
      in_bytes_(kernels),
      on_unit_(kernels),
      has_unit_(kernels.matrix_unit && avx512::fits_bf16(gate_up_.shape()) &&
                avx512::fits_bf16(down_.shape())) {
  if (!kind.biased) return;
  gate_up_bias_ = in_turns(bias(ort_, info, kGateBias), bias(ort_, info, kUpBias),
                           gate_up_.shape().outputs / 2);
  down_bias_ = bias(ort_, info, kDownBias);
}

Panels Experts::gate_up(size_t expert) const {
  const size_t outputs = gate_up_.shape().outputs / choice_.experts;
  return gate_up_.part(expert * outputs / kPanel, outputs);
}

Panels Experts::down(size_t expert) const {
  const size_t outputs = down_.shape().outputs / choice_.experts;
  return down_.part(expert * outputs / kPanel, outputs);
}

void Experts::compute(ort::KernelContext* context) const {
  const ort::Value* input = ort_.input(context, kX);
  const ort::Value* router = ort_.input(context, kRouter);
  const std::vector<int64_t> dimensions = ort_.dimensions(input);
  std::vector<int64_t> wanted = dimensions;
  if (dimensions.empty() || dimensions.back() != static_cast<int64_t>(gate_up_.shape().inputs)) {
    throw Failure{"the activations' last dimension is not K"};
  }
  wanted.back() = static_cast<int64_t>(choice_.experts);
  if (ort_.dimensions(router) != wanted) throw Failure{"the router's logits have another shape"};
  float* y = ort_.output<float>(context, 0, dimensions);
  size_t tokens = 1;
  for (size_t i = 0; i + 1 < dimensions.size(); ++i) tokens *= dimensions[i];
  if (tokens == 0) return;

  // Steps that decode have one token of each sequence, and then a row must not depend on how many
  // others there are.
  const size_t axes = dimensions.size();
  const size_t together = axes > 2 ? static_cast<size_t>(dimensions[axes - 2]) : 1;
  const bool many = together > 1 && together * choice_.active >= kManyRows * choice_.experts;
  const PartProducts* products = &in_bytes_;
  if (has_unit_ && many) products = &on_unit_;
  const size_t rows = tokens * choice_.active;
  Step step{context,
            *products,
            tokens,
            rows,
            products->rounded_bytes(std::min(tokens, Routing::kMostRows), gate_up_.shape()),
            products->rounded_bytes(Routing::kTile, down_.shape())};
  Room measured(nullptr);
  const size_t width = down_.shape().inputs;
  step.lay_out(measured, choice_, width);
  Room room(scratch(measured.taken()));
  step.lay_out(room, choice_, width);

  choose(step, ort_.data<const float>(router));
  gate(step, ort_.data<const float>(input));
  round_gated(step);
  add_down(step, y);
}

void Experts::choose(Step& step, const float* logits) const {
  const size_t choosing = tasks(step.tokens, step.tokens * choice_.experts * kBytesPerActivation);
  ort_.in_parallel(step.context, choosing, [&](size_t task) {
    const size_t last = step.tokens * (task + 1) / choosing;
    for (size_t token = step.tokens * task / choosing; token < last; ++token) {
      const size_t at = token * choice_.active;
      choose_experts(kernels_, choice_, logits + token * choice_.experts,
                     step.room + task * choice_.experts, step.chosen + at,
                     step.chosen_weights + at);
    }
  });
  step.routing.sort(choice_, step.rows, step.chosen, step.chosen_weights, step.starts);
}

// Tasks take shares of all pairs of all parts, as even as can be; of a part that two share, each
// rounds the rows.
void Experts::gate(const Step& step, const float* x) const {
  const size_t hidden = gate_up_.shape().inputs, width = down_.shape().inputs;
  const size_t pairs = width / kPanel;
  const Part* parts = step.routing.parts;
  size_t work = 0;
  for (size_t i = 0; i < step.routing.count; ++i) {
    work += pairs * step.products.pair_work(gate_up_, parts[i].rows);
  }
  const size_t gating = tasks(step.routing.count * pairs, work);
  ort_.in_parallel(step.context, gating, [&](size_t task) {
    const size_t from = work * task / gating, to = work * (task + 1) / gating;
    uint8_t* rounded = step.rounded + task * step.x_bytes;
    size_t start = 0;
    for (size_t i = 0; i < step.routing.count && start < to; ++i) {
      const Part& part = parts[i];
      const size_t each = step.products.pair_work(gate_up_, part.rows);
      const size_t first = item_at(from, start, each, pairs);
      const size_t last = item_at(to, start, each, pairs);
      start += pairs * each;
      if (first == last) continue;
      const Panels weights = gate_up(part.expert);
      step.products.round({x, hidden, step.routing.tokens + part.first}, part.rows, weights,
                          rounded);
      const float* bias =
          gate_up_bias_.empty() ? nullptr : &gate_up_bias_[part.expert * 2 * width];
      step.products.gate(weights, rounded, part.rows, first, last, bias, gate_,
                         step.gated + part.first * width);
    }
  });
}

void Experts::round_gated(const Step& step) const {
  const size_t width = down_.shape().inputs;
  const Routing& routing = step.routing;
  const size_t rounding = tasks(routing.count, step.rows * width * kBytesPerActivation);
  ort_.in_parallel(step.context, rounding, [&](size_t task) {
    const size_t last = routing.count * (task + 1) / rounding;
    for (size_t i = routing.count * task / rounding; i < last; ++i) {
      const Part& part = routing.parts[i];
      step.products.round({step.gated + part.first * width, width}, part.rows, down_,
                          step.rounded_gated + part.first_tile * step.tile_bytes);
    }
  });
}

// Adds the biases of a token's experts to columns [first, last) of its outcome, weighed.
void Experts::add_bias(const Step& step, size_t token, size_t first, size_t last,
                       float* y) const {
  for (size_t i = token * choice_.active; i < (token + 1) * choice_.active; ++i) {
    const float* bias = down_bias_ + step.chosen[i] * gate_up_.shape().inputs;
    for (size_t column = first; column < last; ++column) {
      y[column] += step.chosen_weights[i] * bias[column];
    }
  }
}

// Tasks take columns, of which each sums up all experts' in their order.
void Experts::add_down(const Step& step, float* y) const {
  const size_t hidden = gate_up_.shape().inputs;
  const size_t pairs = (hidden / kPanel + 1) / 2;
  const Routing& routing = step.routing;
  size_t work = 0;
  for (size_t i = 0; i < routing.count; ++i) {
    work += pairs * step.products.pair_work(down_, routing.parts[i].rows);
  }
  const size_t adding = tasks(pairs, work);
  ort_.in_parallel(step.context, adding, [&](size_t task) {
    const size_t first = pairs * task / adding, last = pairs * (task + 1) / adding;
    const size_t column = first * 2 * kPanel, end = std::min(hidden, last * 2 * kPanel);
    for (size_t token = 0; token < step.tokens; ++token) {
      std::fill(y + token * hidden + column, y + token * hidden + end, 0.0f);
      if (down_bias_ != nullptr) add_bias(step, token, column, end, y + token * hidden);
    }
    for (size_t i = 0; i < routing.count; ++i) {
      const Part& part = routing.parts[i];
      step.products.add(down(part.expert), step.rounded_gated + part.first_tile * step.tile_bytes,
                        part.rows, first, last,
                        {routing.tokens + part.first, routing.weights + part.first, y, hidden});
    }
  });
}

}  // namespace rbee
