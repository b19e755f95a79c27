// Products with a cache of 8 bits for many queries, tile by tile.
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "byte_scores.h"
#include "byte_values.h"

namespace rbee::RBEE_VARIANT {

// Scores of a tile of queries with keys from a position on, sixteens of them: rows of 64.
template <size_t Rows>
void score_bytes(const ByteQueries& queries, const HeadCache<Byte>& cache, size_t start,
                 size_t keys, float* scores) {
  for (size_t j = 0; j < keys; j += kLanes) {
    score_sixteen<Rows>(queries, cache.keys, cache.size, start + j, scores + j, kKeys);
  }
}

// Adds weighed values, of whole panels from a position on, to what a tile of queries has, which is
// multiplied by factors first.
template <size_t Rows>
void add_bytes(const Query* queries, const float* weights, const float* factors,
               const HeadCache<Byte>& cache, size_t start, size_t count) {
  constexpr size_t kLines = kRegisters == 32 ? kBytePart / kLanes : 1;
  for (size_t p = 0; p < cache.size / kBytePart; ++p) {
    for (size_t j = 0; j < count; j += kBytePositions) {
      const BytePart part = BytePart::of(cache.values, cache.size, start + j, p);
      alignas(64) uint8_t integers[Rows * kBytePositions];
      float steps[Rows];
      for (size_t r = 0; r < Rows; ++r) {
        steps[r] = round_weights(weights + r * kKeys + j, part.scales(),
                                 integers + r * kBytePositions);
      }
      for (size_t i = 0; i < kBytePart; i += kLines * kLanes) {
        Integers sums[Rows][kLines];
        sum_panel(integers, part.values() + i * 4, sums);
        for (size_t r = 0; r < Rows; ++r) {
          float* y = queries[r].y + p * kBytePart + i;
          const Floats before = repeat(j == 0 ? factors[r] : 1.0f);
          for (size_t l = 0; l < kLines; ++l) {
            store(y + l * kLanes, multiply_add(as_floats(sums[r][l]), repeat(steps[r]),
                                               times(load(y + l * kLanes), before)));
          }
        }
      }
    }
  }
}

using ScoreBytes = void (*)(const ByteQueries&, const HeadCache<Byte>&, size_t, size_t, float*);
using AddBytes = void (*)(const Query*, const float*, const float*, const HeadCache<Byte>&, size_t,
                          size_t);

template <size_t... Rows>
constexpr std::array<ScoreBytes, sizeof...(Rows)> score_bytes_by_rows(
    std::index_sequence<Rows...>) {
  return {score_bytes<Rows + 1>...};
}

template <size_t... Rows>
constexpr std::array<AddBytes, sizeof...(Rows)> add_bytes_by_rows(std::index_sequence<Rows...>) {
  return {add_bytes<Rows + 1>...};
}

template <size_t Most>
constexpr auto kScoreBytes = score_bytes_by_rows(std::make_index_sequence<Most>());
template <size_t Most>
constexpr auto kAddBytes = add_bytes_by_rows(std::make_index_sequence<Most>());

// Products of queries with keys of a cache of 8 bits, and of weights with its values, 64 positions at
// a time, for tiles of up to so many queries. These and weights are rounded.
template <size_t TileRows>
class ByteProducts {
 public:
  // Positions whose scores there are to be at least, absent ones among them.
  static constexpr size_t kTogether = kBytePositions;

  // `room` is for 2 * size * 64 numbers.
  ByteProducts(const Query* queries, size_t count, const HeadCache<Byte>& cache, float* room)
      : queries_(queries), cache_(cache) {
    static_assert(kGroup * (1 + 2 * sizeof(float) / kBytePart) <= 2 * kKeys * sizeof(float));
    const size_t parts = kGroup * (cache.size / kBytePart);
    rounded_ = {reinterpret_cast<int8_t*>(room + 2 * parts), room,
                reinterpret_cast<int32_t*>(room + parts)};
    for (size_t tile = 0; tile < count; tile += TileRows) {
      const size_t rows = std::min(TileRows, count - tile);
      for (size_t r = 0; r < rows; ++r) {
        round_query(queries[tile + r].values, cache.size, r, rows,
                    rounded_.from(tile, cache.size));
      }
    }
  }
  void take(size_t start, size_t) { start_ = start; }
  void score(size_t first, size_t rows, size_t columns, float* scores) const {
    kScoreBytes<TileRows>[rows - 1](rounded_.from(first, cache_.size), cache_, start_, columns, scores);
  }
  void add(size_t first, size_t rows, size_t columns, const float* weights,
           const float* factors) const {
    kAddBytes<TileRows>[rows - 1](queries_ + first, weights, factors, cache_, start_, columns);
  }

 private:
  const Query* queries_;
  const HeadCache<Byte>& cache_;
  ByteQueries rounded_;
  size_t start_ = 0;
};

}  // namespace rbee::RBEE_VARIANT
