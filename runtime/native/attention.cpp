#include "attention.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "exponential.h"

namespace rbee {
namespace {

constexpr size_t kLanes = 16;
// Keys put in order together, and rows of a register tile: six by four registers of sums.
constexpr size_t kKeys = 64;
constexpr size_t kTileRows = 6;
constexpr size_t kTileLines = kKeys / kLanes;
// Below every score, and finite: what is masked is e**(-infinity) even where nothing was seen yet.
constexpr float kLowest = -1e30f;
constexpr float kNothing = -std::numeric_limits<float>::infinity();

__mmask16 lanes(size_t i, size_t count) {
  return i + kLanes <= count ? 0xffff : static_cast<__mmask16>((1u << (count - i)) - 1);
}

// cap * tanh(x / cap); tanh(u) = 1 - 2 / (e**(2 u) + 1).
__m512 capped(__m512 x, float cap) {
  const __m512 twice = _mm512_mul_ps(x, _mm512_set1_ps(2.0f / cap));
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 part =
      _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(exponential(twice), one));
  return _mm512_mul_ps(_mm512_set1_ps(cap), _mm512_sub_ps(one, part));
}

// Turns scores into e**(score - largest), and returns their sum.
float weigh(float* scores, size_t count, float largest) {
  __m512 sum = _mm512_setzero_ps();
  for (size_t i = 0; i < count; i += kLanes) {
    const __mmask16 mask = lanes(i, count);
    const __m512 score = _mm512_maskz_loadu_ps(mask, scores + i);
    const __m512 weight =
        _mm512_maskz_mov_ps(mask, exponential(_mm512_sub_ps(score, _mm512_set1_ps(largest))));
    _mm512_mask_storeu_ps(scores + i, mask, weight);
    sum = _mm512_add_ps(sum, weight);
  }
  return _mm512_reduce_add_ps(sum);
}

float cap_and_find_largest(float* scores, size_t count, float cap) {
  __m512 largest = _mm512_set1_ps(kLowest);
  for (size_t i = 0; i < count; i += kLanes) {
    const __mmask16 mask = lanes(i, count);
    __m512 score = _mm512_maskz_loadu_ps(mask, scores + i);
    if (cap != 0) {
      score = capped(score, cap);
      _mm512_mask_storeu_ps(scores + i, mask, score);
    }
    largest = _mm512_mask_max_ps(largest, mask, largest, score);
  }
  return _mm512_reduce_max_ps(largest);
}

// Scores of `Queries` queries, a key read once for all of them.
template <size_t Queries>
void score_rows(const float* queries, const HeadCache& cache, Range range, float* scores) {
  const size_t size = cache.size;
  for (size_t j = range.first; j < range.last; ++j) {
    const float* key = cache.keys + j * size;
    __m512 sums[Queries];
    for (size_t q = 0; q < Queries; ++q) sums[q] = _mm512_setzero_ps();
    for (size_t i = 0; i < size; i += kLanes) {
      const __mmask16 mask = lanes(i, size);
      const __m512 part = _mm512_maskz_loadu_ps(mask, key + i);
      for (size_t q = 0; q < Queries; ++q) {
        const __m512 query = _mm512_maskz_loadu_ps(mask, queries + q * size + i);
        sums[q] = _mm512_fmadd_ps(part, query, sums[q]);
      }
    }
    for (size_t q = 0; q < Queries; ++q) {
      scores[q * range.count() + j - range.first] = _mm512_reduce_add_ps(sums[q]);
    }
  }
}

// Weighed sums of values for `Queries` queries, four registers of a value's elements at a time.
template <size_t Queries>
void sum_values(const float* weights, const HeadCache& cache, Range range, Partial* partials) {
  constexpr size_t kLines = Queries <= 4 ? 4 : 2;
  for (size_t start = 0; start < cache.size; start += kLines * kLanes) {
    __m512 sums[Queries][kLines];
    __mmask16 masks[kLines];
    for (size_t l = 0; l < kLines; ++l) {
      const size_t i = start + l * kLanes;
      masks[l] = i < cache.size ? lanes(i, cache.size) : 0;
      for (size_t q = 0; q < Queries; ++q) sums[q][l] = _mm512_setzero_ps();
    }
    for (size_t j = 0; j < range.count(); ++j) {
      const float* value = cache.values + (range.first + j) * cache.size + start;
      for (size_t l = 0; l < kLines; ++l) {
        const __m512 part = _mm512_maskz_loadu_ps(masks[l], value + l * kLanes);
        for (size_t q = 0; q < Queries; ++q) {
          const __m512 weight = _mm512_set1_ps(weights[q * range.count() + j]);
          sums[q][l] = _mm512_fmadd_ps(part, weight, sums[q][l]);
        }
      }
    }
    for (size_t q = 0; q < Queries; ++q) {
      for (size_t l = 0; l < kLines; ++l) {
        _mm512_mask_storeu_ps(partials[q].values + start + l * kLanes, masks[l], sums[q][l]);
      }
    }
  }
}

template <size_t Queries>
void attend_to(const float* queries, const HeadCache& cache, Range range, const Scoring& scoring,
               float* scores, Partial* partials) {
  score_rows<Queries>(queries, cache, range, scores);
  for (size_t q = 0; q < Queries; ++q) {
    float* own = scores + q * range.count();
    partials[q].largest = cap_and_find_largest(own, range.count(), scoring.cap);
    partials[q].total = weigh(own, range.count(), partials[q].largest);
  }
  sum_values<Queries>(scores, cache, range, partials);
}

constexpr size_t kTogether = 8;

// Scores of up to six queries with 64 transposed keys: rows of 64.
template <size_t Rows>
void score_tile(const Query* queries, const float* keys_by_element, size_t size, float* scores) {
  __m512 sums[Rows][kTileLines];
  for (auto& row : sums) {
    for (__m512& sum : row) sum = _mm512_setzero_ps();
  }
  for (size_t i = 0; i < size; ++i, keys_by_element += kKeys) {
    __m512 keys[kTileLines];
    for (size_t l = 0; l < kTileLines; ++l) keys[l] = _mm512_loadu_ps(keys_by_element + l * kLanes);
    for (size_t r = 0; r < Rows; ++r) {
      const __m512 query = _mm512_set1_ps(queries[r].values[i]);
      for (size_t l = 0; l < kTileLines; ++l) {
        sums[r][l] = _mm512_fmadd_ps(query, keys[l], sums[r][l]);
      }
    }
  }
  for (size_t r = 0; r < Rows; ++r) {
    for (size_t l = 0; l < kTileLines; ++l) {
      _mm512_storeu_ps(scores + r * kKeys + l * kLanes, sums[r][l]);
    }
  }
}

// Adds weighed values to what up to six queries have, which is scaled first.
template <size_t Rows>
void add_tile(const Query* queries, const float* weights, const float* factors,
              const float* values, size_t count, size_t size) {
  for (size_t start = 0; start < size; start += kTileLines * kLanes) {
    __mmask16 masks[kTileLines];
    __m512 sums[Rows][kTileLines];
    for (size_t l = 0; l < kTileLines; ++l) {
      const size_t i = start + l * kLanes;
      masks[l] = i < size ? lanes(i, size) : 0;
      for (size_t r = 0; r < Rows; ++r) {
        const __m512 before = _mm512_maskz_loadu_ps(masks[l], queries[r].y + i);
        sums[r][l] = _mm512_mul_ps(before, _mm512_set1_ps(factors[r]));
      }
    }
    for (size_t j = 0; j < count; ++j) {
      const float* value = values + j * size + start;
      __m512 parts[kTileLines];
      for (size_t l = 0; l < kTileLines; ++l) {
        parts[l] = _mm512_maskz_loadu_ps(masks[l], value + l * kLanes);
      }
      for (size_t r = 0; r < Rows; ++r) {
        const __m512 weight = _mm512_set1_ps(weights[r * kKeys + j]);
        for (size_t l = 0; l < kTileLines; ++l) {
          sums[r][l] = _mm512_fmadd_ps(weight, parts[l], sums[r][l]);
        }
      }
    }
    for (size_t r = 0; r < Rows; ++r) {
      for (size_t l = 0; l < kTileLines; ++l) {
        _mm512_mask_storeu_ps(queries[r].y + start + l * kLanes, masks[l], sums[r][l]);
      }
    }
  }
}

// Exchanges rows and columns of sixteen rows of up to sixteen numbers; `to` has rows of 64.
void transpose(const float* from, size_t rows, size_t stride, size_t columns, float* to) {
  __m512 a[kLanes], b[kLanes];
  const auto mask = static_cast<__mmask16>((1u << columns) - 1);
  for (size_t r = 0; r < kLanes; ++r) {
    a[r] = r < rows ? _mm512_maskz_loadu_ps(mask, from + r * stride) : _mm512_setzero_ps();
  }
  for (size_t r = 0; r < kLanes; r += 2) {
    b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
    b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
  }
  const auto pairs = [](__m512 x, __m512 y, bool high) {
    const __m512d p = _mm512_castps_pd(x), q = _mm512_castps_pd(y);
    return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(p, q) : _mm512_unpacklo_pd(p, q));
  };
  // In each quarter of a[4 k + c] now stands column 4 * quarter + c of rows 4 k to 4 k + 3.
  for (size_t r = 0; r < kLanes; r += 4) {
    for (size_t c = 0; c < 4; ++c) a[r + c] = pairs(b[r + c / 2], b[r + 2 + c / 2], c % 2 != 0);
  }
  for (size_t c = 0; c < 4; ++c) {
    const __m512 low = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x44);
    const __m512 high = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xee);
    const __m512 other_low = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x44);
    const __m512 other_high = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xee);
    b[c] = _mm512_shuffle_f32x4(low, other_low, 0x88);
    b[4 + c] = _mm512_shuffle_f32x4(low, other_low, 0xdd);
    b[8 + c] = _mm512_shuffle_f32x4(high, other_high, 0x88);
    b[12 + c] = _mm512_shuffle_f32x4(high, other_high, 0xdd);
  }
  for (size_t c = 0; c < columns; ++c) _mm512_storeu_ps(to + c * kKeys, b[c]);
}

