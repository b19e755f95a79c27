// Products of many rows on the processor's matrix unit, both factors rounded to bfloat16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "epilogue.h"
#include "packed_weights.h"
#include "quantised_rows.h"
#include "weighed_rows.h"

namespace rbee::avx512 {

// Activations rounded to bfloat16, in memory of the caller's: tiles of 16 rows by 32 inputs, the
// inputs of 16 rows side by side; rows and inputs that are not there are zeros.
struct Bf16Rows {
  size_t rows;
  size_t steps;  // tiles that hold a row's inputs
  uint16_t* values;

  Bf16Rows(void* memory, size_t rows, const WeightsShape& shape);
  size_t tiles() const;  // that hold an input of all rows
  static size_t bytes(size_t rows, const WeightsShape& shape);
};

// Whether blocks of this size can be laid out in tiles.
bool fits_bf16(const WeightsShape& shape);

// Rounds the rows of tiles [first, last) of x.
void round_rows(const FloatRows& x, size_t first, size_t last, const Bf16Rows& to);

// Panels are multiplied by twos.
RBEE_INLINED size_t panel_pairs(const WeightsShape& shape) { return (shape.panels() + 1) / 2; }

// Tiles of rows and pairs of panels, [first, last) each.
struct Bf16Part {
  size_t first_tile;
  size_t last_tile;
  size_t first_pair;
  size_t last_pair;
};

// Computes some outputs of some rows: y is float[rows, outputs]; bias is float[outputs] or null, in
// the order of the panels. Weights become bfloat16 on the way, offsets and all. With an epilogue,
// there is a whole number of pairs; with a gate, weights are in halves, its own and what it is for,
// and y is float[rows, outputs / 2].
void multiply_bf16(const Panels& weights, const Bf16Rows& rows, const Bf16Part& part,
                   const float* bias, const Epilogue& epilogue, float* y);

// Adds some outputs of some rows to other rows; outputs are whole panels.
void multiply_bf16_and_add(const Panels& weights, const Bf16Rows& rows, const Bf16Part& part,
                           const WeighedRows& to);

}  // namespace rbee::avx512
