// Products of few rows on the processor's matrix unit, whose weights become bfloat16 meanwhile.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "bf16_outputs.h"
#include "bf16_product.h"
#include "bf16_tiles.h"
#include "bf16_weights.h"
#include "fetch.h"
#include "matrix_unit.h"

namespace rbee::avx512 {

constexpr size_t kFewTiles = 2;
constexpr size_t kMostBlock = 128;
// Bytes between the weights at work and those that are fetched.
constexpr size_t kFetchedAhead = 3072;

// Weights of a pair of panels pass through a ring in the first-level cache, some blocks at a time:
// what is multiplied was made two turns before, for a tile's load waits for stores that are on
// their way.
struct Ring {
  static constexpr size_t kPlaces = 4;
  static constexpr size_t kAhead = 2;
  alignas(kUnitBytes) uint16_t places[kPlaces][2 * kMostBlock / kStepInputs * kTileNumbers];
};

// Up to two tiles of rows times up to two panels, side by side in sums[row tile][panel].
template <size_t RowTiles, size_t PanelCount, typename Outputs>
RBEE_MATRIX_UNIT void multiply_pair(const uint16_t* rows, size_t row_stride, const Panels& weights,
                                    size_t panel, RoundPanel round, Ring& ring,
                                    const Sums (&sums)[2][2], Outputs& outputs) {
  const WeightsShape& shape = weights.shape();
  // Whole blocks and whole steps.
  const size_t inputs = std::max(shape.block, kStepInputs);
  const size_t steps = inputs / kStepInputs;
  const size_t blocks = inputs / shape.block;
  const size_t bytes = weights.block_bytes() * blocks;
  const size_t turns = (shape.blocks() + blocks - 1) / blocks;
  const size_t share = (kMostWaiting + turns - 1) / turns;

  // What was stored before must be there when tiles are loaded.
  __asm__ volatile("" ::: "memory");
  _tile_loadd(0, sums[0][0].from, sums[0][0].from_stride);
  if constexpr (PanelCount == 2) _tile_loadd(1, sums[0][1].from, sums[0][1].from_stride);
  if constexpr (RowTiles == 2) _tile_loadd(2, sums[1][0].from, sums[1][0].from_stride);
  if constexpr (RowTiles == 2 && PanelCount == 2) {
    _tile_loadd(3, sums[1][1].from, sums[1][1].from_stride);
  }
  for (size_t turn = 0; turn < turns + Ring::kAhead; ++turn) {
    if (turn < turns) {
      uint16_t* to = ring.places[turn % Ring::kPlaces];
      const size_t present = std::min(blocks, shape.blocks() - turn * blocks);
      for (size_t p = 0; p < PanelCount; ++p, to += steps * kTileNumbers) {
        const uint8_t* from = weights.panel(panel + p) + weights.head_bytes() + turn * bytes;
        fetch(from + kFetchedAhead, bytes);
        round(weights, panel + p, turn * blocks, present, to);
        // Half a tile may be left.
        std::fill(to + present * shape.block * kPanel, to + steps * kTileNumbers, uint16_t{0});
      }
    }
    __asm__ volatile("" ::: "memory");
    if (turn < Ring::kAhead) continue;
    const uint16_t* made = ring.places[(turn - Ring::kAhead) % Ring::kPlaces];
    for (size_t step = 0; step < steps; ++step, rows += kTileNumbers, made += kTileNumbers) {
      _tile_loadd(4, rows, kUnitBytes);
      _tile_loadd(6, made, kUnitBytes);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (PanelCount == 2) {
        _tile_loadd(7, made + steps * kTileNumbers, kUnitBytes);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (RowTiles == 2) {
        _tile_loadd(5, rows + row_stride, kUnitBytes);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (PanelCount == 2) _tile_dpbf16ps(3, 5, 7);
      }
    }
    outputs.meanwhile(share);
  }
  _tile_stored(0, sums[0][0].to, sums[0][0].to_stride);
  if constexpr (PanelCount == 2) _tile_stored(1, sums[0][1].to, sums[0][1].to_stride);
  if constexpr (RowTiles == 2) _tile_stored(2, sums[1][0].to, sums[1][0].to_stride);
  if constexpr (RowTiles == 2 && PanelCount == 2) {
    _tile_stored(3, sums[1][1].to, sums[1][1].to_stride);
  }
  __asm__ volatile("" ::: "memory");
}

// Multiplies one tile of rows or two, whose outputs `column(pair)` takes.
template <typename Column>
RBEE_INLINED RBEE_MATRIX_UNIT void multiply_few(const Panels& weights, const Bf16Rows& rows,
                                                const Bf16Part& part, const float* bias,
                                                const Column& column) {
  const WeightsShape& shape = weights.shape();
  const RoundPanel round = round_panel_of(weights);
  const size_t row_stride = rows.steps * kTileNumbers;
  const uint16_t* from = rows.values + part.first_tile * row_stride;
  const size_t row_tiles = part.last_tile - part.first_tile;
  const auto rows_of = [&](size_t tile) {
    return std::min(kUnitRows, rows.rows - (part.first_tile + tile) * kUnitRows);
  };
  Ring ring;
  const MatrixUnit unit(rows_of(0), row_tiles == 2 ? rows_of(1) : kUnitRows);
  for (size_t pair = part.first_pair; pair < part.last_pair; ++pair) {
    const size_t panel = 2 * pair;
    const size_t panels = std::min<size_t>(2, shape.panels() - panel);
    alignas(kUnitBytes) float start[2 * kPanel] = {};
    if (bias != nullptr) {
      const size_t first = panel * kPanel;
      std::copy_n(bias + first, std::min(2 * kPanel, shape.outputs - first), start);
    }
    const Slab slab{.panels = panels, .bias = start};
    auto outputs = column(pair);
    using Outputs = decltype(outputs);
    Sums sums[2][2];
    for (size_t t = 0; t < row_tiles; ++t) {
      for (size_t p = 0; p < panels; ++p) sums[t][p] = outputs.start(slab, part.first_tile + t, p);
    }
    const auto multiply =
        row_tiles == 2
            ? panels == 2 ? multiply_pair<2, 2, Outputs> : multiply_pair<2, 1, Outputs>
            : panels == 2 ? multiply_pair<1, 2, Outputs> : multiply_pair<1, 1, Outputs>;
    multiply(from, row_stride, weights, panel, round, ring, sums, outputs);
    outputs.finish(slab, part.first_tile, row_tiles);
  }
}

}  // namespace rbee::avx512
