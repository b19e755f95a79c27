// Attention of queries to the keys and values of one cache.
#pragma once

#include <cstddef>

namespace rbee {

// How scores become weights.
struct Scoring {
  float cap;      // scores pass through cap * tanh(score / cap); 0 for none
  size_t window;  // positions a query sees, itself included; 0 for all before it
};

// Keys or values of one head: float[positions, size], row after row.
struct HeadCache {
  const float* keys;
  const float* values;
  size_t size;
};

// Positions [first, last).
struct Range {
  size_t first;
  size_t last;
  size_t count() const { return last - first; }
};

// What the query at a position sees.
inline Range seen_from(size_t position, const Scoring& scoring) {
  const size_t last = position + 1;
  return {scoring.window != 0 && last > scoring.window ? last - scoring.window : 0, last};
}

// Positions that one task goes over for a single query: the same cuts in any company.
constexpr size_t kSpan = 128;

// The outcome of a part of the positions, for one query: sum(e**(s - largest) * value), where
// largest is that of the scores s, and sum(e**(s - largest)).
struct Partial {
  float* values;  // float[size]
  float largest;
  float total;
};

// Goes over positions for some queries of one token, float[count, size] with the scores' factor in
// them; `scores` is room for count * range.count() numbers.
void attend(const float* queries, size_t count, const HeadCache& cache, Range range,
            const Scoring& scoring, float* scores, Partial* partials);

// Puts the parts of one query together, which stand `stride` apart: y = sum(values) / sum(totals),
// each part weighed.
void combine(const Partial* parts, size_t stride, size_t count, size_t size, float* y);

// Queries that one task goes over together; keys are put in order once for all of them.
constexpr size_t kGroup = 192;

// One query of many.
struct Query {
  const float* values;  // float[size], with the scores' factor in them
  size_t position;
  float* y;  // float[size]
};

// Goes over all that each of up to 192 queries sees; their positions ascend.
void attend_many(const Query* queries, size_t count, const HeadCache& cache,
                 const Scoring& scoring);

}  // namespace rbee
