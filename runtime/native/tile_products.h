// The products of a panel, or of some that are unpacked, and of a tile of rows; which a matrix takes.
#pragma once

#include <array>
#include <tuple>
#include <utility>

#include "multiply.h"
#include "unpacked_panels.h"

namespace rbee::RBEE_VARIANT {
namespace {

// One panel times one tile: each block's sums are weighed by both scales, and added to y,
// float[rows][16].
template <size_t Rows, Form kForm, size_t Block, Held How, bool Offsets>
void multiply_tile(const Panels& weights, size_t index, const QuantisedRows& rows, size_t first,
                   float* to) {
  PanelReader<kForm, Block, How, Offsets> panel(weights, index);
  const size_t block = panel.block();
  const int8_t* values = rows.values + first * rows.padded();
  const float* scales = rows.scales + first * rows.blocks;
  const float* sums = rows.sums + first * rows.blocks;
  const int32_t* starts = rows.starts + first * rows.blocks;
  Floats y[Rows];
  for (size_t r = 0; r < Rows; ++r) y[r] = load(to + r * kLanes);
  for (size_t b = 0; b < rows.blocks; ++b) {
    panel.begin_block();
    if constexpr (Offsets) {
      for (size_t r = 0; r < Rows; ++r) y[r] = multiply_add(panel.offset(), repeat(sums[r]), y[r]);
    }
    // The integers of weights are not negative, as the instructions want: what they are too large
    // by is the same for a whole block of activations.
    Integers acc[Rows];
    for (size_t r = 0; r < Rows; ++r) acc[r] = repeat(starts[r]);
    add_products<Rows, kForm>(panel.integers(), values, block, panel.table(), acc);
    const Floats scale = panel.scale();
    [[maybe_unused]] const Floats shift = shift_of(scale);
    for (size_t r = 0; r < Rows; ++r) {
      const Floats sum = How == Held::kFloats ? times(as_floats(acc[r]), scale)
                                              : weighed(acc[r], scale, shift);
      y[r] = multiply_add(sum, repeat(scales[r]), y[r]);
    }
    panel.end_block();
    values += Rows * block;
    scales += Rows;
    sums += Rows;
    starts += Rows;
  }
  for (size_t r = 0; r < Rows; ++r) store(to + r * kLanes, y[r]);
}

using Multiply = void (*)(const Panels&, size_t, const QuantisedRows&, size_t, float*);
using Unpack = void (*)(const Panels&, size_t, size_t, size_t, size_t, UnpackedPanels&);
using MultiplyUnpacked = void (*)(const UnpackedPanels&, const QuantisedRows&, size_t, size_t,
                                  size_t, float*);

// The kernels of a kind of weights: the product of up to so many rows, and what unpacks them; null
// where they are multiplied as they are by many rows, too.
struct ByRows {
  std::array<Multiply, kTile> multiply;
  Unpack unpack;
};

template <Form kForm, size_t Block, Held How, bool Offsets, size_t... Row>
constexpr ByRows by_rows(std::index_sequence<Row...>) {
  Unpack unpack = nullptr;
  if constexpr (How != Held::kFloats && (kForm != Form::kEights || unpacked_bytes(kForm) > 1)) {
    unpack = unpack_panel<kForm, Block, How, Offsets>;
  }
  return {{multiply_tile<Row + 1, kForm, Block, How, Offsets>...}, unpack};
}

template <Form kForm, size_t Block, Held How, bool Offsets>
const ByRows& rows_table() {
  static constexpr ByRows table =
      by_rows<kForm, Block, How, Offsets>(std::make_index_sequence<kTile>());
  return table;
}

template <Form kForm, size_t Block, Held How>
const ByRows& offsets_table(const Panels& weights) {
  return weights.has_offsets() ? rows_table<kForm, Block, How, true>()
                               : rows_table<kForm, Block, How, false>();
}

// Scales that are 32-bit floats no type of GGUF has, and no export's own blocks: it matters little how
// fast those are, and much how large the library is.
template <Form kForm, size_t Block>
const ByRows& scales_table(const Panels& weights) {
  switch (weights.held()) {
    case Held::kHalves:
      return offsets_table<kForm, Block, Held::kHalves>(weights);
    case Held::kProducts:
      return offsets_table<kForm, Block, Held::kProducts>(weights);
    default:
      return offsets_table<kForm == Form::kFours ? kForm : Form::kEights, 0, Held::kFloats>(weights);
  }
}

const ByRows& numbers_table(const Panels& weights) {
  switch (weights.held()) {
    case Held::kPowers:
      return rows_table<Form::kNumbers, 32, Held::kPowers, false>();
    case Held::kProducts:
      return rows_table<Form::kNumbers, 32, Held::kProducts, false>();
    default:
      return rows_table<Form::kNumbers, 32, Held::kHalves, false>();
  }
}

const ByRows& table(const Panels& weights) {
  const bool common = weights.shape().block == 32;
  switch (weights.form()) {
    case Form::kFours:
      return common ? scales_table<Form::kFours, 32>(weights)
                    : scales_table<Form::kFours, 0>(weights);
    case Form::kNumbers:
      return numbers_table(weights);
    case Form::kSixes:
      return scales_table<Form::kSixes, 0>(weights);
    default:
      // All types are so that stay in eight bits and have blocks of 32.
      return common && weights.held() == Held::kHalves && !weights.has_offsets()
                 ? rows_table<Form::kEights, 32, Held::kHalves, false>()
                 : scales_table<Form::kEights, 0>(weights);
  }
}

// Of more than these rows, no tile has fewer.
constexpr size_t kLeastRows =
    (kFewOfSixes + 1) / ((kFewOfSixes + kRowsAtOnce) / kRowsAtOnce);
using UnpackedByRows = std::array<MultiplyUnpacked, kRowsAtOnce - kLeastRows + 1>;

template <Form kForm, size_t Block, bool Offsets, size_t... Row>
constexpr UnpackedByRows unpacked_by_rows(std::index_sequence<Row...>) {
  return {multiply_unpacked<kLeastRows + Row, kForm, Block, Offsets>...};
}

template <Form kForm, size_t Block>
const UnpackedByRows& unpacked_offsets_table(const Panels& weights) {
  constexpr auto kEach = std::make_index_sequence<std::tuple_size_v<UnpackedByRows>>();
  static constexpr UnpackedByRows kWith = unpacked_by_rows<kForm, Block, true>(kEach);
  static constexpr UnpackedByRows kWithout = unpacked_by_rows<kForm, Block, false>(kEach);
  return weights.has_offsets() ? kWith : kWithout;
}

template <Form kForm>
const UnpackedByRows& unpacked_table(const Panels& weights) {
  constexpr Form kUnpacked = unpacked(kForm);
  switch (weights.shape().block) {
    case 16:
      return unpacked_offsets_table<kUnpacked, 16>(weights);
    case 32:
      return unpacked_offsets_table<kUnpacked, 32>(weights);
    default:
      return unpacked_offsets_table<kUnpacked, 0>(weights);
  }
}

const UnpackedByRows& unpacked_table(const Panels& weights) {
  switch (weights.form()) {
    case Form::kFours:
      return unpacked_table<Form::kFours>(weights);
    case Form::kSixes:
      return unpacked_table<Form::kSixes>(weights);
    default:
      return unpacked_table<Form::kEights>(weights);
  }
}

}  // namespace
}  // namespace rbee::RBEE_VARIANT
