// Sixteen rows of sixteen numbers, exchanged with their columns.
#pragma once

#include "simd.h"

namespace rbee::RBEE_VARIANT {

#ifdef __AVX512F__

// Sixteen rows of sixteen 32-bit numbers become sixteen columns.
inline void transpose(__m512 (&a)[kLanes]) {
  __m512 b[kLanes];
  for (size_t r = 0; r < kLanes; r += 2) {
    b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
    b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
  }
  const auto pairs = [](__m512 x, __m512 y, bool high) {
    const __m512d p = _mm512_castps_pd(x), q = _mm512_castps_pd(y);
    return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(p, q) : _mm512_unpacklo_pd(p, q));
  };
  // In each quarter of a[4 k + c] now stands column 4 * quarter + c of rows 4 k to 4 k + 3.
  for (size_t r = 0; r < kLanes; r += 4) {
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
  for (size_t r = 0; r < kLanes; ++r) a[r] = b[r];
}

// From `rows` rows of `columns` numbers, `stride` apart, up to sixteen each, to `columns` rows of
// sixteen, `to_stride` apart; absent rows are zeros.
template <typename Element>
inline void transpose(const Element* from, size_t rows, size_t stride, size_t columns, float* to,
                      size_t to_stride) {
  __m512 lines[kLanes];
  const First lanes(columns);
  for (size_t r = 0; r < kLanes; ++r) {
    lines[r] = r < rows ? load(from + r * stride, lanes) : zeros();
  }
  transpose(lines);
  for (size_t c = 0; c < columns; ++c) store(to + c * to_stride, lines[c]);
}

#else

inline __m256 load_eight(const float* from, First lanes) {
  return _mm256_maskload_ps(from, lanes.low);
}
inline __m256 load_eight(const Half* from, First lanes) {
  Half whole[8] = {};
  std::memcpy(whole, from, lanes.count * sizeof(Half));
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(whole)));
}

// The same of eight.
template <typename Element>
inline void transpose_eight(const Element* from, size_t rows, size_t stride, size_t columns,
                            float* to, size_t to_stride) {
  __m256 a[8], b[8];
  const First lanes(columns);
  for (size_t r = 0; r < 8; ++r) {
    a[r] = r < rows ? load_eight(from + r * stride, lanes) : _mm256_setzero_ps();
  }
  for (size_t r = 0; r < 8; r += 2) {
    b[r] = _mm256_unpacklo_ps(a[r], a[r + 1]);
    b[r + 1] = _mm256_unpackhi_ps(a[r], a[r + 1]);
  }
  // In each half of a[4 k + c] now stands column 4 * half + c of rows 4 k to 4 k + 3.
  for (size_t r = 0; r < 8; r += 4) {
    a[r] = _mm256_shuffle_ps(b[r], b[r + 2], 0x44);
    a[r + 1] = _mm256_shuffle_ps(b[r], b[r + 2], 0xee);
    a[r + 2] = _mm256_shuffle_ps(b[r + 1], b[r + 3], 0x44);
    a[r + 3] = _mm256_shuffle_ps(b[r + 1], b[r + 3], 0xee);
  }
  for (size_t c = 0; c < 4; ++c) {
    b[c] = _mm256_permute2f128_ps(a[c], a[4 + c], 0x20);
    b[4 + c] = _mm256_permute2f128_ps(a[c], a[4 + c], 0x31);
  }
  for (size_t c = 0; c < columns; ++c) _mm256_storeu_ps(to + c * to_stride, b[c]);
}

// From `rows` rows of `columns` numbers, `stride` apart, up to sixteen each, to `columns` rows of
// sixteen, `to_stride` apart; absent rows are zeros.
template <typename Element>
inline void transpose(const Element* from, size_t rows, size_t stride, size_t columns, float* to,
                      size_t to_stride) {
  const auto part = [](size_t first, size_t count) {
    return count <= first ? 0 : count - first < 8 ? count - first : 8;
  };
  for (size_t r = 0; r < kLanes; r += 8) {
    for (size_t c = 0; c < columns; c += 8) {
      transpose_eight(from + r * stride + c, part(r, rows), stride, part(c, columns),
                      to + c * to_stride + r, to_stride);
    }
  }
}

#endif

}  // namespace rbee::RBEE_VARIANT
