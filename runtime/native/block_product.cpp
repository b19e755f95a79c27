#include "block_product.h"

#include <algorithm>

namespace rbee {
namespace {

// Work that is worth the while of another thread: bytes of weights for up to four rows.
constexpr size_t kWorthAThread = 64 << 10;
constexpr size_t kMostTasks = 8;
// An activation takes as long to be rounded as so many bytes of weights to be multiplied.
constexpr size_t kBytesPerActivation = 8;

enum Input : size_t { kX, kIntegers, kScales };

size_t tasks(size_t items, size_t work) {
  return std::min<size_t>({items, kMostTasks, work / kWorthAThread + 1});
}

PackedWeights pack(const OnnxRuntime& ort, const ort::KernelInfo* info, size_t offsets) {
  const WeightsShape shape{static_cast<size_t>(ort.attribute(info, "N")),
                           static_cast<size_t>(ort.attribute(info, "K")),
                           static_cast<size_t>(ort.attribute(info, "bits")),
                           static_cast<size_t>(ort.attribute(info, "block_size"))};
  if (shape.bits != 4 && shape.bits != 8) throw Failure{"bits is neither 4 nor 8"};
  if (shape.block < 16 || shape.block % 16 != 0) throw Failure{"block_size is no multiple of 16"};
  const auto* integers = ort.constant<uint8_t>(info, kIntegers);
  const auto* scales = ort.constant<float>(info, kScales);
  if (integers == nullptr || scales == nullptr) throw Failure{"the weights are not constant"};
  return PackedWeights(shape, integers, scales,
                       offsets != 0 ? ort.constant<float>(info, offsets) : nullptr);
}

}  // namespace

BlockProduct::BlockProduct(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels,
                           size_t offsets, size_t bias)
    : ort_(api),
      kernels_(kernels),
      weights_(pack(ort_, info, offsets)),
      bias_(ort_.constant<float>(info, bias)) {}

void BlockProduct::compute(ort::KernelContext* context) const {
  const ort::Value* input = ort_.input(context, kX);
  const WeightsShape& shape = weights_.shape();
  std::vector<int64_t> dimensions = ort_.dimensions(input);
  if (dimensions.empty() || dimensions.back() != static_cast<int64_t>(shape.inputs)) {
    throw Failure{"the activations' last dimension is not K"};
  }
  size_t count = 1;
  for (size_t i = 0; i + 1 < dimensions.size(); ++i) count *= dimensions[i];
  dimensions.back() = static_cast<int64_t>(shape.outputs);
  float* y = ort_.output<float>(context, 0, dimensions);
  if (count == 0) return;

  const auto* x = ort_.data<const float>(input);
  const Tiles tiles(count, kernels_.tile);
  void* memory = scratch(QuantisedRows::bytes(count, shape.blocks(), shape.block));
  const auto rows = QuantisedRows::in(memory, count, shape.blocks(), shape.block);
  const size_t rounding = tasks(tiles.count(), count * shape.inputs * kBytesPerActivation);
  ort_.in_parallel(context, rounding, [&](size_t task) {
    const size_t last = tiles.count() * (task + 1) / rounding;
    for (size_t i = tiles.count() * task / rounding; i < last; ++i) {
      kernels_.quantise(x, shape.inputs, tiles[i], weights_.has_offsets(), rows);
    }
  });
  const size_t panels = shape.panels();
  const size_t products = tasks(panels, panels * weights_.panel_bytes() * ((count + 3) / 4));
  ort_.in_parallel(context, products, [&](size_t task) {
    kernels_.multiply(weights_, rows, tiles, panels * task / products,
                      panels * (task + 1) / products, bias_, y);
  });
}

MatMulNBits::MatMulNBits(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
    : BlockProduct(api, info, kernels, 0, 5) {
  // Our graphs have none, and what a kernel does not do it must refuse.
  const OnnxRuntime ort(api);
  if (ort.has_input(info, 3)) throw Failure{"zero points are given"};
  if (ort.has_input(info, 4)) throw Failure{"an order of the inputs is given"};
}

}  // namespace rbee
