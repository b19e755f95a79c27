#include "block_product.h"

#include <algorithm>

#include "bf16_product.h"
#include "work.h"

namespace rbee {
namespace {

// Tokens of a sequence from which on they are multiplied by weights in bfloat16, on the matrix
// unit. That takes a third of the time for many, and less than twice for few; but so it matters
// little how a prompt is cut into chunks.
constexpr size_t kManyTokens = 2;
// Rows that are multiplied while one core's second-level cache holds them, in bytes of bfloat16; in
// tiles, no more than by which it hardly counts to make weights bfloat16 once, and no fewer than
// make that worth its while.
constexpr size_t kRowsTogether = 1 << 20;
constexpr size_t kMostTiles = 20;
constexpr size_t kLeastTiles = 8;
// What a multiply-add of 32 inputs, 16 outputs and 16 rows is worth in bytes of weights.
constexpr size_t kBytesPerTile = 512;

enum Input : size_t { kX, kIntegers, kScales };

PackedWeights pack(const OnnxRuntime& ort, const ort::KernelInfo* info, size_t offsets,
                   const Epilogue& epilogue) {
  const WeightsShape shape{static_cast<size_t>(ort.attribute(info, "N")),
                           static_cast<size_t>(ort.attribute(info, "K")),
                           static_cast<size_t>(ort.attribute(info, "bits")),
                           static_cast<size_t>(ort.attribute(info, "block_size")),
                           epilogue.gate != nullptr};
  if (shape.bits != 4 && shape.bits != 8) throw Failure{"bits is neither 4 nor 8"};
  if (shape.block < 16 || shape.block % 16 != 0) throw Failure{"block_size is no multiple of 16"};
  if (epilogue.any() && shape.outputs % (2 * kPanel) != 0) throw Failure{"N is no multiple of 32"};
  const auto* integers = ort.constant<uint8_t>(info, kIntegers);
  const auto* scales = ort.constant<float>(info, kScales);
  if (integers == nullptr || scales == nullptr) throw Failure{"the weights are not constant"};
  const auto* added = offsets != 0 ? ort.constant<float>(info, offsets) : nullptr;
  return PackedWeights(shape, BlockMatrix{integers, scales, added});
}

// A bias as panels of weights in halves are.
std::vector<float> in_turns(const float* bias, const WeightsShape& shape) {
  std::vector<float> ordered;
  if (bias == nullptr || !shape.halves) return ordered;
  for (size_t panel = 0; panel < shape.panels(); ++panel) {
    const float* first = bias + shape.first_output(panel);
    ordered.insert(ordered.end(), first, first + kPanel);
  }
  return ordered;
}

}  // namespace

BlockProduct::BlockProduct(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels,
                           size_t offsets, size_t bias, const Epilogue& epilogue)
    : ort_(api),
      kernels_(kernels),
      epilogue_(epilogue),
      weights_(pack(ort_, info, offsets, epilogue)),
      ordered_bias_(in_turns(ort_.constant<float>(info, bias), weights_.shape())),
      bias_(ordered_bias_.empty() ? ort_.constant<float>(info, bias) : ordered_bias_.data()),
      has_unit_(kernels.matrix_unit && avx512::fits_bf16(weights_.shape())) {}

void BlockProduct::compute(ort::KernelContext* context) const {
  const ort::Value* input = ort_.input(context, kX);
  const WeightsShape& shape = weights_.shape();
  std::vector<int64_t> dimensions = ort_.dimensions(input);
  if (dimensions.empty() || dimensions.back() != static_cast<int64_t>(shape.inputs)) {
    throw Failure{"the activations' last dimension is not K"};
  }
  size_t count = 1;
  for (size_t i = 0; i + 1 < dimensions.size(); ++i) count *= dimensions[i];
  dimensions.back() = static_cast<int64_t>(shape.outputs * epilogue_.panels() / 2);
  float* y = ort_.output<float>(context, 0, dimensions);
  if (count == 0) return;

  const auto* x = ort_.data<const float>(input);
  // Steps that decode have one token of each sequence, and then a row must not depend on how many
  // others there are.
  const size_t axes = dimensions.size();
  if (has_unit_ && axes > 2 && static_cast<size_t>(dimensions[axes - 2]) >= kManyTokens) {
    return compute_in_bf16(context, x, count, y);
  }
  const Tiles tiles = kernels_.tiles(weights_, count);
  void* memory = scratch(QuantisedRows::bytes(count, shape.blocks(), shape.block));
  const auto rows = QuantisedRows::in(memory, count, shape.blocks(), shape.block);
  const size_t rounding = tasks(tiles.count(), count * shape.inputs * kBytesPerActivation);
  ort_.in_parallel(context, rounding, [&](size_t task) {
    const size_t last = tiles.count() * (task + 1) / rounding;
    for (size_t i = tiles.count() * task / rounding; i < last; ++i) {
      kernels_.quantise({x, shape.inputs}, tiles[i], weights_, rows);
    }
  });
  const size_t pairs = (shape.panels() + 1) / 2;
  const size_t products =
      tasks(pairs, shape.panels() * weights_.panel_bytes() * ((count + 3) / 4));
  ort_.in_parallel(context, products, [&](size_t task) {
    const size_t first = pairs * task / products, last = pairs * (task + 1) / products;
    if (epilogue_.any()) {
      kernels_.multiply_pairs(weights_, rows, tiles, first, last, bias_, epilogue_, y);
    } else {
      kernels_.multiply(weights_, rows, tiles, 2 * first, std::min(shape.panels(), 2 * last), bias_,
                        y);
    }
  });
}

void BlockProduct::compute_in_bf16(ort::KernelContext* context, const float* x, size_t count,
                                   float* y) const {
  const WeightsShape& shape = weights_.shape();
  const avx512::Bf16Rows rows(scratch(avx512::Bf16Rows::bytes(count, shape)), count, shape);
  // Parts of rows first: what follows takes rows in the same order, so that a core finds in its
  // cache what it wrote. An even number, for two cores get alike then.
  const size_t together =
      std::clamp(kRowsTogether / avx512::Bf16Rows::bytes(1, shape), kLeastTiles, kMostTiles);
  const size_t row_parts = rows.tiles() < 2 * kLeastTiles
                               ? 1
                               : 2 * ((rows.tiles() + 2 * together - 1) / (2 * together));
  const auto first_tile = [&](size_t part) { return rows.tiles() * part / row_parts; };
  const size_t rounding = tasks(rows.tiles(), count * shape.inputs);
  ort_.in_parallel(context, rounding, [&](size_t task) {
    avx512::round_rows({x, shape.inputs}, rows.tiles() * task / rounding,
                       rows.tiles() * (task + 1) / rounding, rows);
  });
  const size_t pairs = avx512::panel_pairs(shape);
  const size_t products = tasks(pairs, pairs * rows.steps * rows.tiles() * kBytesPerTile);
  const size_t pair_parts = std::max<size_t>(1, products / row_parts);
  ort_.in_parallel(context, row_parts * pair_parts, [&](size_t task) {
    const size_t row_part = task / pair_parts, pair_part = task % pair_parts;
    avx512::multiply_bf16(weights_, rows,
                          {first_tile(row_part), first_tile(row_part + 1),
                           pairs * pair_part / pair_parts, pairs * (pair_part + 1) / pair_parts},
                          bias_, epilogue_, y);
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
