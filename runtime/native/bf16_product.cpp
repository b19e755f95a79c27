#include "bf16_product.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "matrix_unit.h"

namespace rbee::avx512 {
namespace {

constexpr size_t kStepInputs = kUnitBytes / sizeof(uint16_t);
constexpr size_t kTileBytes = kUnitRows * kUnitBytes;
constexpr size_t kTileNumbers = kUnitRows * kStepInputs;
// Rows of so many inputs, and the weights of two panels, stay in a core's second-level cache.
constexpr size_t kMostInputs = 4096;
constexpr size_t kMostBlock = 128;

struct alignas(kUnitBytes) Line {
  uint16_t numbers[kStepInputs];
};

// Numbers are cut off after the bits of a bfloat16, which takes half as long as rounding them: this
// much larger before, what is cut off takes away as much on average.
constexpr float kCutOff = 1.0028f;

// Sixteen numbers of each input of a pair, side by side as the unit wants them.
RBEE_MATRIX_UNIT inline __m512i pair(__m512 even, __m512 odd) {
  const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(even), 16);
  // low | (odd & mask)
  return _mm512_ternarylogic_epi32(low, _mm512_castps_si512(odd), _mm512_set1_epi32(0xffff0000u),
                                   0xf8);
}

// Integers become floats in place: below the exponent of 2^(23 - bit), a mantissa whose bits from
// `bit` on are q is the number 2^(23 - bit) + q.
template <int Bit, int Bits>
RBEE_MATRIX_UNIT inline __m512 above_power(__m512i word) {
  constexpr int kExponent = (127 + 23 - Bit) << 23;
  constexpr int kMask = ((1 << Bits) - 1) << Bit;
  // (word & mask) | exponent
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(word, _mm512_set1_epi32(kMask),
                                                       _mm512_set1_epi32(kExponent), 0xea));
}

template <int Bit, int Bits>
RBEE_MATRIX_UNIT inline __m512 less_power(__m512 scale, __m512 offset) {
  constexpr float kPower = static_cast<float>((1 << (23 - Bit)) + (1 << (Bits - 1)));
  return _mm512_fnmadd_ps(scale, _mm512_set1_ps(kPower), offset);
}

// Rounds the weights of blocks of one panel to bfloat16, scaled and with their offsets: for each
// two inputs, those of 16 outputs side by side.
template <size_t Bits, bool HalfScales, bool Offsets>
RBEE_MATRIX_UNIT void round_panel(const uint8_t* panel, size_t blocks, size_t block,
                                  uint16_t* to) {
  for (size_t b = 0; b < blocks; ++b) {
    __m512 scale;
    if constexpr (HalfScales) {
      scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel)));
      panel += kPanel * sizeof(uint16_t);
    } else {
      scale = _mm512_loadu_ps(panel);
      panel += kPanel * sizeof(float);
    }
    __m512 offset = _mm512_setzero_ps();
    if constexpr (Offsets) {
      offset = _mm512_loadu_ps(panel);
      panel += kPanel * sizeof(float);
    }
    scale = _mm512_mul_ps(scale, _mm512_set1_ps(kCutOff));
    offset = _mm512_mul_ps(offset, _mm512_set1_ps(kCutOff));
    if constexpr (Bits == 4) {
      const __m512 low = less_power<16, 4>(scale, offset);
      const __m512 high = less_power<12, 4>(scale, offset);
      for (size_t i = 0; i < block; i += 8, panel += kUnitBytes, to += 4 * kStepInputs) {
        const __m512i line = _mm512_loadu_si512(panel);
        const __m512i by8 = _mm512_ror_epi32(line, 8);
        const __m512i by16 = _mm512_ror_epi32(line, 16);
        const __m512i by24 = _mm512_ror_epi32(line, 24);
        const auto first = [&](__m512i word) RBEE_MATRIX_UNIT {
          return _mm512_fmadd_ps(above_power<16, 4>(word), scale, low);
        };
        const auto second = [&](__m512i word) RBEE_MATRIX_UNIT {
          return _mm512_fmadd_ps(above_power<12, 4>(word), scale, high);
        };
        _mm512_storeu_si512(to, pair(first(by16), first(by24)));
        _mm512_storeu_si512(to + kStepInputs, pair(first(line), first(by8)));
        _mm512_storeu_si512(to + 2 * kStepInputs, pair(second(by24), second(line)));
        _mm512_storeu_si512(to + 3 * kStepInputs, pair(second(by8), second(by16)));
      }
    } else {
      const __m512 down = less_power<15, 8>(scale, offset);
      for (size_t i = 0; i < block; i += 4, panel += kUnitBytes, to += 2 * kStepInputs) {
        const __m512i line = _mm512_loadu_si512(panel);
        const auto number = [&](__m512i word) RBEE_MATRIX_UNIT {
          return _mm512_fmadd_ps(above_power<15, 8>(word), scale, down);
        };
        _mm512_storeu_si512(to, pair(number(_mm512_ror_epi32(line, 17)),
                                     number(_mm512_ror_epi32(line, 25))));
        _mm512_storeu_si512(to + kStepInputs, pair(number(_mm512_ror_epi32(line, 1)),
                                                   number(_mm512_ror_epi32(line, 9))));
      }
    }
  }
}

