#include "bf16_attention.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "bf16_tiles.h"
#include "byte_panels.h"
#include "matrix_unit.h"
#include "softmax.h"
#include "transpose.h"

namespace rbee::avx512 {
namespace {

constexpr size_t kStep = kStepInputs;
constexpr size_t kTile = kTileNumbers;
constexpr size_t kSums = kUnitRows * kLanes;
// Keys that are worked on together, or half as many where there are no more: four tiles of sums, or
// two. Elements of values alike.
constexpr size_t kKeys = 64;
constexpr size_t kSumTiles = 4;
constexpr size_t kKeySteps = kKeys / kStep;
constexpr size_t kHalf = kKeys / 2;

// 2**x to within a part in 13,000, of which a bfloat16 shows nothing; 0 below -150, minus infinity
// included.
inline __m512 power_of_two(__m512 x) {
  // 2**x = 2**n * 2**r, with n whole and 0 <= r < 1; 2**r by the polynomial that errs least.
  const __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 sum = _mm512_set1_ps(0.0780245206f);
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0.226067160f));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0.695833540f));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0.999925220f));
  return _mm512_scalef_ps(sum, x);
}

// The number whose upper half is `x` rounded to bfloat16.
inline __m512 to_be_cut(__m512 x) {
  const __m512i bits = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
  return _mm512_castsi512_ps(bits);
}

inline __mmask16 lanes(size_t i, size_t count) {
  return i + kLanes <= count ? 0xffff : i < count ? (1u << (count - i)) - 1 : 0;
}

inline __m512 load(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }
inline __m512 load(const Half* from, __mmask16 mask) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from));
}

// A row's elements from `at` on, rounded, as a tile's row has them; zeros where there are none.
template <typename Element>
RBEE_MATRIX_UNIT inline __m512i round_row(const Element* row, size_t at, size_t size) {
  const size_t next = at + kLanes;
  const __m512 low = load(row + at, lanes(at, size));
  const __m512 high = load(row + next, lanes(next, size));
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// Rows of keys and of values, from a position on; in a room for them where they have to be made.
template <typename Element>
const Element* key_rows(const HeadCache<Element>& cache, size_t start, size_t, float*) {
  return cache.keys + start * cache.size;
}
template <typename Element>
const Element* value_rows(const HeadCache<Element>& cache, size_t start, size_t, float*) {
  return cache.values + start * cache.size;
}
const float* key_rows(const HeadCache<Byte>& cache, size_t start, size_t count, float* room) {
  const __m512i low_byte = _mm512_set1_epi32(0xff), middle = _mm512_set1_epi32(kByteMiddle);
  for (size_t j = 0; j < count; j += kLanes) {
    for (size_t at = 0; at < cache.size; at += kLanes) {
      const BytePart part = BytePart::of(cache.keys, cache.size, start + j, at / kBytePart);
      const __m512 scale = load(part.scales(), 0xffff);
      const uint8_t* fours = part.keys() + at % kBytePart * kLanes;
      __m512 lines[kLanes];
      for (size_t i = 0; i < kLanes; ++i) {
        const __m512i four = _mm512_loadu_si512(fours + i / 4 * 4 * kLanes);
        const __m512i byte = _mm512_and_si512(_mm512_srli_epi32(four, i % 4 * 8), low_byte);
        lines[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(byte, middle)), scale);
      }
      transpose(lines);
      for (size_t r = 0; r < std::min(kLanes, count - j); ++r) {
        _mm512_storeu_ps(room + (j + r) * cache.size + at, lines[r]);
      }
    }
  }
  return room;
}
const float* value_rows(const HeadCache<Byte>& cache, size_t start, size_t count, float* room) {
  for (size_t j = 0; j < count; ++j) {
    const size_t position = start + j;
    for (size_t at = 0; at < cache.size; at += kLanes) {
      const BytePart part = BytePart::of(cache.values, cache.size, position, at / kBytePart);
      const __m512 scale = _mm512_set1_ps(_cvtsh_ss(part.scales()->bits));
      const __m512i fours = _mm512_loadu_si512(part.values() + at % kBytePart * 4);
      const __m512i upper = _mm512_slli_epi32(fours, 8 * (3 - position % 4));
      const __m512 number = _mm512_cvtepi32_ps(_mm512_srai_epi32(upper, 24));
      _mm512_storeu_ps(room + j * cache.size + at, _mm512_mul_ps(number, scale));
    }
  }
  return room;
}

