#include "attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "exponential.h"
#include "transpose.h"

namespace rbee::RBEE_VARIANT {
namespace {

// Rows of a register tile of a prompt's queries, and sixteens of columns.
constexpr size_t kTileRows = 6;
constexpr size_t kTileLines = kRegisters / 8;
// Queries of one token worked on together.
constexpr size_t kTogether = kRegisters == 32 ? 8 : 4;
// Below every score, and finite: what is masked is e**(-infinity) even where nothing was seen yet.
constexpr float kLowest = -1e30f;
constexpr float kNothing = -std::numeric_limits<float>::infinity();

// Turns scores into e**(score - largest), and returns their sum.
float weigh(float* scores, size_t count, float largest) {
  Floats total = zeros();
  over(count, [&](size_t i, auto lanes) {
    const Floats score = load(scores + i, lanes);
    const Floats weight =
        select(lanes, exponential(subtract(score, repeat(largest))), zeros());
    store(scores + i, weight, lanes);
    total = add(total, weight);
  });
  return sum(total);
}

float cap_and_find_largest(float* scores, size_t count, float cap) {
  Floats most = repeat(kLowest);
  over(count, [&](size_t i, auto lanes) {
    Floats score = load(scores + i, lanes);
    if (cap != 0) {
      score = capped(score, cap);
      store(scores + i, score, lanes);
    }
    most = select(lanes, greater(most, score), most);
  });
  return largest(most);
}

// Scores of `Queries` queries, a key read once for all of them.
template <size_t Queries>
void score_rows(const float* queries, const HeadCache& cache, Range range, float* scores) {
  const size_t size = cache.size;
  const size_t count = range.count();
  for (size_t j = 0; j < count; ++j) {
    const float* key = cache.keys + (range.first + j) * size;
    Floats sums[Queries];
    for (size_t q = 0; q < Queries; ++q) sums[q] = zeros();
    over(size, [&](size_t i, auto lanes) {
      const Floats part = load(key + i, lanes);
      for (size_t q = 0; q < Queries; ++q) {
        sums[q] = multiply_add(part, load(queries + q * size + i, lanes), sums[q]);
      }
    });
    for (size_t q = 0; q < Queries; ++q) scores[q * count + j] = sum(sums[q]);
  }
}

// Calls `body(start, lanes)` for runs of `Lines` sixteens, whose lanes are an array, and then for
// each sixteen that is left, and for the rest.
template <size_t Lines, typename Body>
void over_lines(size_t size, const Body& body) {
  size_t start = 0;
  for (; start + Lines * kLanes <= size; start += Lines * kLanes) {
    body(start, std::array<All, Lines>());
  }
  over(size - start, [&](size_t i, auto lanes) { body(start + i, std::array{lanes}); });
}

// Weighed sums of values for `Queries` queries, some registers of a value's elements at a time.
template <size_t Queries>
void sum_values(const float* weights, const HeadCache& cache, Range range, Partial* partials) {
  constexpr size_t kMost = kRegisters == 32 ? (Queries <= 4 ? 4 : 2) : (Queries <= 2 ? 2 : 1);
  const size_t count = range.count();
  over_lines<kMost>(cache.size, [&]<typename Lanes, size_t kLines>(
                                    size_t start, std::array<Lanes, kLines> lanes) {
    Floats sums[Queries][kLines];
    for (auto& row : sums) {
      for (Floats& sum : row) sum = zeros();
    }
    for (size_t j = 0; j < count; ++j) {
      const float* value = cache.values + (range.first + j) * cache.size + start;
      for (size_t l = 0; l < kLines; ++l) {
        const Floats part = load(value + l * kLanes, lanes[l]);
        for (size_t q = 0; q < Queries; ++q) {
          sums[q][l] = multiply_add(part, repeat(weights[q * count + j]), sums[q][l]);
        }
      }
    }
    for (size_t q = 0; q < Queries; ++q) {
      for (size_t l = 0; l < kLines; ++l) {
        store(partials[q].values + start + l * kLanes, sums[q][l], lanes[l]);
      }
    }
  });
}

template <size_t Queries>
void attend_to(const float* queries, const HeadCache& cache, Range range, const Scoring& scoring,
               float* scores, Partial* partials) {
  score_rows<Queries>(queries, cache, range, scores);
  for (size_t q = 0; q < Queries; ++q) {
    const size_t count = range.count();
    float* own = scores + q * count;
    partials[q].largest = cap_and_find_largest(own, count, scoring.cap);
    partials[q].total = weigh(own, count, partials[q].largest);
  }
  sum_values<Queries>(scores, cache, range, partials);
}

// Scores of up to six queries with 64 transposed keys: rows of 64.
template <size_t Rows>
void score_tile(const Query* queries, const float* keys_by_element, size_t size, float* scores) {
  for (size_t start = 0; start < kKeys; start += kTileLines * kLanes) {
    Floats sums[Rows][kTileLines];
    for (auto& row : sums) {
      for (Floats& sum : row) sum = zeros();
    }
    const float* from = keys_by_element + start;
    for (size_t i = 0; i < size; ++i, from += kKeys) {
      Floats keys[kTileLines];
      for (size_t l = 0; l < kTileLines; ++l) keys[l] = load(from + l * kLanes);
      for (size_t r = 0; r < Rows; ++r) {
        const Floats query = repeat(queries[r].values[i]);
        for (size_t l = 0; l < kTileLines; ++l) {
          sums[r][l] = multiply_add(query, keys[l], sums[r][l]);
        }
      }
    }
    for (size_t r = 0; r < Rows; ++r) {
      for (size_t l = 0; l < kTileLines; ++l) {
        store(scores + r * kKeys + start + l * kLanes, sums[r][l]);
      }
    }
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

// Up to 64 keys by element: to[size, 64], absent keys as zeros.
void transpose_keys(const float* keys, size_t count, size_t size, float* to) {
  for (size_t j = 0; j < kKeys; j += kLanes) {
    const size_t rows = j < count ? std::min(kLanes, count - j) : 0;
    for (size_t i = 0; i < size; i += kLanes) {
      const size_t columns = std::min(kLanes, size - i);
      transpose(keys + j * size + i, rows, size, columns, to + i * kKeys + j, kKeys);
    }
  }
}

using Attend = void (*)(const float*, const HeadCache&, Range, const Scoring&, float*, Partial*);
using ScoreTile = void (*)(const Query*, const float*, size_t, float*);
using AddTile = void (*)(const Query*, const float*, const float*, const float*, size_t, size_t);

template <size_t... Count>
constexpr std::array<Attend, kTogether> attend_by_count(std::index_sequence<Count...>) {
  return {attend_to<Count + 1>...};
}

template <size_t... Rows>
constexpr std::array<ScoreTile, kTileRows> score_by_rows(std::index_sequence<Rows...>) {
  return {score_tile<Rows + 1>...};
}

template <size_t... Rows>
constexpr std::array<AddTile, kTileRows> add_by_rows(std::index_sequence<Rows...>) {
  return {add_tile<Rows + 1>...};
}

constexpr auto kAttend = attend_by_count(std::make_index_sequence<kTogether>());
constexpr auto kScoreTile = score_by_rows(std::make_index_sequence<kTileRows>());
constexpr auto kAddTile = add_by_rows(std::make_index_sequence<kTileRows>());

void divide_by(float divisor, float* y, size_t size) {
  over(size, [&](size_t i, auto lanes) {
    store(y + i, divide(load(y + i, lanes), repeat(divisor)), lanes);
  });
}

// Hides what a query does not see of 64 keys that start at a position.
void hide(float* scores, size_t start, Range seen) {
  for (size_t j = 0; j < kKeys; ++j) {
    if (start + j < seen.first || start + j >= seen.last) scores[j] = kNothing;
  }
}

}  // namespace

void attend(const float* queries, size_t count, const HeadCache& cache, Range range,
            const Scoring& scoring, float* scores, Partial* partials) {
  for (size_t q = 0; q < count; q += kTogether) {
    const size_t together = std::min(kTogether, count - q);
    kAttend[together - 1](queries + q * cache.size, cache, range, scoring,
                          scores + q * range.count(), partials + q);
  }
}

void combine(const Partial* parts, size_t stride, size_t count, size_t size, float* y) {
  float most = kLowest;
  for (size_t p = 0; p < count; ++p) most = std::max(most, parts[p * stride].largest);
  float total = 0;
  std::fill(y, y + size, 0.0f);
  for (size_t p = 0; p < count; ++p) {
    const Partial& part = parts[p * stride];
    const float factor = std::exp(part.largest - most);
    total = std::fma(factor, part.total, total);
    over(size, [&](size_t i, auto lanes) {
      const Floats sum = multiply_add(repeat(factor), load(part.values + i, lanes),
                                      load(y + i, lanes));
      store(y + i, sum, lanes);
    });
  }
  divide_by(total, y, size);
}

void attend_many(const Query* queries, size_t count, const HeadCache& cache,
                 const Scoring& scoring, float* keys_by_element) {
  const size_t size = cache.size;
  alignas(64) float scores[kTileRows * kKeys];
  float most[kGroup], totals[kGroup], factors[kTileRows];
  for (size_t q = 0; q < count; ++q) {
    most[q] = kLowest;
    totals[q] = 0;
    std::fill(queries[q].y, queries[q].y + size, 0.0f);
  }
  const size_t last = queries[count - 1].position + 1;
  const size_t first = seen_from(queries[0].position, scoring).first;
  for (size_t start = first / kKeys * kKeys; start < last; start += kKeys) {
    const size_t keys = std::min(kKeys, last - start);
    transpose_keys(cache.keys + start * size, keys, size, keys_by_element);
    for (size_t tile = 0; tile < count; tile += kTileRows) {
      const size_t rows = std::min(kTileRows, count - tile);
      const Query* own = queries + tile;
      if (own[rows - 1].position < start) continue;
      if (seen_from(own[0].position, scoring).first >= start + kKeys) continue;
      kScoreTile[rows - 1](own, keys_by_element, size, scores);
      for (size_t r = 0; r < rows; ++r) {
        float* row = scores + r * kKeys;
        const Range seen = seen_from(own[r].position, scoring);
        float found = cap_and_find_largest(row, kKeys, scoring.cap);
        if (seen.first > start || seen.last < start + kKeys) {
          hide(row, start, seen);
          found = cap_and_find_largest(row, kKeys, 0);
        }
        const float now = std::max(most[tile + r], found);
        factors[r] = std::exp(most[tile + r] - now);
        totals[tile + r] = std::fma(totals[tile + r], factors[r], weigh(row, kKeys, now));
        most[tile + r] = now;
      }
      kAddTile[rows - 1](own, scores, factors, cache.values + start * size, keys, size);
    }
  }
  for (size_t q = 0; q < count; ++q) divide_by(totals[q], queries[q].y, size);
}

}  // namespace rbee::RBEE_VARIANT