// Up to 64 keys by element: to[size, 64], absent keys as zeros.
void transpose_keys(const float* keys, size_t count, size_t size, float* to) {
  for (size_t j = 0; j < kKeys; j += kLanes) {
    const size_t rows = j < count ? std::min(kLanes, count - j) : 0;
    for (size_t i = 0; i < size; i += kLanes) {
      const size_t columns = std::min(kLanes, size - i);
      transpose(keys + j * size + i, rows, size, columns, to + i * kKeys + j);
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
  float largest = kLowest;
  for (size_t p = 0; p < count; ++p) largest = std::max(largest, parts[p * stride].largest);
  float total = 0;
  std::fill(y, y + size, 0.0f);
  for (size_t p = 0; p < count; ++p) {
    const Partial& part = parts[p * stride];
    const float factor = std::exp(part.largest - largest);
    total += factor * part.total;
    for (size_t i = 0; i < size; ++i) y[i] += factor * part.values[i];
  }
  for (size_t i = 0; i < size; ++i) y[i] /= total;
}

void attend_many(const Query* queries, size_t count, const HeadCache& cache,
                 const Scoring& scoring) {
  const size_t size = cache.size;
  thread_local std::vector<float> keys_by_element;
  keys_by_element.resize(size * kKeys);
  alignas(64) float scores[kTileRows * kKeys];
  float largest[kGroup], totals[kGroup], factors[kTileRows];
  for (size_t q = 0; q < count; ++q) {
    largest[q] = kLowest;
    totals[q] = 0;
    std::fill(queries[q].y, queries[q].y + size, 0.0f);
  }
  const size_t last = queries[count - 1].position + 1;
  const size_t first = seen_from(queries[0].position, scoring).first;
  for (size_t start = first / kKeys * kKeys; start < last; start += kKeys) {
    const size_t keys = std::min(kKeys, last - start);
    transpose_keys(cache.keys + start * size, keys, size, keys_by_element.data());
    for (size_t tile = 0; tile < count; tile += kTileRows) {
      const size_t rows = std::min(kTileRows, count - tile);
      const Query* own = queries + tile;
      if (own[rows - 1].position < start) continue;
      if (seen_from(own[0].position, scoring).first >= start + kKeys) continue;
      kScoreTile[rows - 1](own, keys_by_element.data(), size, scores);
      for (size_t r = 0; r < rows; ++r) {
        float* row = scores + r * kKeys;
        const Range seen = seen_from(own[r].position, scoring);
        float found = cap_and_find_largest(row, kKeys, scoring.cap);
        if (seen.first > start || seen.last < start + kKeys) {
          hide(row, start, seen);
          found = cap_and_find_largest(row, kKeys, 0);
        }
        const float now = std::max(largest[tile + r], found);
        factors[r] = std::exp(largest[tile + r] - now);
        totals[tile + r] = totals[tile + r] * factors[r] + weigh(row, kKeys, now);
        largest[tile + r] = now;
      }
      kAddTile[rows - 1](own, scores, factors, cache.values + start * size, keys, size);
    }
  }
  for (size_t q = 0; q < count; ++q) {
    for (size_t i = 0; i < size; ++i) queries[q].y[i] /= totals[q];
  }
}

}  // namespace rbee
