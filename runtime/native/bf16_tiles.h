// Tiles of bfloat16 as the processor's matrix unit takes them; for AVX-512.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "matrix_unit.h"

namespace rbee::avx512 {

constexpr size_t kStepInputs = kUnitBytes / sizeof(uint16_t);  // numbers of a tile's row
constexpr size_t kTileNumbers = kUnitRows * kStepInputs;

struct alignas(kUnitBytes) Line {
  uint16_t numbers[kStepInputs];
};

// The upper halves of two registers' numbers side by side: those of `even` first.
inline __m512i side_by_side(__m512 even, __m512 odd) {
  const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(even), 16);
  return _mm512_ternarylogic_epi32(low, _mm512_castps_si512(odd), _mm512_set1_epi32(0xffff0000u),
                                   0xf8);  // low | (odd & mask)
}

}  // namespace rbee::avx512
