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
  constexpr __mmask64 kLower = 0x3333333333333333;
  const __m512i order = _mm512_set4_epi32(0x0f0e, 0x0b0a, 0x0706, 0x0302);
  return _mm512_mask_shuffle_epi8(_mm512_castps_si512(odd), kLower, _mm512_castps_si512(even),
                                  order);
}

}  // namespace rbee::avx512
