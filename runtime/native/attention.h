// Attention of queries to the keys and values of one cache.
#pragma once

#include <cstddef>

#include "head_cache.h"

namespace rbee::RBEE_VARIANT {

// Goes over positions, up to kSpan, for some queries of one token, float[count, size] with the
// scores' factor in them; `scores` is room for count * range.count() numbers, of
// Bytes for count * (range.count() + kBeside).
template <typename Element>
void attend(const float* queries, size_t count, const HeadCache<Element>& cache, Range range,
            const Scoring& scoring, float* scores, Partial* partials);

// Puts the parts of one query together, which stand `stride` apart: y = sum(values) / sum(totals),
// each part weighed, and the sink among the totals.
void combine(const Partial* parts, size_t stride, size_t count, float sink, size_t size, float* y);

// Goes over all that each of up to 192 queries sees; their positions ascend. `room` is for
// 2 * size * 64 numbers.
template <typename Element>
void attend_many(const Query* queries, size_t count, const HeadCache<Element>& cache,
                 const Scoring& scoring, float* room);

}  // namespace rbee::RBEE_VARIANT