inline void store_transposed(__m512i (&lines)[kLanes], uint16_t* to) {
  __m512 rows[kLanes];
  for (size_t r = 0; r < kLanes; ++r) rows[r] = _mm512_castsi512_ps(lines[r]);
  transpose(rows);
  for (size_t r = 0; r < kLanes; ++r) _mm512_store_ps(to + r * kStep, rows[r]);
}

// Up to 16 queries, by element: tiles [step].
RBEE_MATRIX_UNIT void round_queries(const Query* queries, size_t count, size_t size, size_t steps,
                                    uint16_t* to) {
  for (size_t step = 0; step < steps; ++step) {
    __m512i lines[kLanes];
    for (size_t q = 0; q < kLanes; ++q) {
      lines[q] = q < count ? round_row(queries[q].values, step * kStep, size)
                           : _mm512_setzero_si512();
    }
    store_transposed(lines, to + step * kTile);
  }
}

// 64 keys or 32, row by row: tiles [16 keys][step].
template <typename Element>
RBEE_MATRIX_UNIT void round_keys(const Element* keys, size_t count, size_t taken, size_t size,
                                 size_t steps, uint16_t* to) {
  for (size_t j = 0; j < taken; ++j) {
    for (size_t step = 0; step < steps; ++step) {
      const __m512i line =
          j < count ? round_row(keys + j * size, step * kStep, size) : _mm512_setzero_si512();
      const size_t tile = j / kUnitRows * steps + step;
      _mm512_store_si512(to + tile * kTile + j % kUnitRows * kStep, line);
    }
  }
}

// 64 values or 32, by element: tiles [16 elements][32 keys].
template <typename Element>
void round_values(const Element* values, size_t count, size_t taken, size_t size, size_t tiles,
                  uint16_t* to) {
  for (size_t tile = 0; tile < tiles; ++tile) {
    const size_t at = tile * kLanes;
    const __mmask16 mask = lanes(at, size);
    const auto value = [&](size_t j) {
      return to_be_cut(j < count ? load(values + j * size + at, mask) : _mm512_setzero_ps());
    };
    for (size_t step = 0; step < taken / kStep; ++step) {
      __m512i lines[kLanes];
      for (size_t r = 0; r < kLanes; ++r) {
        const size_t j = step * kStep + 2 * r;
        lines[r] = side_by_side(value(j), value(j + 1));
      }
      store_transposed(lines, to + (tile * kKeySteps + step) * kTile);
    }
  }
}

