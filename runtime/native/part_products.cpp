#include "part_products.h"

#include <algorithm>

#include "bf16_product.h"

namespace rbee {
namespace {

// Of a step of the matrix unit, what it takes to multiply a tile of rows, in bytes of weights; and
// how many tiles could be multiplied while weights become bfloat16.
constexpr size_t kBytesPerTile = 512;
constexpr size_t kTilesToRound = 3;

QuantisedRows bytes_in(void* memory, size_t rows, const WeightsShape& shape) {
  return QuantisedRows::in(memory, rows, shape.blocks(), shape.block);
}

size_t last_panel(const WeightsShape& shape, size_t last_pair) {
  return std::min(shape.panels(), 2 * last_pair);
}

}  // namespace

size_t ByteProducts::rounded_bytes(size_t rows, const WeightsShape& shape) const {
  return QuantisedRows::bytes(rows, shape.blocks(), shape.block);
}

void ByteProducts::round(const FloatRows& x, size_t rows, const Panels& weights, void* to) const {
  const Tiles tiles = kernels_.tiles(weights, rows);
  const QuantisedRows rounded = bytes_in(to, rows, weights.shape());
  for (size_t i = 0; i < tiles.count(); ++i) {
    kernels_.quantise(x, tiles[i], weights, rounded);
  }
}

void ByteProducts::gate(const Panels& weights, void* rounded, size_t rows, size_t first,
                        size_t last, const float* bias, Gate how, float* y) const {
  kernels_.multiply_pairs(weights, bytes_in(rounded, rows, weights.shape()),
                          kernels_.tiles(weights, rows), first, last, bias, {.gate = how}, y);
}

void ByteProducts::add(const Panels& weights, void* rounded, size_t rows, size_t first,
                       size_t last, const WeighedRows& to) const {
  kernels_.multiply_and_add(weights, bytes_in(rounded, rows, weights.shape()),
                            kernels_.tiles(weights, rows), 2 * first,
                            last_panel(weights.shape(), last), to);
}

size_t ByteProducts::pair_work(const Panels& weights, size_t rows) const {
  return 2 * weights.panel_bytes() * ((rows + 3) / 4);
}

size_t UnitProducts::rounded_bytes(size_t rows, const WeightsShape& shape) const {
  return avx512::Bf16Rows::bytes(rows, shape);
}

void UnitProducts::round(const FloatRows& x, size_t rows, const Panels& weights, void* to) const {
  const avx512::Bf16Rows rounded(to, rows, weights.shape());
  avx512::round_rows(x, 0, rounded.tiles(), rounded);
}

void UnitProducts::gate(const Panels& weights, void* rounded, size_t rows, size_t first,
                        size_t last, const float* bias, Gate how, float* y) const {
  const avx512::Bf16Rows x(rounded, rows, weights.shape());
  avx512::multiply_bf16(weights, x, {0, x.tiles(), first, last}, bias, {.gate = how}, y);
}

void UnitProducts::add(const Panels& weights, void* rounded, size_t rows, size_t first,
                       size_t last, const WeighedRows& to) const {
  const avx512::Bf16Rows x(rounded, rows, weights.shape());
  avx512::multiply_bf16_and_add(weights, x, {0, x.tiles(), first, last}, to);
}

size_t UnitProducts::pair_work(const Panels& weights, size_t rows) const {
  const avx512::Bf16Rows x(nullptr, rows, weights.shape());
  return x.steps * (x.tiles() + kTilesToRound) * kBytesPerTile;
}

}  // namespace rbee
