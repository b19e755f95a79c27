#include "multiply.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace rbee {
namespace {

// Rounded activations that stay in a core's second-level cache while weights pass.
constexpr size_t kRowsInCache = 384 << 10;

__m512i broadcast_four(const int8_t* values) {
  int32_t word;
  std::memcpy(&word, values, sizeof word);
  return _mm512_set1_epi32(word);
}

struct Output {
  float* y;
  size_t stride;
  __m512 bias;
  __mmask16 lanes;
};

// One panel times one tile. Sums of four products of bytes are exact in 32 bits; each block's are
// then weighed by both scales. `Block` 0 means that the block's size is known at run time only.
template <size_t Rows, size_t Bits, size_t Block, bool HalfScales, bool Offsets>
void multiply_tile(const uint8_t* panel, const QuantisedRows& rows, size_t first,
                   const Output& output) {
  const size_t block_size = Block != 0 ? Block : rows.block;
  const int8_t* values = rows.values + first * rows.padded();
  const float* scales = rows.scales + first * rows.blocks;
  const float* sums = rows.sums + first * rows.blocks;
  const int32_t* totals = rows.totals + first * rows.blocks;
  const __m512i low = _mm512_set1_epi8(0xf);

  __m512 y[Rows];
  for (size_t r = 0; r < Rows; ++r) y[r] = output.bias;

  for (size_t b = 0; b < rows.blocks; ++b) {
    __m512 scale;
    if constexpr (HalfScales) {
      scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel)));
      panel += kLanes * sizeof(uint16_t);
    } else {
      scale = _mm512_loadu_ps(panel);
      panel += kLanes * sizeof(float);
    }
    if constexpr (Offsets) {
      const __m512 offset = _mm512_loadu_ps(panel);
      panel += kLanes * sizeof(float);
      for (size_t r = 0; r < Rows; ++r) {
        y[r] = _mm512_fmadd_ps(offset, _mm512_set1_ps(sums[r]), y[r]);
      }
    }
    // The integers of weights are not negative, as the instruction wants: what they are too large
    // by is the same for a whole block of activations.
    __m512i acc[Rows];
    for (size_t r = 0; r < Rows; ++r) {
      acc[r] = _mm512_set1_epi32(-(1 << (Bits - 1)) * totals[r]);
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < block_size; i += Bits == 4 ? 8 : 4) {
      const __m512i line = _mm512_loadu_si512(panel);
      panel += sizeof line;
      if constexpr (Bits == 4) {
        const __m512i even = _mm512_and_si512(line, low);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(line, 4), low);
        for (size_t r = 0; r < Rows; ++r) {
          acc[r] = _mm512_dpbusd_epi32(acc[r], even, broadcast_four(values + r * block_size + i));
        }
        for (size_t r = 0; r < Rows; ++r) {
          acc[r] =
              _mm512_dpbusd_epi32(acc[r], odd, broadcast_four(values + r * block_size + i + 4));
        }
      } else {
        for (size_t r = 0; r < Rows; ++r) {
          acc[r] = _mm512_dpbusd_epi32(acc[r], line, broadcast_four(values + r * block_size + i));
        }
      }
    }
    for (size_t r = 0; r < Rows; ++r) {
      const __m512 weighed = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[r]), scale);
      y[r] = _mm512_fmadd_ps(weighed, _mm512_set1_ps(scales[r]), y[r]);
    }
    values += Rows * block_size;
    scales += Rows;
    sums += Rows;
    totals += Rows;
  }
  for (size_t r = 0; r < Rows; ++r) {
    _mm512_mask_storeu_ps(output.y + r * output.stride, output.lanes, y[r]);
  }
}

using Multiply = void (*)(const uint8_t*, const QuantisedRows&, size_t, const Output&);
using ByRows = std::array<Multiply, kTile>;

template <size_t Bits, size_t Block, bool HalfScales, bool Offsets, size_t... Row>
constexpr ByRows by_rows(std::index_sequence<Row...>) {
  return {multiply_tile<Row + 1, Bits, Block, HalfScales, Offsets>...};
}

template <size_t Bits, size_t Block, bool HalfScales, bool Offsets>
const ByRows& rows_table() {
  static constexpr ByRows table =
      by_rows<Bits, Block, HalfScales, Offsets>(std::make_index_sequence<kTile>());
  return table;
}

