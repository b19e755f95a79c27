// Scores of queries with keys of a cache of 8 bits, as sums of products of integers.
#pragma once

#include "dot_products.h"
#include "rounded_part.h"

namespace rbee::RBEE_VARIANT {

// Queries rounded to 8 bits part by part, those of a tile side by side.
struct ByteQueries {
  int8_t* values;   // [part][query][32]
  float* scales;    // [part][query]
  int32_t* starts;  // the same; what sums of products with keys begin with

  // Those from one on, with which a tile begins.
  ByteQueries from(size_t query, size_t size) const {
    const size_t parts = query * (size / kBytePart);
    return {values + query * size, scales + parts, starts + parts};
  }
};

// Rounds a query, which is the so-manieth of a tile.
inline void round_query(const float* query, size_t size, size_t index, size_t tile,
                        const ByteQueries& to) {
  for (size_t part = 0; part < size / kBytePart; ++part) {
    const size_t at = part * tile + index;
    const float* x = query + part * kBytePart;
    to.scales[at] = scale_of_part(x);
    to.starts[at] = -kByteMiddle * round_part(x, to.scales[at], to.values + at * kBytePart);
  }
}

// Scores of all queries of a tile with sixteen keys, the first of which is at a position: a row for
// each query, `stride` apart.
template <size_t Queries>
[[gnu::always_inline]] inline void score_sixteen(const ByteQueries& queries, const Byte* keys,
                                                 size_t size, size_t position, float* scores,
                                                 size_t stride) {
  Floats found[Queries];
  for (Floats& score : found) score = zeros();
  for (size_t p = 0; p < size / kBytePart; ++p) {
    const BytePart part = BytePart::of(keys, size, position, p);
    const float* scales = queries.scales + p * Queries;
    Integers sums[Queries];
    for (size_t q = 0; q < Queries; ++q) sums[q] = repeat(queries.starts[p * Queries + q]);
    add_products<Queries, Form::kEights>(part.keys(),
                                         queries.values + p * Queries * kBytePart, kBytePart,
                                         repeat(0), sums);
    const Floats scale = load(part.scales());
    for (size_t q = 0; q < Queries; ++q) {
      found[q] = multiply_add(times(as_floats(sums[q]), scale), repeat(scales[q]), found[q]);
    }
  }
  for (size_t q = 0; q < Queries; ++q) store(scores + q * stride, found[q]);
}

}  // namespace rbee::RBEE_VARIANT
