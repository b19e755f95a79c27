#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <utility>

#include "attention.h"
#include "byte_products.h"
#include "softmax.h"
#include "transpose.h"

namespace rbee::RBEE_VARIANT {
namespace {

// Rows of a register tile of queries, and sixteens of columns.
constexpr size_t kTileRows = 6;
constexpr size_t kTileLines = kRegisters / 8;

// Scores of up to six queries with transposed keys, up to 64 and a multiple of sixteen `Lines`: rows
// of 64.
template <size_t Rows, size_t Lines>
void score_lines(const Query* queries, const float* keys_by_element, size_t size, size_t keys,
                 float* scores) {
  for (size_t start = 0; start < keys; start += Lines * kLanes) {
    Floats sums[Rows][Lines];
    for (auto& row : sums) {
      for (Floats& sum : row) sum = zeros();
    }
    const float* from = keys_by_element + start;
    for (size_t i = 0; i < size; ++i, from += kKeys) {
      Floats parts[Lines];
      for (size_t l = 0; l < Lines; ++l) parts[l] = load(from + l * kLanes);
      for (size_t r = 0; r < Rows; ++r) {
        const Floats query = repeat(queries[r].values[i]);
        for (size_t l = 0; l < Lines; ++l) {
          sums[r][l] = multiply_add(query, parts[l], sums[r][l]);
        }
      }
    }
    for (size_t r = 0; r < Rows; ++r) {
      for (size_t l = 0; l < Lines; ++l) {
        store(scores + r * kKeys + start + l * kLanes, sums[r][l]);
      }
    }
  }
}

template <size_t Rows>
void score_tile(const Query* queries, const float* keys_by_element, size_t size, size_t keys,
                float* scores) {
  if (keys % (kTileLines * kLanes) == 0) {
    score_lines<Rows, kTileLines>(queries, keys_by_element, size, keys, scores);
  } else {
    score_lines<Rows, 1>(queries, keys_by_element, size, keys, scores);
  }
}

// Adds weighed values to what up to six queries have, which is scaled first.
template <size_t Rows>
void add_tile(const Query* queries, const float* weights, const float* factors,
              const float* values, size_t count, size_t size) {
  over_lines<kTileLines>(size, [&]<typename Lanes, size_t kLines>(
                                   size_t start, std::array<Lanes, kLines> lanes) {
    Floats sums[Rows][kLines];
    for (size_t l = 0; l < kLines; ++l) {
      for (size_t r = 0; r < Rows; ++r) {
        const Floats before = load(queries[r].y + start + l * kLanes, lanes[l]);
        sums[r][l] = times(before, repeat(factors[r]));
      }
    }
    for (size_t j = 0; j < count; ++j) {
      const float* value = values + j * size + start;
      Floats parts[kLines];
      for (size_t l = 0; l < kLines; ++l) parts[l] = load(value + l * kLanes, lanes[l]);
      for (size_t r = 0; r < Rows; ++r) {
        const Floats weight = repeat(weights[r * kKeys + j]);
        for (size_t l = 0; l < kLines; ++l) {
          sums[r][l] = multiply_add(weight, parts[l], sums[r][l]);
        }
      }
    }
    for (size_t r = 0; r < Rows; ++r) {
      for (size_t l = 0; l < kLines; ++l) {
        store(queries[r].y + start + l * kLanes, sums[r][l], lanes[l]);
      }
    }
  });
}

// Up to 64 keys by element: to[size, 64], sixteens of keys, the absent ones of them as zeros.
template <typename Element>
void transpose_keys(const Element* keys, size_t count, size_t size, float* to) {
  for (size_t j = 0; j < count; j += kLanes) {
    const size_t rows = std::min(kLanes, count - j);
    for (size_t i = 0; i < size; i += kLanes) {
      const size_t columns = std::min(kLanes, size - i);
      transpose(keys + j * size + i, rows, size, columns, to + i * kKeys + j, kKeys);
    }
  }
}

// Values in float: where they are, or in a room for them.
const float* in_float(const float* values, size_t, float*) { return values; }
const float* in_float(const Half* values, size_t count, float* room) {
  over(count, [&](size_t i, auto lanes) { store(room + i, load(values + i, lanes), lanes); });
  return room;
}

using ScoreTile = void (*)(const Query*, const float*, size_t, size_t, float*);
using AddTile = void (*)(const Query*, const float*, const float*, const float*, size_t, size_t);
template <size_t... Rows>
constexpr std::array<ScoreTile, kTileRows> score_by_rows(std::index_sequence<Rows...>) {
  return {score_tile<Rows + 1>...};
}

template <size_t... Rows>
constexpr std::array<AddTile, kTileRows> add_by_rows(std::index_sequence<Rows...>) {
  return {add_tile<Rows + 1>...};
}

constexpr auto kScoreTile = score_by_rows(std::make_index_sequence<kTileRows>());
constexpr auto kAddTile = add_by_rows(std::make_index_sequence<kTileRows>());

// Products of queries with keys of a cache, and of weights with its values, 64 positions at a time.
// Keys are transposed for that, and all values in float.
template <typename Element>
class Products {
 public:
  // Positions whose scores there are to be at least, absent ones among them.
  static constexpr size_t kTogether = kLanes;