// So many tiles of sums = or += as many rows of tiles `a`, which are `stride` apart, times a column
// of tiles `b`, as many as steps.
template <bool Adds, size_t SumTiles>
RBEE_MATRIX_UNIT void add_products(const uint16_t* a, size_t stride, const uint16_t* b,
                                   size_t steps, float* to) {
  constexpr bool kAll = SumTiles == kSumTiles;
  // What was stored before must be there when tiles are loaded.
  __asm__ volatile("" ::: "memory");
  if constexpr (Adds) {
    _tile_loadd(0, to, kUnitBytes);
    _tile_loadd(1, to + kSums, kUnitBytes);
    if constexpr (kAll) _tile_loadd(2, to + 2 * kSums, kUnitBytes);
    if constexpr (kAll) _tile_loadd(3, to + 3 * kSums, kUnitBytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kAll) _tile_zero(2);
    if constexpr (kAll) _tile_zero(3);
  }
  for (size_t step = 0; step < steps; ++step) {
    _tile_loadd(7, b + step * kTile, kUnitBytes);
// Each sum waits for its last product; the others are added to meanwhile.
#define RBEE_ADD(sum, tile)                                       \
  _tile_loadd(tile, a + (sum * stride + step) * kTile, kUnitBytes); \
  _tile_dpbf16ps(sum, tile, 7)
    RBEE_ADD(0, 4);
    RBEE_ADD(1, 5);
    if constexpr (kAll) {
      RBEE_ADD(2, 6);
      RBEE_ADD(3, 4);
    }
#undef RBEE_ADD
  }
  _tile_stored(0, to, kUnitBytes);
  _tile_stored(1, to + kSums, kUnitBytes);
  if constexpr (kAll) _tile_stored(2, to + 2 * kSums, kUnitBytes);
  if constexpr (kAll) _tile_stored(3, to + 3 * kSums, kUnitBytes);
  __asm__ volatile("" ::: "memory");
}

// What 16 queries have so far: a lane for each.
struct State {
  alignas(64) float largest[kLanes];
  float totals[kLanes];
  int32_t first[kLanes];  // position seen, or beyond all where there is no query
  int32_t last[kLanes];
  size_t begin;  // of what any of them sees
  size_t end;
  size_t all_begin;  // of what all of them see
  size_t all_end;
};

// Adds to the scores of 64 keys and 16 queries, one after another, what is said of their distances;
// `bias` is that of the first key and the first query.
inline void add_bias(float* scores, const float* bias) {
  // Each query stands one further on than the one before it.
  const __m512i backwards =
      _mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (size_t j = 0; j < kKeys; ++j) {
    const __m512 line = _mm512_loadu_ps(bias + j - (kLanes - 1));
    const __m512 score = _mm512_load_ps(scores + j * kLanes);
    _mm512_store_ps(scores + j * kLanes,
                    _mm512_add_ps(score, _mm512_permutexvar_ps(backwards, line)));
  }
}

// Hides what is not seen of keys from `start` on, and returns the largest score of each query.
inline __m512 find_largest(float* scores, size_t start, size_t taken, const State& state,
                           const Scoring& scoring, bool all_seen) {
  const __m512i first = _mm512_load_si512(state.first);
  const __m512i last = _mm512_load_si512(state.last);
  __m512 largest[2] = {_mm512_set1_ps(kLowest), _mm512_set1_ps(kLowest)};
  for (size_t j = 0; j < taken; ++j) {
    __m512 score = _mm512_load_ps(scores + j * kLanes);
    if (scoring.cap != 0) score = capped(score, scoring.cap);
    if (!all_seen) {
      const __m512i position = _mm512_set1_epi32(static_cast<int32_t>(start + j));
      const __mmask16 seen = _mm512_cmple_epi32_mask(first, position) &
                             _mm512_cmple_epi32_mask(position, last);
      score = _mm512_mask_mov_ps(_mm512_set1_ps(kNothing), seen, score);
    }
    if (scoring.cap != 0 || !all_seen) _mm512_store_ps(scores + j * kLanes, score);
    largest[j % 2] = _mm512_max_ps(largest[j % 2], score);
  }
  return _mm512_max_ps(largest[0], largest[1]);
}

