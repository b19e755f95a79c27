// Products of rounded activations and block-quantised weights.
#pragma once

#include <cstddef>

#include "epilogue.h"
#include "packed_weights.h"
#include "quantised_rows.h"
#include "weighed_rows.h"

namespace rbee::RBEE_VARIANT {

// Rows multiplied together by weights as they are packed, at most: as many registers hold their sums
// of integers. Those of floats, which are added to once a block, may be in memory.
#ifdef __AVX512F__
constexpr size_t kTile = 16;
#else
constexpr size_t kTile = 4;
#endif

// The tiles in which so many rows are multiplied by some weights.
Tiles tiles_of(const Panels& weights, size_t rows);

// Rounds the rows of one tile of x, with one scale per row and block; with the sums that offsets are
// multiplied by, if they are wanted.
void quantise(const FloatRows& x, Tile tile, const Panels& weights, const QuantisedRows& to);

// Computes the outputs of panels [first, last) for every row: y is float[rows, outputs]; bias is
// float[outputs] or null.
void multiply(const Panels& weights, const QuantisedRows& rows, const Tiles& tiles,
              size_t first, size_t last, const float* bias, float* y);

// The same by pairs [first, last) of panels, whose outputs pass through an epilogue. With a gate,
// weights are in halves, its own and what it is for, and y is float[rows, outputs / 2]; bias is in
// the order of the panels.
void multiply_pairs(const Panels& weights, const QuantisedRows& rows, const Tiles& tiles,
                    size_t first, size_t last, const float* bias, const Epilogue& epilogue,
                    float* y);

// Adds the outputs of panels [first, last), of which all sixteen are there, to other rows.
void multiply_and_add(const Panels& weights, const QuantisedRows& rows, const Tiles& tiles,
                      size_t first, size_t last, const WeighedRows& to);

}  // namespace rbee::RBEE_VARIANT
