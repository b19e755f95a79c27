// Sixteen numbers in one register of 512 bits; included by simd.h alone.
#pragma once

namespace rbee::RBEE_VARIANT {

using Floats = __m512;
using Integers = __m512i;
using FourBytes = __m512i;  // the same four, over and over

// How many times sixteen numbers the registers hold.
constexpr size_t kRegisters = 32;

// The first so many of sixteen numbers.
struct First {
  explicit First(size_t count) : mask(static_cast<__mmask16>((1u << count) - 1)) {}
  __mmask16 mask;
};

inline Floats zeros() { return _mm512_setzero_ps(); }
inline Floats repeat(float x) { return _mm512_set1_ps(x); }
inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline Floats load(const float* from, First lanes) {
  return _mm512_maskz_loadu_ps(lanes.mask, from);
}
inline void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
inline void store(float* to, Floats x, First lanes) { _mm512_mask_storeu_ps(to, lanes.mask, x); }
inline Floats load(const Half* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline Floats load(const Power* from) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(bytes), 23));
}
inline Floats load(const int8_t* from) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
inline Floats load(const Half* from, First lanes) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes.mask, from));
}
inline __m256i halves(Floats x) {
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline void store_halves(Half* to, Floats x, All) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves(x));
}
inline void store_halves(Half* to, Floats x, First lanes) {
  _mm256_mask_storeu_epi16(to, lanes.mask, halves(x));
}
inline Floats select(First lanes, Floats x, Floats otherwise) {
  return _mm512_mask_mov_ps(otherwise, lanes.mask, x);
}

inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
// a * b + c, a * b - c and c - a * b, rounded once.
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats multiply_subtract(Floats a, Floats b, Floats c) { return _mm512_fmsub_ps(a, b, c); }
inline Floats subtract_product(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
// Of a NaN and a number, the second.
inline Floats lesser(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats greater(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats magnitude(Floats x) { return _mm512_abs_ps(x); }
inline Floats whole(Floats x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// x * 2**n, for whole n from -200 to 200.
inline Floats times_power_of_two(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }

// A bit for each number: whether a >= b, and whether it is none.
inline unsigned at_least(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline unsigned not_numbers(Floats x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
// x, 0 where it is below a threshold; NaN stays NaN.
inline Floats zero_below(Floats x, Floats threshold) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, threshold, _CMP_NLT_UQ), x);
}

inline Integers repeat(int32_t x) { return _mm512_set1_epi32(x); }
inline Integers load_integers(const void* from) { return _mm512_loadu_si512(from); }
inline void store_integers(void* to, Integers x) { _mm512_storeu_si512(to, x); }
inline Integers add(Integers a, Integers b) { return _mm512_add_epi32(a, b); }
inline Integers rounded(Floats x) { return _mm512_cvtps_epi32(x); }
inline Floats as_floats(Integers x) { return _mm512_cvtepi32_ps(x); }
// Of the same bits.
inline Floats bits_as_floats(Integers x) { return _mm512_castsi512_ps(x); }
// As bytes, the nearest there are.
inline void store_bytes(int8_t* to, Integers x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtsepi32_epi8(x));
}
// Of each byte, the lower or the upper four bits.
inline Integers low_nibbles(Integers x) { return _mm512_and_si512(x, _mm512_set1_epi8(0xf)); }
inline Integers high_nibbles(Integers x) { return low_nibbles(_mm512_srli_epi16(x, 4)); }
// Sixteen bytes, and of each byte of x, from 0 to 15, the one of these that has its number.
inline Integers load_table(const uint8_t* from) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline Integers look_up(Integers table, Integers x) { return _mm512_shuffle_epi8(table, x); }
// Integers of six bits: the lower four of each byte, and above them two of another, from bit
// 2 * `Pair` on.
template <size_t Pair>
inline Integers with_upper(Integers nibbles, Integers pairs) {
  if constexpr (Pair < 2) pairs = _mm512_slli_epi16(pairs, 4 - 2 * Pair);
  if constexpr (Pair > 2) pairs = _mm512_srli_epi16(pairs, 2);
  // nibbles | (pairs & mask)
  return _mm512_ternarylogic_epi32(nibbles, pairs, _mm512_set1_epi8(0x30), 0xf8);
}
inline FourBytes repeat_four(const void* from) {
  int32_t word;
  std::memcpy(&word, from, sizeof word);
  return _mm512_set1_epi32(word);
}
// Adds to each number the products of its four bytes of `a`, without signs, with those of `b`.
inline Integers add_dot(Integers to, Integers a, FourBytes b) {
  return _mm512_dpbusd_epi32(to, a, b);
}

// The same of four bytes of `a` and its four of `b`.
inline Integers add_dot_of_four(Integers to, FourBytes a, Integers b) {
  return _mm512_dpbusd_epi32(to, a, b);
}
// As bytes, of integers from 0 to 255, and of the least there is 0.
inline void store_bytes(uint8_t* to, Integers x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(x));
}

inline __m256 lower(Floats x) { return _mm512_castps512_ps256(x); }
inline __m256 upper(Floats x) { return _mm512_extractf32x8_ps(x, 1); }
inline __m256i lower(Integers x) { return _mm512_castsi512_si256(x); }
inline __m256i upper(Integers x) { return _mm512_extracti32x8_epi32(x, 1); }

}  // namespace rbee::RBEE_VARIANT
