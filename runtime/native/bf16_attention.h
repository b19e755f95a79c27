// Attention of many queries on the processor's matrix unit.
#pragma once

#include <cstddef>

#include "head_cache.h"
#include "matrix_unit.h"

namespace rbee::avx512 {

// What attend_many does, of queries, keys, values and weights rounded to bfloat16; sums and
// exponentials are in float32.
template <typename Element>
RBEE_MATRIX_UNIT void attend_many_bf16(const Query* queries, size_t count,
                                       const HeadCache<Element>& cache, const Scoring& scoring);

}  // namespace rbee::avx512
