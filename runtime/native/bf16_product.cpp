#include "bf16_product.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "bf16_few.h"
#include "bf16_outputs.h"
#include "bf16_tiles.h"
#include "bf16_weights.h"
#include "matrix_unit.h"

namespace rbee::avx512 {
namespace {

constexpr size_t kTileBytes = kUnitRows * kUnitBytes;
// Rows of so many inputs, and the weights of two panels, stay in a core's second-level cache.
constexpr size_t kMostInputs = 4096;

// Weights that come next, fetched into the second-level cache meanwhile.
struct Coming {
  const uint8_t* next;
  size_t lines;  // at a time

  void fetch() {
    for (size_t i = 0; i < lines; ++i, next += kUnitBytes) {
      _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T1);
    }
  }
};

// Up to two tiles of rows times up to two panels, side by side in sums[row tile][panel]; what other
// work the outputs have is done on the way.
template <size_t RowTiles, size_t Panels, typename Outputs>
RBEE_MATRIX_UNIT void multiply_tiles(const uint16_t* rows, size_t row_stride,
                                     const uint16_t* weights, size_t weights_stride, size_t steps,
                                     const Sums (&sums)[2][2], Coming& coming, Outputs& outputs) {
  const size_t share = (kMostWaiting + steps - 1) / steps;
  // What was stored before must be there when tiles are loaded.
  __asm__ volatile("" ::: "memory");
  _tile_loadd(0, sums[0][0].from, sums[0][0].from_stride);
  if constexpr (Panels == 2) _tile_loadd(1, sums[0][1].from, sums[0][1].from_stride);
  if constexpr (RowTiles == 2) _tile_loadd(2, sums[1][0].from, sums[1][0].from_stride);
  if constexpr (RowTiles == 2 && Panels == 2) {
    _tile_loadd(3, sums[1][1].from, sums[1][1].from_stride);
  }
  for (size_t step = 0; step < steps; ++step) {
    // Weights stay in the first-level cache, which rows pass by.
    _tile_stream_loadd(4, rows, kUnitBytes);
    _tile_loadd(6, weights, kUnitBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Panels == 2) {
      _tile_loadd(7, weights + weights_stride, kUnitBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (RowTiles == 2) {
      _tile_stream_loadd(5, rows + row_stride, kUnitBytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (Panels == 2) _tile_dpbf16ps(3, 5, 7);
    }
    coming.fetch();
    outputs.meanwhile(share);
    rows += kTileNumbers;
    weights += kTileNumbers;
  }
  _tile_stored(0, sums[0][0].to, sums[0][0].to_stride);
  if constexpr (Panels == 2) _tile_stored(1, sums[0][1].to, sums[0][1].to_stride);
  if constexpr (RowTiles == 2) _tile_stored(2, sums[1][0].to, sums[1][0].to_stride);
  if constexpr (RowTiles == 2 && Panels == 2) {
    _tile_stored(3, sums[1][1].to, sums[1][1].to_stride);
  }
  __asm__ volatile("" ::: "memory");
}

// Multiplies tiles of rows [first, last) by a slab, by twos.
template <typename Outputs>
RBEE_MATRIX_UNIT void multiply_slab(const Slab& slab, const Bf16Rows& rows, size_t first,
                                    size_t last, Coming coming, Outputs outputs) {
  const size_t row_stride = rows.steps * kTileNumbers;
  for (size_t tile = first; tile < last; tile += 2) {
    const size_t row_tiles = std::min<size_t>(2, last - tile);
    Sums sums[2][2];
    for (size_t t = 0; t < row_tiles; ++t) {
      for (size_t p = 0; p < slab.panels; ++p) sums[t][p] = outputs.start(slab, tile + t, p);
    }
    const uint16_t* from = rows.values + tile * row_stride + slab.first_step * kTileNumbers;
    const auto multiply =
        row_tiles == 2
            ? slab.panels == 2 ? multiply_tiles<2, 2, Outputs> : multiply_tiles<2, 1, Outputs>
            : slab.panels == 2 ? multiply_tiles<1, 2, Outputs> : multiply_tiles<1, 1, Outputs>;
    multiply(from, row_stride, slab.weights, slab.weights_stride, slab.steps, sums, coming,
             outputs);
    outputs.finish(slab, tile, row_tiles);
  }
}

// Blocks of a slab.
size_t slab_blocks(const WeightsShape& shape) {
  return std::min(shape.blocks(), kMostInputs / shape.block);
}

// Whether rows are so few that weights would take longer to become bfloat16 than to be multiplied.
// Sums are the same either way, slab by slab: of one there is.
bool is_of_few(const Panels& weights, const Bf16Part& part) {
  return part.last_tile - part.first_tile <= kFewTiles &&
         slab_blocks(weights.shape()) == weights.shape().blocks();
}

// Calls `multiply(slab, pair, is_last, coming)` for every slab of every pair of panels, `is_last`
// for the last of its pair.
template <typename Multiply>
RBEE_INLINED RBEE_MATRIX_UNIT void for_slabs(const Panels& weights, const Bf16Part& part,
                                             const float* bias, const Multiply& multiply) {
  const WeightsShape& shape = weights.shape();
  const RoundPanel round = round_panel_of(weights);
  const size_t most_blocks = slab_blocks(shape);
  const size_t weights_stride =
      (most_blocks * shape.block + kStepInputs - 1) / kStepInputs * kTileNumbers;
  thread_local std::vector<Line> memory;
  memory.resize(std::max(memory.size(), 2 * weights_stride / kStepInputs));
  uint16_t* rounded = memory.data()->numbers;
  const size_t to_next = 2 * weights.panel_bytes();

  const MatrixUnit unit;
  for (size_t block = 0; block < shape.blocks(); block += most_blocks) {
    const size_t blocks = std::min(most_blocks, shape.blocks() - block);
    const size_t steps = (blocks * shape.block + kStepInputs - 1) / kStepInputs;
    for (size_t pair = part.first_pair; pair < part.last_pair; ++pair) {
      const size_t panel = 2 * pair;
      const size_t panels = std::min<size_t>(2, shape.panels() - panel);
      for (size_t p = 0; p < panels; ++p) {
        uint16_t* to = rounded + p * weights_stride;
        round(weights, panel + p, block, blocks, to);
        // Half a tile may be left.
        std::fill(to + blocks * shape.block * kPanel, to + steps * kTileNumbers, uint16_t{0});
      }
      const size_t column = panel * kPanel;
      alignas(kUnitBytes) float start[2 * kPanel] = {};
      if (bias != nullptr) {
        std::copy_n(bias + column, std::min(2 * kPanel, shape.outputs - column), start);
      }
      const Slab slab{rounded, weights_stride, block * shape.block / kStepInputs, steps, panels,
                      block == 0 ? start : nullptr};
      const size_t bytes = 2 * (weights.head_bytes() + blocks * weights.block_bytes());
      const size_t all_steps = steps * ((part.last_tile - part.first_tile + 1) / 2);
      const Coming coming{weights.panel(panel) + to_next, bytes / kUnitBytes / all_steps + 1};
      multiply(slab, pair, block + blocks == shape.blocks(), coming);
    }
  }
}

}  // namespace

Bf16Rows::Bf16Rows(void* memory, size_t rows, const WeightsShape& shape)
    : rows(rows),
      steps((shape.blocks() * shape.block + kStepInputs - 1) / kStepInputs),
      values(static_cast<uint16_t*>(memory)) {}

size_t Bf16Rows::tiles() const { return (rows + kUnitRows - 1) / kUnitRows; }

size_t Bf16Rows::bytes(size_t rows, const WeightsShape& shape) {
  const Bf16Rows laid(nullptr, rows, shape);
  return laid.tiles() * laid.steps * kTileBytes;
}

bool fits_bf16(const WeightsShape& shape) {
  return shape.block <= kMostBlock && kMostBlock % shape.block == 0;
}

RBEE_MATRIX_UNIT void round_rows(const FloatRows& x, size_t first, size_t last,
                                 const Bf16Rows& to) {
  for (size_t tile = first; tile < last; ++tile) {
    for (size_t r = 0; r < kUnitRows; ++r) {
      const size_t row = tile * kUnitRows + r;
      const float* numbers = x[row < to.rows ? row : 0];
      uint16_t* line = to.values + tile * to.steps * kTileNumbers + r * kStepInputs;
      for (size_t step = 0; step < to.steps; ++step, line += kTileNumbers) {
        const size_t at = step * kStepInputs;
        const size_t count =
            row < to.rows && at < x.width ? std::min(kStepInputs, x.width - at) : 0;
        const auto mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
        const float* from = count != 0 ? numbers + at : numbers;
        const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from);
        const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> kPanel),
                                                  from + (count > kPanel ? kPanel : 0));
        _mm512_storeu_si512(line, (__m512i)_mm512_cvtne2ps_pbh(high, low));
      }
    }
  }
}