  // `room` is for 2 * size * 64 numbers.
  Products(const Query* queries, size_t, const HeadCache<Element>& cache, float* room)
      : queries_(queries), cache_(cache), keys_by_element_(room) {}
  void take(size_t start, size_t count) {
    const size_t size = cache_.size;
    transpose_keys(cache_.keys + start * size, count, size, keys_by_element_);
    float* room = keys_by_element_ + size * kKeys;
    values_ = in_float(cache_.values + start * size, count * size, room);
    count_ = count;
  }
  // Of queries from one on, which a tile begins with: rows of 64.
  void score(size_t first, size_t rows, size_t columns, float* scores) const {
    kScoreTile[rows - 1](queries_ + first, keys_by_element_, cache_.size, columns, scores);
  }
  void add(size_t first, size_t rows, size_t, const float* weights, const float* factors) const {
    kAddTile[rows - 1](queries_ + first, weights, factors, values_, count_, cache_.size);
  }

 private:
  const Query* queries_;
  const HeadCache<Element>& cache_;
  float* keys_by_element_;
  const float* values_ = nullptr;
  size_t count_ = 0;
};

template <typename Element>
using ProductsOf = std::conditional_t<std::is_same_v<Element, Byte>, ByteProducts<kTileRows>,
                                      Products<Element>>;

// Adds to the scores of a query, a multiple of sixteen, what is said of their distances.
void add_bias(float* scores, size_t count, const float* bias) {
  for (size_t j = 0; j < count; j += kLanes) {
    store(scores + j, add(load(scores + j), load(bias + j)));
  }
}

// Hides what a query does not see of keys that start at a position.
void hide(float* scores, size_t start, size_t count, Range seen) {
  for (size_t j = 0; j < count; ++j) {
    if (start + j < seen.first || start + j >= seen.last) scores[j] = kNothing;
  }
}

}  // namespace

template <typename Element>
void attend_many(const Query* queries, size_t count, const HeadCache<Element>& cache,
                 const Scoring& scoring, float* room) {
  const size_t size = cache.size;
  ProductsOf<Element> products(queries, count, cache, room);
  constexpr size_t kTogether = ProductsOf<Element>::kTogether;
  alignas(64) float scores[kTileRows * kKeys];
  float most[kGroup], totals[kGroup], factors[kTileRows];
  for (size_t q = 0; q < count; ++q) {
    most[q] = std::max(kLowest, queries[q].sink);
    totals[q] = std::exp(queries[q].sink - most[q]);
    std::fill(queries[q].y, queries[q].y + size, 0.0f);
  }
  const size_t last = seen_from(queries[count - 1].position, scoring).last;
  const size_t first = seen_from(queries[0].position, scoring).first;
  for (size_t start = first / kKeys * kKeys; start < last; start += kKeys) {
    const size_t keys = std::min(kKeys, last - start);
    const size_t columns = (keys + kTogether - 1) / kTogether * kTogether;
    products.take(start, keys);
    for (size_t tile = 0; tile < count; tile += kTileRows) {
      const size_t rows = std::min(kTileRows, count - tile);
      const Query* own = queries + tile;
      if (seen_from(own[rows - 1].position, scoring).last <= start) continue;
      if (seen_from(own[0].position, scoring).first >= start + kKeys) continue;
      products.score(tile, rows, columns, scores);
      for (size_t r = 0; r < rows; ++r) {
        float* row = scores + r * kKeys;
        const Range seen = seen_from(own[r].position, scoring);
        if (scoring.bias != nullptr) add_bias(row, columns, scoring.bias + start - own[r].position);
        float found = cap_and_find_largest(row, columns, scoring.cap);
        if (seen.first > start || seen.last < start + columns) {
          hide(row, start, columns, seen);
          found = cap_and_find_largest(row, columns, 0);
        }
        const float now = std::max(most[tile + r], found);
        factors[r] = std::exp(most[tile + r] - now);
        totals[tile + r] = std::fma(totals[tile + r], factors[r], weigh(row, columns, now));
        most[tile + r] = now;
      }
      products.add(tile, rows, columns, scores, factors);
    }
  }
  for (size_t q = 0; q < count; ++q) divide_by(totals[q], queries[q].y, size);
}

template void attend_many(const Query*, size_t, const HeadCache<float>&, const Scoring&, float*);
template void attend_many(const Query*, size_t, const HeadCache<Half>&, const Scoring&, float*);
template void attend_many(const Query*, size_t, const HeadCache<Byte>&, const Scoring&, float*);

}  // namespace rbee::RBEE_VARIANT
