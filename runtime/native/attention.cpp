#include "attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "fetch.h"
#include "softmax.h"

namespace rbee::RBEE_VARIANT {
namespace {

// Queries of one token worked on together.
constexpr size_t kTogether = kRegisters == 32 ? 8 : 4;
// Bytes of keys between the one at work and the one that is fetched.
constexpr size_t kAhead = 2048;

// Scores of `Queries` queries, a key read once for all of them. What comes next is fetched: keys,
// and the values at these positions.
template <size_t Queries, typename Element>
void score_rows(const float* queries, const HeadCache<Element>& cache, Range range, float* scores) {
  const size_t size = cache.size;
  const size_t count = range.count();
  const size_t bytes = size * sizeof(Element);
  const size_t ahead = kAhead / bytes + 1;
  for (size_t j = 0; j < count; ++j) {
    const size_t position = range.first + j;
    const Element* key = cache.keys + position * size;
    // To look for memory that is not there yet takes long, each time.
    if (position + ahead < cache.filled) fetch(key + ahead * size, bytes);
    fetch(cache.values + position * size, bytes);
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

// Weighed sums of values for `Queries` queries, some registers of a value's elements at a time.
template <size_t Queries, typename Element>
void sum_values(const float* weights, const HeadCache<Element>& cache, Range range,
                Partial* partials) {
  constexpr size_t kMost = kRegisters == 32 ? (Queries <= 4 ? 4 : 2) : (Queries <= 2 ? 2 : 1);
  const size_t count = range.count();
  over_lines<kMost>(cache.size, [&]<typename Lanes, size_t kLines>(
                                    size_t start, std::array<Lanes, kLines> lanes) {
    Floats sums[Queries][kLines];
    for (auto& row : sums) {
      for (Floats& sum : row) sum = zeros();
    }
    for (size_t j = 0; j < count; ++j) {
      const Element* value = cache.values + (range.first + j) * cache.size + start;
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

template <size_t Queries, typename Element>
void attend_to(const float* queries, const HeadCache<Element>& cache, Range range,
               const Scoring& scoring, float* scores, Partial* partials) {
  score_rows<Queries>(queries, cache, range, scores);
  for (size_t q = 0; q < Queries; ++q) {
    const size_t count = range.count();
    float* own = scores + q * count;
    partials[q].largest = cap_and_find_largest(own, count, scoring.cap);
    partials[q].total = weigh(own, count, partials[q].largest);
  }
  sum_values<Queries>(scores, cache, range, partials);
}

template <typename Element>
using Attend = void (*)(const float*, const HeadCache<Element>&, Range, const Scoring&, float*,
                        Partial*);

template <typename Element, size_t... Count>
constexpr std::array<Attend<Element>, kTogether> attend_by_count(std::index_sequence<Count...>) {
  return {attend_to<Count + 1, Element>...};
}

template <typename Element>
constexpr auto kAttend = attend_by_count<Element>(std::make_index_sequence<kTogether>());

}  // namespace

template <typename Element>
void attend(const float* queries, size_t count, const HeadCache<Element>& cache, Range range,
            const Scoring& scoring, float* scores, Partial* partials) {
  for (size_t q = 0; q < count; q += kTogether) {
    const size_t together = std::min(kTogether, count - q);
    kAttend<Element>[together - 1](queries + q * cache.size, cache, range, scoring,
                                   scores + q * range.count(), partials + q);
  }
}

template void attend(const float*, size_t, const HeadCache<float>&, Range, const Scoring&, float*,
                     Partial*);
template void attend(const float*, size_t, const HeadCache<Half>&, Range, const Scoring&, float*,
                     Partial*);

void combine(const Partial* parts, size_t stride, size_t count, float sink, size_t size,
             float* y) {
  float most = std::max(kLowest, sink);
  for (size_t p = 0; p < count; ++p) most = std::max(most, parts[p * stride].largest);
  float total = std::exp(sink - most);
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

}  // namespace rbee::RBEE_VARIANT