// Turns scores of keys from `start` on into weights, e**(score - largest), rounded: tiles of 32
// keys. Returns what earlier weights are to be multiplied by.
RBEE_MATRIX_UNIT inline __m512 weigh(float* scores, size_t start, size_t taken,
                                     const Scoring& scoring, State& state, uint16_t* to) {
  const bool all_seen = state.all_begin <= start && state.all_end >= start + taken;
  const __m512 before = _mm512_load_ps(state.largest);
  const __m512 largest =
      _mm512_max_ps(before, find_largest(scores, start, taken, state, scoring, all_seen));
  const __m512 log2_e = _mm512_set1_ps(1.44269504f);
  const __m512 power = _mm512_mul_ps(largest, log2_e);
  const auto weight = [&](const float* score) {
    return power_of_two(_mm512_fmsub_ps(_mm512_load_ps(score), log2_e, power));
  };
  // Weights are cut off; what is divided by is the sum of what that left.
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (size_t j = 0; j < taken; j += 2) {
    const float* even = scores + j * kLanes;
    const __m512i pair = side_by_side(weight(even), weight(even + kLanes));
    sums[j / 2 % 2] = _mm512_dpbf16_ps(sums[j / 2 % 2], (__m512bh)pair, ones);
    _mm512_store_si512(to + j / kStep * kTile + j % kStep / 2 * kStep, pair);
  }
  const __m512 sum = _mm512_add_ps(sums[0], sums[1]);
  const __m512 factor = exponential(_mm512_sub_ps(before, largest));
  _mm512_store_ps(state.totals, _mm512_fmadd_ps(_mm512_load_ps(state.totals), factor, sum));
  _mm512_store_ps(state.largest, largest);
  return factor;
}

// Hands out parts of one run of memory.
struct Room {
  uint16_t* next;
  uint16_t* tiles(size_t count) { return take(count * kTile); }
  float* sums(size_t count) { return reinterpret_cast<float*>(take(2 * count)); }
  uint16_t* take(size_t numbers) {
    uint16_t* taken = next;
    next += numbers;
    return taken;
  }
};

void finish(const Query* queries, size_t count, size_t size, const State& state,
            const float* sums) {
  const __m512 share = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_load_ps(state.totals));
  for (size_t i = 0; i < size; i += kLanes) {
    __m512 rows[kLanes];
    for (size_t r = 0; r < kLanes; ++r) {
      rows[r] = _mm512_mul_ps(_mm512_load_ps(sums + (i + r) * kLanes), share);
    }
    transpose(rows);
    const __mmask16 mask = lanes(i, size);
    for (size_t q = 0; q < count; ++q) _mm512_mask_storeu_ps(queries[q].y + i, mask, rows[q]);
  }
}

}  // namespace