RBEE_MATRIX_UNIT void multiply_bf16(const Panels& weights, const Bf16Rows& rows,
                                    const Bf16Part& part, const float* bias,
                                    const Epilogue& epilogue, float* y) {
  const size_t outputs = weights.shape().outputs;
  const size_t left = epilogue.panels();
  if (is_of_few(weights, part)) {
    if (!epilogue.any()) {
      return multiply_few(weights, rows, part, bias, [&](size_t pair) {
        return Columns(y, rows.rows, outputs, pair * 2 * kPanel, true);
      });
    }
    Square squares[2];
    Waiting<Finished> waiting;
    multiply_few(weights, rows, part, bias, [&](size_t pair) {
      return PairColumn({epilogue, y + pair * left * kPanel, outputs * left / 2}, rows.rows,
                        {squares, 2, part.first_tile, pair}, true, waiting);
    });
    return waiting.take(kMostWaiting);
  }
  if (!epilogue.any()) {
    for_slabs(weights, part, bias, [&](const Slab& slab, size_t pair, bool, Coming coming) {
      multiply_slab(slab, rows, part.first_tile, part.last_tile, coming,
                    Columns(y, rows.rows, outputs, pair * 2 * kPanel, false));
    });
    return;
  }
  // What an epilogue takes stays here while what follows is multiplied; where there are several
  // slabs, until the last.
  thread_local std::vector<Square> squares;
  const size_t in_column = (part.last_tile - part.first_tile + 1) / 2;
  const size_t kept = slab_blocks(weights.shape()) == weights.shape().blocks()
                          ? 2
                          : in_column * (part.last_pair - part.first_pair);
  squares.resize(std::max(squares.size(), kept));
  Waiting<Finished> waiting;
  for_slabs(weights, part, bias, [&](const Slab& slab, size_t pair, bool is_last, Coming coming) {
    const Squares own{squares.data(), kept, part.first_tile, in_column * (pair - part.first_pair)};
    const size_t width = outputs * left / 2;
    multiply_slab(slab, rows, part.first_tile, part.last_tile, coming,
                  PairColumn({epilogue, y + pair * left * kPanel, width}, rows.rows, own, is_last,
                             waiting));
  });
  waiting.take(kMostWaiting);
}

RBEE_MATRIX_UNIT void multiply_bf16_and_add(const Panels& weights, const Bf16Rows& rows,
                                            const Bf16Part& part, const WeighedRows& to) {
  Square squares[2];
  Waiting<Added> waiting;
  const auto column = [&](size_t pair) {
    const size_t panels = std::min<size_t>(2, weights.shape().panels() - 2 * pair);
    return AddedColumns({&to, pair * 2 * kPanel, panels}, rows.rows, part.first_tile, squares,
                        waiting);
  };
  if (is_of_few(weights, part)) {
    multiply_few(weights, rows, part, nullptr, column);
  } else {
    for_slabs(weights, part, nullptr, [&](const Slab& slab, size_t pair, bool, Coming coming) {
      multiply_slab(slab, rows, part.first_tile, part.last_tile, coming, column(pair));
    });
  }
  waiting.take(kMostWaiting);
}

}  // namespace rbee::avx512
