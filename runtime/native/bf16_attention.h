// Attention of many queries on the processor's matrix unit.
#pragma once

#include <cstddef>

#include "head_cache.h"

namespace rbee::avx512 {

// What attend_many does, of queries, keys, values and weights rounded to bfloat16; sums and
// exponentials are in float32.
void attend_many_bf16(const Query* queries, size_t count, const HeadCache& cache,
                      const Scoring& scoring);

}  // namespace rbee::avx512
