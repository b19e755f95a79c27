#include "multiply.h"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "dot_products.h"
#include "fetch.h"

namespace rbee::RBEE_VARIANT {
namespace {

// Rounded activations that stay in a core's second-level cache while weights pass.
constexpr size_t kRowsInCache = 384 << 10;
// Bytes between the weights at work and those that are fetched into the core's first cache, and into
// its second before: the first waits for few lines at a time, too few for how long memory takes.
constexpr size_t kAhead = 3072;
constexpr size_t kFarAhead = 8192;

struct Output {
  float* y;
  size_t stride;
  Floats bias;
  size_t count;  // of outputs, up to sixteen
  bool fetches;  // the panel is read from memory now, not from a cache
};

// Sixteen numbers from memory, and on to what is behind them.
template <typename Number>
RBEE_INLINED Floats take(const uint8_t*& from) {
  const Floats numbers = load(reinterpret_cast<const Number*>(from));
  from += kLanes * sizeof(Number);
  return numbers;
}

RBEE_INLINED void fetch_ahead(const uint8_t* of, size_t bytes) {
  fetch_into_second(of + kFarAhead, bytes);
  fetch(of + kAhead, bytes);
}

// One panel times one tile: each block's sums are weighed by both scales. `Block` 0 means that the
// block's size is known at run time only.
template <size_t Rows, Form kForm, size_t Block, Held How, bool Offsets>
void multiply_tile(const Panels& weights, size_t index, const QuantisedRows& rows, size_t first,
                   const Output& output) {
  const size_t block_size = Block != 0 ? Block : rows.block;
  const int8_t* values = rows.values + first * rows.padded();
  const float* scales = rows.scales + first * rows.blocks;
  const float* sums = rows.sums + first * rows.blocks;
  const int32_t* starts = rows.starts + first * rows.blocks;
  // A constant, where the block is: what is fetched for each is written out.
  const size_t block_bytes =
      kLanes * (block_size * bits_of(kForm) / 8 + bytes_of_a_number(How) * (Offsets ? 2 : 1));
  const uint8_t* head = weights.panel(index);
  const uint8_t* panel = head + weights.head_bytes();
  if (How == Held::kProducts && output.fetches) fetch_ahead(head, weights.head_bytes());

  Floats y[Rows];
  for (size_t r = 0; r < Rows; ++r) y[r] = output.bias;

  [[maybe_unused]] const Floats middle = repeat(weights.middle());
  Integers integers = repeat(0);
  if constexpr (kForm == Form::kNumbers) integers = load_table(weights.table().integers.data());
  [[maybe_unused]] Floats factor, minimum_factor;
  for (size_t b = 0; b < rows.blocks; ++b) {
    if (output.fetches) fetch_ahead(panel, block_bytes);
    Floats scale;
    [[maybe_unused]] Floats offset;  // or minimum
    if constexpr (How == Held::kProducts) {
      if (b % (kGroupInputs / block_size) == 0) {
        factor = take<Half>(head);
        if constexpr (Offsets) minimum_factor = take<Half>(head);
      }
      scale = times(factor, take<int8_t>(panel));
      if constexpr (Offsets) offset = times(minimum_factor, take<int8_t>(panel));
    } else {
      using Short = std::conditional_t<How == Held::kHalves, Half, Power>;
      using Number = std::conditional_t<How == Held::kFloats, float, Short>;
      scale = take<Number>(panel);
      if constexpr (Offsets) offset = take<Number>(panel);
    }
    if constexpr (Offsets) {
      if constexpr (How != Held::kFloats) offset = multiply_add(middle, scale, offset);
      for (size_t r = 0; r < Rows; ++r) y[r] = multiply_add(offset, repeat(sums[r]), y[r]);
    }
    // The integers of weights are not negative, as the instructions want: what they are too large
    // by is the same for a whole block of activations.
    Integers acc[Rows];
    for (size_t r = 0; r < Rows; ++r) acc[r] = repeat(starts[r]);
    add_products<Rows, kForm>(panel, values, block_size, integers, acc);
    panel += kLanes * block_size * bits_of(kForm) / 8;
    for (size_t r = 0; r < Rows; ++r) {
      y[r] = multiply_add(times(as_floats(acc[r]), scale), repeat(scales[r]), y[r]);
    }
    values += Rows * block_size;
    scales += Rows;
    sums += Rows;
    starts += Rows;
  }
  for (size_t r = 0; r < Rows; ++r) {
    float* to = output.y + r * output.stride;
    if (output.count == kLanes) {
      store(to, y[r]);
    } else {
      store(to, y[r], First(output.count));
    }
  }
}

using Multiply = void (*)(const Panels&, size_t, const QuantisedRows&, size_t, const Output&);
using ByRows = std::array<Multiply, kTile>;

template <Form kForm, size_t Block, Held How, bool Offsets, size_t... Row>
constexpr ByRows by_rows(std::index_sequence<Row...>) {
  return {multiply_tile<Row + 1, kForm, Block, How, Offsets>...};
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

// Calls `multiply(index, tile, fetches)` for every tile of rows and every index of [first, last), as
// many rows at a time as a core's cache holds. Of an index, the first call fetches weights.
template <typename Multiply>
void for_tiles(const QuantisedRows& rows, const Tiles& tiles, size_t first, size_t last,
               const Multiply& multiply) {
  const size_t together = std::max<size_t>(1, kRowsInCache / (kTile * rows.padded()));
  for (size_t from = 0; from < tiles.count(); from += together) {
    const size_t to = std::min(tiles.count(), from + together);
    for (size_t index = first; index < last; ++index) {
      for (size_t tile = from; tile < to; ++tile) multiply(index, tiles[tile], tile == from);
    }
  }
}

}  // namespace

void quantise(const FloatRows& x, Tile tile, const Panels& weights, const QuantisedRows& to) {
  const int32_t middle = middle_of(weights.form());
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
      to.starts[at] = -middle * sum(rounded_total);
    }
  }
}

