// Sixteen numbers at a time, in the registers of the variant that is being compiled.
//
// Every source that includes this is compiled once for each variant, into a namespace of its own
// (RBEE_VARIANT). All variants do the same operations in the same order, so their results are the
// same, bit for bit; compilers are told not to fuse products and sums that are not fused here.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "head_cache.h"

namespace rbee::RBEE_VARIANT {

constexpr size_t kLanes = 16;
constexpr float kLargestHalf = 65504;

// All sixteen numbers.
struct All {};

// A power of two: a float's exponent, 0 that of 0.
struct Power {
  uint8_t exponent;
};

}  // namespace rbee::RBEE_VARIANT

#ifdef __AVX512F__
#include "simd_avx512.h"
#else
#include "simd_avx2.h"
#endif

namespace rbee::RBEE_VARIANT {

inline Floats load(const float* from, All) { return load(from); }
inline void store(float* to, Floats x, All) { store(to, x); }
inline Floats load(const Half* from, All) { return load(from); }
// The nearest that are finite; what is no number stays none.
template <typename Lanes>
inline void store(Half* to, Floats x, Lanes lanes) {
  store_halves(to, lesser(repeat(kLargestHalf), greater(repeat(-kLargestHalf), x)), lanes);
}
inline Floats select(All, Floats x, Floats) { return x; }

// Calls `body(index, lanes)` for each sixteen of `count` numbers, and for the rest.
template <typename Body>
inline void over(size_t count, const Body& body) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, All{});
  if (i < count) body(i, First(count - i));
}

inline float sum(Floats x) {
  const __m256 eight = _mm256_add_ps(upper(x), lower(x));
  const __m128 four = _mm_add_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline float largest(Floats x) {
  const __m256 eight = _mm256_max_ps(upper(x), lower(x));
  const __m128 four = _mm_max_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline int32_t sum(Integers x) {
  const __m256i eight = _mm256_add_epi32(upper(x), lower(x));
  const __m128i four =
      _mm_add_epi32(_mm256_extracti128_si256(eight, 1), _mm256_castsi256_si128(eight));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

}  // namespace rbee::RBEE_VARIANT
