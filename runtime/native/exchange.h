// Rows and columns of sixteen registers exchanged.
#pragma once

#include <immintrin.h>

#include <cstddef>

namespace rbee::avx512 {

// Sixteen rows of sixteen 32-bit numbers become sixteen columns.
inline void transpose(__m512 (&a)[16]) {
  __m512 b[16];
  for (size_t r = 0; r < 16; r += 2) {
    b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
    b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
  }
  const auto pairs = [](__m512 x, __m512 y, bool high) {
    const __m512d p = _mm512_castps_pd(x), q = _mm512_castps_pd(y);
    return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(p, q) : _mm512_unpacklo_pd(p, q));
  };
  // In each quarter of a[4 k + c] now stands column 4 * quarter + c of rows 4 k to 4 k + 3.
  for (size_t r = 0; r < 16; r += 4) {
    for (size_t c = 0; c < 4; ++c) a[r + c] = pairs(b[r + c / 2], b[r + 2 + c / 2], c % 2 != 0);
  }
  for (size_t c = 0; c < 4; ++c) {
    const __m512 low = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x44);
    const __m512 high = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xee);
    const __m512 other_low = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x44);
    const __m512 other_high = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xee);
    b[c] = _mm512_shuffle_f32x4(low, other_low, 0x88);
    b[4 + c] = _mm512_shuffle_f32x4(low, other_low, 0xdd);
    b[8 + c] = _mm512_shuffle_f32x4(high, other_high, 0x88);
    b[12 + c] = _mm512_shuffle_f32x4(high, other_high, 0xdd);
  }
  for (size_t r = 0; r < 16; ++r) a[r] = b[r];
}

}  // namespace rbee::avx512