void multiply(const Panels& weights, const QuantisedRows& rows, const Tiles& tiles,
              size_t first, size_t last, const float* bias, float* y) {
  const ByRows& by_rows = table(weights);
  const size_t outputs = weights.shape().outputs;
  for_tiles(rows, tiles, first, last, [&](size_t panel, Tile tile, bool fetches) {
    const size_t column = panel * kLanes;
    const size_t count = std::min(kLanes, outputs - column);
    const Floats start = bias != nullptr ? load(bias + column, First(count)) : zeros();
    const Output output{y + tile.first * outputs + column, outputs, start, count,
                        fetches};
    by_rows[tile.rows - 1](weights, panel, rows, tile.first, output);
  });
}

void multiply_pairs(const Panels& weights, const QuantisedRows& rows, const Tiles& tiles,
                    size_t first, size_t last, const float* bias, const Epilogue& epilogue,
                    float* y) {
  const ByRows& by_rows = table(weights);
  const size_t left = epilogue.panels();
  const size_t width = weights.shape().outputs * left / 2;
  for_tiles(rows, tiles, first, last, [&](size_t pair, Tile tile, bool fetches) {
    alignas(64) float sums[2][kTile * kLanes];
    for (size_t half = 0; half < 2; ++half) {
      const size_t panel = 2 * pair + half;
      const Floats start = bias != nullptr ? load(bias + panel * kLanes) : zeros();
      by_rows[tile.rows - 1](weights, panel, rows, tile.first,
                             {sums[half], kLanes, start, kLanes, fetches});
    }
    const size_t count = tile.rows * kLanes;
    if (epilogue.gate != nullptr) epilogue.gate(sums[0], sums[1], count, sums[0]);
    for (size_t half = 0; half < left; ++half) {
      if (epilogue.activation != nullptr) epilogue.activation(sums[half], count, sums[half]);
      float* column = y + tile.first * width + (pair * left + half) * kLanes;
      for (size_t r = 0; r < tile.rows; ++r) {
        store(column + r * width, load(sums[half] + r * kLanes));
      }
    }
  });
}

void multiply_and_add(const Panels& weights, const QuantisedRows& rows, const Tiles& tiles,
                      size_t first, size_t last, const WeighedRows& to) {
  const ByRows& by_rows = table(weights);
  for_tiles(rows, tiles, first, last, [&](size_t panel, Tile tile, bool fetches) {
    alignas(64) float sums[kTile * kLanes];
    by_rows[tile.rows - 1](weights, panel, rows, tile.first,
                           {sums, kLanes, zeros(), kLanes, fetches});
    for (size_t r = 0; r < tile.rows; ++r) {
      float* y = to[tile.first + r] + panel * kLanes;
      const Floats weight = repeat(to.weights[tile.first + r]);
      store(y, multiply_add(weight, load(sums + r * kLanes), load(y)));
    }
  });
}

}  // namespace rbee::RBEE_VARIANT