template <size_t Bits, size_t Block>
const ByRows& scales_table(const PackedWeights& weights) {
  if (weights.half_scales()) {
    return weights.has_offsets() ? rows_table<Bits, Block, true, true>()
                                 : rows_table<Bits, Block, true, false>();
  }
  return weights.has_offsets() ? rows_table<Bits, Block, false, true>()
                               : rows_table<Bits, Block, false, false>();
}

const ByRows& table(const PackedWeights& weights) {
  const bool common = weights.shape().block == 32;
  if (weights.shape().bits == 4) {
    return common ? scales_table<4, 32>(weights) : scales_table<4, 0>(weights);
  }
  return common ? scales_table<8, 32>(weights) : scales_table<8, 0>(weights);
}

}  // namespace

void quantise(const float* x, size_t inputs, Tile tile, bool sums, const QuantisedRows& to) {
  int8_t* values = to.values + tile.first * to.padded();
  size_t at = tile.first * to.blocks;
  for (size_t b = 0; b < to.blocks; ++b) {
    for (size_t r = 0; r < tile.rows; ++r, ++at, values += to.block) {
      const float* from = x + (tile.first + r) * inputs + b * to.block;
      const size_t count = std::min(to.block, inputs - b * to.block);
      const auto lanes = [&](size_t i) -> __mmask16 {
        return i + kLanes <= count ? 0xffff : i < count ? (1u << (count - i)) - 1 : 0;
      };
      __m512 largest = _mm512_setzero_ps();
      __m512 sum = _mm512_setzero_ps();
      for (size_t i = 0; i < to.block; i += kLanes) {
        const __m512 part = _mm512_maskz_loadu_ps(lanes(i), from + i);
        largest = _mm512_max_ps(largest, _mm512_abs_ps(part));
        sum = _mm512_add_ps(sum, part);
      }
      const float scale = _mm512_reduce_max_ps(largest) / 127.0f;
      const __m512 inverse = _mm512_set1_ps(scale > 0.0f ? 1.0f / scale : 0.0f);
      __m512i total = _mm512_setzero_si512();
      for (size_t i = 0; i < to.block; i += kLanes) {
        const __m512 part = _mm512_maskz_loadu_ps(lanes(i), from + i);
        const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(part, inverse));
        total = _mm512_add_epi32(total, rounded);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(values + i), _mm512_cvtsepi32_epi8(rounded));
      }
      to.scales[at] = scale;
      if (sums) to.sums[at] = _mm512_reduce_add_ps(sum);
      to.totals[at] = _mm512_reduce_add_epi32(total);
    }
  }
}

void multiply(const PackedWeights& weights, const QuantisedRows& rows, const Tiles& tiles,
              size_t first, size_t last, const float* bias, float* y) {
  const ByRows& by_rows = table(weights);
  const size_t outputs = weights.shape().outputs;
  const size_t together = std::max<size_t>(1, kRowsInCache / (kTile * rows.padded()));
  for (size_t from = 0; from < tiles.count(); from += together) {
    const size_t to = std::min(tiles.count(), from + together);
    for (size_t panel = first; panel < last; ++panel) {
      const size_t column = panel * kLanes;
      const size_t lanes = std::min(kLanes, outputs - column);
      const auto mask = static_cast<__mmask16>((1u << lanes) - 1);
      const __m512 start =
          bias != nullptr ? _mm512_maskz_loadu_ps(mask, bias + column) : _mm512_setzero_ps();
      for (size_t index = from; index < to; ++index) {
        const Tile tile = tiles[index];
        const Output output{y + tile.first * outputs + column, outputs, start, mask};
        by_rows[tile.rows - 1](weights.panel(panel), rows, tile.first, output);
      }
    }
  }
}

QuantisedRows QuantisedRows::in(void* memory, size_t rows, size_t blocks, size_t block) {
  QuantisedRows laid{blocks, block, nullptr, nullptr, nullptr, nullptr};
  auto* bytes = static_cast<int8_t*>(memory);
  laid.values = bytes;
  laid.scales = reinterpret_cast<float*>(bytes + rows * blocks * block);
  laid.sums = laid.scales + rows * blocks;
  laid.totals = reinterpret_cast<int32_t*>(laid.sums + rows * blocks);
  return laid;
}

}  // namespace rbee