using RoundPanel = void (*)(const uint8_t*, size_t, size_t, uint16_t*);

template <size_t Bits>
RoundPanel round_panel_of(const PackedWeights& weights) {
  if (weights.half_scales()) {
    return weights.has_offsets() ? round_panel<Bits, true, true> : round_panel<Bits, true, false>;
  }
  return weights.has_offsets() ? round_panel<Bits, false, true> : round_panel<Bits, false, false>;
}

// Sums of 16 rows and 16 outputs: what they start from, and where they go.
struct Sums {
  const float* from;
  size_t from_stride;  // of bytes, from row to row
  float* to;
  size_t to_stride;
};

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

// Up to two tiles of rows times up to two panels, side by side in sums[row tile][panel].
template <size_t RowTiles, size_t Panels>
RBEE_MATRIX_UNIT void multiply_tiles(const uint16_t* rows, size_t row_stride,
                                     const uint16_t* weights, size_t weights_stride, size_t steps,
                                     const Sums (&sums)[2][2], Coming& coming) {
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
    rows += kTileNumbers;
    weights += kTileNumbers;
    coming.fetch();
  }
  _tile_stored(0, sums[0][0].to, sums[0][0].to_stride);
  if constexpr (Panels == 2) _tile_stored(1, sums[0][1].to, sums[0][1].to_stride);
  if constexpr (RowTiles == 2) _tile_stored(2, sums[1][0].to, sums[1][0].to_stride);
  if constexpr (RowTiles == 2 && Panels == 2) {
    _tile_stored(3, sums[1][1].to, sums[1][1].to_stride);
  }
  __asm__ volatile("" ::: "memory");
}

// A tile of sums at the edge of y, in memory of its own.
struct Edge {
  alignas(kUnitBytes) float sums[kUnitRows][kPanel];
};

void copy_lines(const float* from, size_t from_stride, size_t rows, size_t columns, float* to,
                size_t to_stride) {
  for (size_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * to_stride, from + r * from_stride, columns * sizeof(float));
  }
}

// One slab of inputs of a pair of panels, for tiles of rows [first, last).
struct Slab {
  const uint16_t* weights;
  size_t weights_stride;  // from panel to panel
  size_t first_step;
  size_t steps;
  size_t column;  // of the pair's first output
  size_t panels;
  const float* bias;  // of the pair's outputs, padded; null to add to what y holds
};

