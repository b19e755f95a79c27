// Attention of many queries on the processor's matrix unit.
#pragma once

#include <cstddef>

#include "head_cache.h"

namespace rbee::avx512 {

// What attend_many does, to nearly the same accuracy: every number is the sum of two in bfloat16, and
// of their four products only that of both remainders is left out.
void attend_many_bf16(const Query* queries, size_t count, const HeadCache& cache,
                      const Scoring& scoring);

}  // namespace rbee::avx512
