#include <algorithm>
#include <array>
#include <utility>

#include "attention.h"
#include "byte_scores.h"
#include "byte_values.h"
#include "fetch.h"
#include "softmax.h"

namespace rbee::RBEE_VARIANT {
namespace {

// Queries of one token worked on together.
constexpr size_t kTogether = kRegisters == 32 ? 8 : 4;
constexpr size_t kLinesOfPart = kBytePart / kLanes;

// Panels of positions that have some of a range in them.
Range whole_panels(Range range) {
  return {range.first / kBytePositions * kBytePositions,
          (range.last + kBytePositions - 1) / kBytePositions * kBytePositions};
}

// Weighed sums of a part of the values for `Queries` queries, whose weights are rows of as many as
// the positions of whole panels.
template <size_t Queries>
void sum_part(const float* weights, const HeadCache<Byte>& cache, Range panels, size_t p,
              Partial* partials) {
  constexpr size_t kLines = kRegisters == 32 && Queries <= 4 ? kLinesOfPart : 1;
  Floats found[Queries][kLinesOfPart];
  for (auto& row : found) {
    for (Floats& sum : row) sum = zeros();
  }
  for (size_t position = panels.first; position < panels.last; position += kBytePositions) {
    const BytePart part = BytePart::of(cache.values, cache.size, position, p);
    if (position + kBytePositions < cache.filled) {
      fetch(part.first + elements<Byte>(kBytePositions, cache.size), kBytePartBytes);
    }
    alignas(64) uint8_t integers[Queries * kBytePositions];
    float factors[Queries];
    for (size_t q = 0; q < Queries; ++q) {
      factors[q] = round_weights(weights + q * panels.count() + position - panels.first,
                                 part.scales(), integers + q * kBytePositions);
    }
    for (size_t line = 0; line < kLinesOfPart; line += kLines) {
      Integers sums[Queries][kLines];
      sum_panel(integers, part.values() + line * kLanes * 4, sums);
      for (size_t q = 0; q < Queries; ++q) {
        for (size_t l = 0; l < kLines; ++l) {
          Floats& sum = found[q][line + l];
          sum = multiply_add(as_floats(sums[q][l]), repeat(factors[q]), sum);
        }
      }
    }
  }
  for (size_t q = 0; q < Queries; ++q) {
    for (size_t l = 0; l < kLinesOfPart; ++l) {
      store(partials[q].values + p * kBytePart + l * kLanes, found[q][l]);
    }
  }
}

template <size_t Queries>
void attend_to(const float* queries, const HeadCache<Byte>& cache, Range range,
               const Scoring& scoring, float* scores, Partial* partials) {
  const size_t size = cache.size;
  alignas(64) int8_t values[Queries * kMostByteSize];
  float scales[Queries * kMostByteSize / kBytePart];
  int32_t starts[Queries * kMostByteSize / kBytePart];
  const ByteQueries rounded{values, scales, starts};
  for (size_t q = 0; q < Queries; ++q) round_query(queries + q * size, size, q, Queries, rounded);

  const Range all = whole_panels(range);
  const size_t count = all.count();
  for (size_t position = all.first; position < all.last; position += kLanes) {
    const size_t next = position + kBytePositions;
    // To look for memory that is not there yet takes long, each time.
    if (next < cache.filled) {
      fetch(cache.keys + elements<Byte>(next, size), elements<Byte>(kLanes, size));
    }
    score_sixteen<Queries>(rounded, cache.keys, size, position, scores + position - all.first,
                           count);
  }
  for (size_t q = 0; q < Queries; ++q) {
    float* own = scores + q * count;
    float largest = cap_and_find_largest(own, count, scoring.cap);
    if (count != range.count()) {
      std::fill(own, own + (range.first - all.first), kNothing);
      std::fill(own + (range.last - all.first), own + count, kNothing);
      largest = cap_and_find_largest(own, count, 0);
    }
    partials[q].largest = largest;
    partials[q].total = weigh(own, count, largest);
  }
  for (size_t p = 0; p < size / kBytePart; ++p) {
    sum_part<Queries>(scores, cache, all, p, partials);
  }
}

using Attend = void (*)(const float*, const HeadCache<Byte>&, Range, const Scoring&, float*,
                        Partial*);

template <size_t... Count>
constexpr std::array<Attend, kTogether> attend_by_count(std::index_sequence<Count...>) {
  return {attend_to<Count + 1>...};
}

constexpr auto kAttend = attend_by_count(std::make_index_sequence<kTogether>());

}  // namespace

template <>
void attend(const float* queries, size_t count, const HeadCache<Byte>& cache, Range range,
            const Scoring& scoring, float* scores, Partial* partials) {
  for (size_t q = 0; q < count; q += kTogether) {
    const size_t together = std::min(kTogether, count - q);
    kAttend[together - 1](queries + q * cache.size, cache, range, scoring,
                          scores + q * whole_panels(range).count(), partials + q);
  }
}

}  // namespace rbee::RBEE_VARIANT