RBEE_MATRIX_UNIT void multiply_slab(const Slab& slab, const Bf16Rows& rows, size_t first,
                                    size_t last, size_t outputs, float* y, Coming coming) {
  const size_t row_stride = rows.steps * kTileNumbers;
  for (size_t tile = first; tile < last; tile += 2) {
    const size_t row_tiles = std::min<size_t>(2, last - tile);
    Edge edges[2][2];
    Sums sums[2][2];
    for (size_t t = 0; t < row_tiles; ++t) {
      const size_t row = (tile + t) * kUnitRows;
      const size_t height = std::min(kUnitRows, rows.rows - row);
      for (size_t p = 0; p < slab.panels; ++p) {
        const size_t column = slab.column + p * kPanel;
        const size_t width = std::min(kPanel, outputs - column);
        float* to = y + row * outputs + column;
        Sums& own = sums[t][p];
        own = {to, outputs * sizeof(float), to, outputs * sizeof(float)};
        if (height < kUnitRows || width < kPanel) {
          float* edge = edges[t][p].sums[0];
          if (slab.bias == nullptr) copy_lines(to, outputs, height, width, edge, kPanel);
          own = {edge, kUnitBytes, edge, kUnitBytes};
        }
        if (slab.bias != nullptr) {
          own.from = slab.bias + p * kPanel;
          own.from_stride = 0;
        }
      }
    }
    const uint16_t* from = rows.values + tile * row_stride + slab.first_step * kTileNumbers;
    const auto multiply = row_tiles == 2
                              ? slab.panels == 2 ? multiply_tiles<2, 2> : multiply_tiles<2, 1>
                              : slab.panels == 2 ? multiply_tiles<1, 2> : multiply_tiles<1, 1>;
    multiply(from, row_stride, slab.weights, slab.weights_stride, slab.steps, sums, coming);
    for (size_t t = 0; t < row_tiles; ++t) {
      const size_t row = (tile + t) * kUnitRows;
      for (size_t p = 0; p < slab.panels; ++p) {
        if (sums[t][p].to != edges[t][p].sums[0]) continue;
        const size_t column = slab.column + p * kPanel;
        copy_lines(edges[t][p].sums[0], kPanel, std::min(kUnitRows, rows.rows - row),
                   std::min(kPanel, outputs - column), y + row * outputs + column, outputs);
      }
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

RBEE_MATRIX_UNIT void round_rows(const float* x, size_t inputs, size_t first, size_t last,
                                 const Bf16Rows& to) {
  for (size_t tile = first; tile < last; ++tile) {
    for (size_t r = 0; r < kUnitRows; ++r) {
      const size_t row = tile * kUnitRows + r;
      uint16_t* line = to.values + tile * to.steps * kTileNumbers + r * kStepInputs;
      for (size_t step = 0; step < to.steps; ++step, line += kTileNumbers) {
        const size_t at = step * kStepInputs;
        const size_t count = row < to.rows && at < inputs ? std::min(kStepInputs, inputs - at) : 0;
        const auto mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
        const float* from = count != 0 ? x + row * inputs + at : x;
        const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from);
        const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> kPanel),
                                                  from + (count > kPanel ? kPanel : 0));
        _mm512_storeu_si512(line, (__m512i)_mm512_cvtne2ps_pbh(high, low));
      }
    }
  }
}

RBEE_MATRIX_UNIT void multiply_bf16(const PackedWeights& weights, const Bf16Rows& rows,
                                    const Bf16Part& part, const float* bias, float* y) {
  const WeightsShape& shape = weights.shape();
  const size_t block_bytes = weights.panel_bytes() / shape.blocks();
  const RoundPanel round =
      shape.bits == 4 ? round_panel_of<4>(weights) : round_panel_of<8>(weights);
  const size_t slab_blocks = std::min(shape.blocks(), kMostInputs / shape.block);
  const size_t weights_stride =
      (slab_blocks * shape.block + kStepInputs - 1) / kStepInputs * kTileNumbers;
  thread_local std::vector<Line> memory;
  memory.resize(std::max(memory.size(), 2 * weights_stride / kStepInputs));
  uint16_t* rounded = memory.data()->numbers;

  const MatrixUnit unit;
  for (size_t block = 0; block < shape.blocks(); block += slab_blocks) {
    const size_t blocks = std::min(slab_blocks, shape.blocks() - block);
    const size_t steps = (blocks * shape.block + kStepInputs - 1) / kStepInputs;
    for (size_t pair = part.first_pair; pair < part.last_pair; ++pair) {
      const size_t panel = 2 * pair;
      const size_t panels = std::min<size_t>(2, shape.panels() - panel);
      for (size_t p = 0; p < panels; ++p) {
        uint16_t* to = rounded + p * weights_stride;
        round(weights.panel(panel + p) + block * block_bytes, blocks, shape.block, to);
        // Half a tile may be left.
        std::fill(to + blocks * shape.block * kPanel, to + steps * kTileNumbers, uint16_t{0});
      }
      const size_t column = panel * kPanel;
      alignas(kUnitBytes) float start[2 * kPanel] = {};
      if (bias != nullptr) {
        std::copy_n(bias + column, std::min(2 * kPanel, shape.outputs - column), start);
      }
      const size_t bytes = 2 * blocks * block_bytes;
      const size_t all_steps = steps * ((part.last_tile - part.first_tile + 1) / 2);
      const Coming coming{weights.panel(panel) + 2 * weights.panel_bytes(),
                          bytes / kUnitBytes / all_steps + 1};
      multiply_slab({rounded, weights_stride, block * shape.block / kStepInputs, steps, column,
                     panels, block == 0 ? start : nullptr},
                    rows, part.first_tile, part.last_tile, shape.outputs, y, coming);
    }
  }
}

}  // namespace rbee::avx512
