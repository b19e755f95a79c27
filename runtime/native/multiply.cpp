#include "multiply.h"

#include <algorithm>

#include "tile_products.h"

namespace rbee::RBEE_VARIANT {
namespace {

// Rounded activations that stay in a core's second-level cache while weights pass, and rows whose
// outputs of two panels do so, too.
constexpr size_t kRowsInCache = 384 << 10;
constexpr size_t kMostRows = 256;

// Whether weights are unpacked for so many rows.
bool unpacks(const Panels& weights, size_t rows) {
  const size_t few = weights.form() == Form::kSixes ? kFewOfSixes : kFewRows;
  return rows > few && table(weights).unpack != nullptr;
}

// Calls `finish(panel, count, tile, sums)` with the outputs of every one or two panels of [first, last)
// and every tile of rows, float[count][rows][16], as many rows at a time as a core's cache holds.
template <typename Finish>
void multiply_all(const Panels& weights, const QuantisedRows& rows, const Tiles& tiles,
                  size_t first, size_t last, const float* bias, const Finish& finish) {
  const ByRows& kernels = table(weights);
  const UnpackedByRows& by_rows = unpacked_table(weights);
  const Tile last_tile = tiles[tiles.count() - 1];
  const bool unpacked_first = unpacks(weights, last_tile.first + last_tile.rows);
  const size_t most = unpacked_first ? kRowsAtOnce : kTile;
  const size_t together =
      std::clamp<size_t>(kRowsInCache / (most * rows.padded()), 1, kMostRows / most);
  const size_t piece = UnpackedPanels::kInputs / rows.block;
  const size_t outputs = weights.shape().outputs;
  alignas(64) float sums[2 * kMostRows * kLanes];
  UnpackedPanels unpacked;
  const auto bias_of = [&](size_t panel) {
    const size_t column = panel * kLanes;
    return bias != nullptr ? load(bias + column, First(std::min(kLanes, outputs - column)))
                           : zeros();
  };
  for (size_t from = 0; from < tiles.count(); from += together) {
    const size_t to = std::min(tiles.count(), from + together);
    const auto sums_of = [&](Tile tile) {
      return sums + (tile.first - tiles[from].first) * 2 * kLanes;
    };
    for (size_t panel = first; panel < last; panel += 2) {
      const size_t count = std::min<size_t>(2, last - panel);
      const Floats start[2] = {bias_of(panel), bias_of(panel + count - 1)};
      const auto begin = [&](Tile tile) {
        float* y = sums_of(tile);
        for (size_t p = 0; p < 2; ++p) {
          for (size_t r = 0; r < tile.rows; ++r, y += kLanes) store(y, start[p]);
        }
      };
      if (!unpacked_first) {
        for (size_t t = from; t < to; ++t) {
          const Tile tile = tiles[t];
          begin(tile);
          for (size_t p = 0; p < count; ++p) {
            kernels.multiply[tile.rows - 1](weights, panel + p, rows, tile.first,
                                            sums_of(tile) + p * tile.rows * kLanes);
          }
          finish(panel, count, tile, sums_of(tile));
        }
        continue;
      }
      for (size_t p = 0; p < count; p += kPanelsAtOnce) {
        for (size_t block = 0; block < rows.blocks; block += piece) {
          const size_t end = std::min(rows.blocks, block + piece);
          for (size_t i = 0; i < kPanelsAtOnce; ++i) {
            // A second that is not there is the first again.
            kernels.unpack(weights, std::min(panel + p + i, last - 1), block, end, i, unpacked);
          }
          for (size_t t = from; t < to; ++t) {
            const Tile tile = tiles[t];
            if (block == 0 && p == 0) begin(tile);
            by_rows[tile.rows - kLeastRows](unpacked, rows, tile.first, block, end,
                                            sums_of(tile) + p * tile.rows * kLanes);
            if (end == rows.blocks && p + kPanelsAtOnce >= count) {
              finish(panel, count, tile, sums_of(tile));
            }
          }
        }
      }
    }
  }
}

}  // namespace

Tiles tiles_of(const Panels& weights, size_t rows) {
  return Tiles(rows, unpacks(weights, rows) ? kRowsAtOnce : kTile);
}

void quantise(const FloatRows& x, Tile tile, const Panels& weights, const QuantisedRows& to) {
  const int32_t middle = middle_of(weights.form());
  const int32_t begin = weights.held() == Held::kFloats ? 0 : kShiftBits;
  const float* row[kTile];
  for (size_t r = 0; r < tile.rows; ++r) row[r] = x[tile.first + r];
  int8_t* values = to.values + tile.first * to.padded();
  size_t at = tile.first * to.blocks;
  for (size_t b = 0; b < to.blocks; ++b) {
    for (size_t r = 0; r < tile.rows; ++r, ++at, values += to.block) {
      const float* from = row[r] + b * to.block;
      const size_t count = std::min(to.block, x.width - b * to.block);
      Floats most = zeros();
      Floats total = zeros();
      over(count, [&](size_t i, auto lanes) {
        const Floats part = load(from + i, lanes);
        most = greater(most, magnitude(part));
        total = add(total, part);
      });
      const float scale = largest(most) / 127.0f;
      const Floats inverse = repeat(scale > 0.0f ? 1.0f / scale : 0.0f);
      Integers rounded_total = repeat(0);
      over(count, [&](size_t i, auto lanes) {
        const Integers part = rounded(times(load(from + i, lanes), inverse));
        rounded_total = add(rounded_total, part);
        store_bytes(values + i, part);
      });
      for (size_t i = (count + kLanes - 1) / kLanes * kLanes; i < to.block; ++i) values[i] = 0;
      to.scales[at] = scale;
      if (weights.has_offsets()) to.sums[at] = sum(total);
      to.starts[at] = begin - middle * sum(rounded_total);
    }
  }
}

void multiply(const Panels& weights, const QuantisedRows& rows, const Tiles& tiles,
              size_t first, size_t last, const float* bias, float* y) {
  const size_t outputs = weights.shape().outputs;
  multiply_all(weights, rows, tiles, first, last, bias,
               [&](size_t panel, size_t count, Tile tile, const float* sums) {
    for (size_t p = 0; p < count; ++p) {
      const size_t column = (panel + p) * kLanes;
      const size_t there = std::min(kLanes, outputs - column);
      for (size_t r = 0; r < tile.rows; ++r, sums += kLanes) {
        float* to = y + (tile.first + r) * outputs + column;
        if (there == kLanes) {
          store(to, load(sums));
        } else {
          store(to, load(sums), First(there));
        }
      }
    }
  });
}

void multiply_pairs(const Panels& weights, const QuantisedRows& rows, const Tiles& tiles,
                    size_t first, size_t last, const float* bias, const Epilogue& epilogue,
                    float* y) {
  const size_t left = epilogue.panels();
  const size_t width = weights.shape().outputs * left / 2;
  multiply_all(weights, rows, tiles, 2 * first, 2 * last, bias,
               [&](size_t panel, size_t, Tile tile, float* sums) {
    const size_t count = tile.rows * kLanes;
    if (epilogue.gate != nullptr) epilogue.gate(sums, sums + count, count, sums);
    if (epilogue.activation != nullptr) epilogue.activation(sums, left * count, sums);
    for (size_t p = 0; p < left; ++p) {
      float* column = y + tile.first * width + (panel / 2 * left + p) * kLanes;
      for (size_t r = 0; r < tile.rows; ++r, sums += kLanes) {
        store(column + r * width, load(sums));
      }
    }
  });
}

void multiply_and_add(const Panels& weights, const QuantisedRows& rows, const Tiles& tiles,
                      size_t first, size_t last, const WeighedRows& to) {
  multiply_all(weights, rows, tiles, first, last, nullptr,
               [&](size_t panel, size_t count, Tile tile, const float* sums) {
    for (size_t p = 0; p < count; ++p) {
      for (size_t r = 0; r < tile.rows; ++r, sums += kLanes) {
        float* y = to[tile.first + r] + (panel + p) * kLanes;
        const Floats weight = repeat(to.weights[tile.first + r]);
        store(y, multiply_add(weight, load(sums), load(y)));
      }
    }
  });
}

}  // namespace rbee::RBEE_VARIANT
