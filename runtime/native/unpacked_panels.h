// Weights that many rows are multiplied by, unpacked once for all of them.
#pragma once

#include "panel_reader.h"
#include "quantised_rows.h"

namespace rbee::RBEE_VARIANT {

// Panels that are multiplied by at once, so that each load of activations serves all; and by how many
// rows, at most: registers hold all sums, of integers and of floats.
#ifdef __AVX512F__
constexpr size_t kPanelsAtOnce = 2;
constexpr size_t kRowsAtOnce = 7;
// Rows for which weights are not worth unpacking, and those of six bits.
constexpr size_t kFewRows = 48;
constexpr size_t kFewOfSixes = 8;
#else
constexpr size_t kPanelsAtOnce = 1;
constexpr size_t kRowsAtOnce = 4;
constexpr size_t kFewRows = 4;
constexpr size_t kFewOfSixes = 4;
#endif

// So many inputs of these panels, in memory that stays in the core's first cache.
struct UnpackedPanels {
  static constexpr size_t kInputs = 512;
  static constexpr size_t kLeastBlock = 16;
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
  static constexpr size_t kMostBytes = 1;
#else
  static constexpr size_t kMostBytes = 2;
#endif
  using Numbers = float[kInputs / kLeastBlock][kPanelsAtOnce][kLanes];

  alignas(64) uint8_t integers[kPanelsAtOnce * kInputs * kLanes * kMostBytes];
  alignas(64) Numbers scales;
  alignas(64) Numbers offsets;
};

// Unpacks blocks [first, last) of one panel, the so manieth of those multiplied by at once.
template <Form kForm, size_t Block, Held How, bool Offsets>
void unpack_panel(const Panels& weights, size_t index, size_t first, size_t last, size_t which,
                  UnpackedPanels& to) {
  PanelReader<kForm, Block, How, Offsets> panel(weights, index, first);
  const size_t bytes = panel.block() * kLanes * unpacked_bytes(kForm);
  uint8_t* integers = to.integers + which * bytes;
  for (size_t b = 0; b < last - first; ++b) {
    panel.begin_block();
    store(to.scales[b][which], panel.scale());
    if constexpr (Offsets) store(to.offsets[b][which], panel.offset());
    unpack<kForm>(panel.integers(), panel.block(), panel.table(), integers);
    panel.end_block();
    integers += kPanelsAtOnce * bytes;
  }
}

// Adds to `to`, float[panels][rows][16], the products of one tile with blocks [first, last), which
// are unpacked. `kForm` is what a form is unpacked to.
template <size_t Rows, Form kForm, size_t Block, bool Offsets>
void multiply_unpacked(const UnpackedPanels& panels, const QuantisedRows& rows, size_t row,
                       size_t first, size_t last, float* to) {
  const size_t block = Block != 0 ? Block : rows.block;
  const size_t start = row * rows.blocks + first * Rows;
  const int8_t* values = rows.values + start * block;
  const float* scales = rows.scales + start;
  const float* sums = rows.sums + start;
  const int32_t* starts = rows.starts + start;
  const uint8_t* integers = panels.integers;
  const size_t bytes = block * kLanes * unpacked_bytes(kForm);
  Floats y[kPanelsAtOnce * Rows];
  for (size_t i = 0; i < kPanelsAtOnce * Rows; ++i) y[i] = load(to + i * kLanes);
  for (size_t b = 0; b < last - first; ++b) {
    Integers acc[kPanelsAtOnce][Rows];
    for (size_t r = 0; r < Rows; ++r) {
      for (size_t p = 0; p < kPanelsAtOnce; ++p) acc[p][r] = repeat(starts[r]);
    }
    add_unpacked<Rows, kPanelsAtOnce, kForm>(integers, bytes, values, block, acc);
    for (size_t p = 0; p < kPanelsAtOnce; ++p) {
      const Floats scale = load(panels.scales[b][p]);
      const Floats shift = shift_of(scale);
      for (size_t r = 0; r < Rows; ++r) {
        Floats& sum = y[p * Rows + r];
        if constexpr (Offsets) {
          sum = multiply_add(load(panels.offsets[b][p]), repeat(sums[r]), sum);
        }
        sum = multiply_add(weighed(acc[p][r], scale, shift), repeat(scales[r]), sum);
      }
    }
    integers += kPanelsAtOnce * bytes;
    values += Rows * block;
    scales += Rows;
    sums += Rows;
    starts += Rows;
  }
  for (size_t i = 0; i < kPanelsAtOnce * Rows; ++i) store(to + i * kLanes, y[i]);
}

}  // namespace rbee::RBEE_VARIANT