template <typename Element>
RBEE_MATRIX_UNIT void attend_many_bf16(const Query* queries, size_t count,
                                       const HeadCache<Element>& cache, const Scoring& scoring) {
  const size_t size = cache.size;
  const size_t steps = (size + kStep - 1) / kStep;
  const size_t elements = (size + kHalf - 1) / kHalf * kHalf;
  const size_t tiles = (count + kLanes - 1) / kLanes;
  constexpr size_t kMostTiles = kGroup / kLanes;
  constexpr bool in_bytes = std::is_same_v<Element, Byte>;

  const size_t key_tiles = kSumTiles * steps;
  const size_t value_tiles = elements / kLanes * kKeySteps;
  const size_t numbers = kTile * (kMostTiles * steps + key_tiles + value_tiles + 2 * kKeySteps) +
                         2 * kLanes * (kMostTiles * elements + 2 * kKeys) +
                         (in_bytes ? 2 * kKeys * size : 0);
  thread_local std::vector<Line> memory;
  memory.resize(std::max(memory.size(), numbers / kStep));
  Room room{memory.data()->numbers};
  uint16_t* keys = room.tiles(key_tiles);
  uint16_t* values = room.tiles(value_tiles);
  uint16_t* weights[2] = {room.tiles(kKeySteps), room.tiles(kKeySteps)};
  float* scores[2] = {room.sums(kKeys * kLanes), room.sums(kKeys * kLanes)};
  float* rows = room.sums(in_bytes ? kKeys * size : 0);
  uint16_t* by_tile[kMostTiles];
  float* sums[kMostTiles];
  State states[kMostTiles];
  for (size_t t = 0; t < tiles; ++t) {
    const Query* own = queries + t * kLanes;
    const size_t rows = std::min(kLanes, count - t * kLanes);
    by_tile[t] = room.tiles(steps);
    round_queries(own, rows, size, steps, by_tile[t]);
    sums[t] = room.sums(elements * kLanes);
    std::fill_n(sums[t], elements * kLanes, 0.0f);
    const Range earliest = seen_from(own[0].position, scoring);
    const Range latest = seen_from(own[rows - 1].position, scoring);
    states[t].begin = earliest.first;
    states[t].end = latest.last;
    states[t].all_begin = latest.first;
    states[t].all_end = earliest.last;
    for (size_t q = 0; q < kLanes; ++q) {
      const Range seen = q < rows ? seen_from(own[q].position, scoring) : Range{1, 1};
      states[t].first[q] = static_cast<int32_t>(seen.first);
      states[t].last[q] = static_cast<int32_t>(seen.last) - 1;
      const float sink = q < rows ? own[q].sink : kNoSink;
      states[t].largest[q] = std::max(kLowest, sink);
      states[t].totals[q] = std::exp(sink - states[t].largest[q]);
    }
  }

  const MatrixUnit unit;
  const size_t last = seen_from(queries[count - 1].position, scoring).last;
  const size_t first = seen_from(queries[0].position, scoring).first;
  for (size_t start = first / kKeys * kKeys; start < last; start += kKeys) {
    const size_t present = std::min(kKeys, last - start);
    const size_t taken = present <= kHalf ? kHalf : kKeys;
    round_keys(key_rows(cache, start, present, rows), present, taken, size, steps, keys);
    round_values(value_rows(cache, start, present, rows), present, taken, size, elements / kLanes,
                 values);
    const auto score = taken == kHalf ? add_products<false, 2> : add_products<false, kSumTiles>;
    // By twos: what one tile's products wait for, the other's need not.
    for (size_t pair = 0; pair < tiles; pair += 2) {
      size_t seeing[2], of_pair = 0;
      for (size_t t = pair; t < std::min(tiles, pair + 2); ++t) {
        if (states[t].end <= start || states[t].begin >= start + kKeys) continue;
        score(keys, steps, by_tile[t], steps, scores[of_pair]);
        if (scoring.bias != nullptr) {
          add_bias(scores[of_pair], scoring.bias + start - queries[t * kLanes].position);
        }
        seeing[of_pair++] = t;
      }
      for (size_t i = 0; i < of_pair; ++i) {
        const size_t t = seeing[i];
        const __m512 factor = weigh(scores[i], start, taken, scoring, states[t], weights[i]);
        if (_mm512_cmpneq_ps_mask(factor, _mm512_set1_ps(1.0f)) == 0) continue;
        for (size_t e = 0; e < elements; ++e) {
          float* line = sums[t] + e * kLanes;
          _mm512_store_ps(line, _mm512_mul_ps(_mm512_load_ps(line), factor));
        }
      }
      for (size_t i = 0; i < of_pair; ++i) {
        for (size_t e = 0; e < elements; e += kKeys) {
          const auto add =
              elements - e < kKeys ? add_products<true, 2> : add_products<true, kSumTiles>;
          add(values + e / kLanes * kKeySteps * kTile, kKeySteps, weights[i], taken / kStep,
              sums[seeing[i]] + e * kLanes);
        }
      }
    }
  }
  for (size_t t = 0; t < tiles; ++t) {
    finish(queries + t * kLanes, std::min(kLanes, count - t * kLanes), size, states[t], sums[t]);
  }
}

template void attend_many_bf16(const Query*, size_t, const HeadCache<float>&, const Scoring&);
template void attend_many_bf16(const Query*, size_t, const HeadCache<Half>&, const Scoring&);
template void attend_many_bf16(const Query*, size_t, const HeadCache<Byte>&, const Scoring&);

}  // namespace rbee::avx512
