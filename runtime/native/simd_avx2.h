// Sixteen numbers in two registers of 256 bits; included by simd.h alone.
#pragma once

namespace rbee::RBEE_VARIANT {

struct Floats {
  __m256 low, high;
};
struct Integers {
  __m256i low, high;
};
using FourBytes = __m256i;  // the same four, over and over

// How many times sixteen numbers the registers hold.
constexpr size_t kRegisters = 8;

// The first so many of sixteen numbers.
struct First {
  explicit First(size_t count) : count(count) {
    alignas(64) static constexpr int32_t kMasks[2 * kLanes] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                               -1, -1, -1, -1, -1, -1, -1, -1};
    const auto* from = reinterpret_cast<const __m256i*>(kMasks + kLanes - count);
    low = _mm256_loadu_si256(from);
    high = _mm256_loadu_si256(from + 1);
  }
  size_t count;
  __m256i low, high;
};

inline Floats zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Floats repeat(float x) {
  const __m256 all = _mm256_set1_ps(x);
  return {all, all};
}
inline Floats load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline Floats load(const float* from, First lanes) {
  return {_mm256_maskload_ps(from, lanes.low), _mm256_maskload_ps(from + 8, lanes.high)};
}
inline void store(float* to, Floats x) {
  _mm256_storeu_ps(to, x.low);
  _mm256_storeu_ps(to + 8, x.high);
}
inline void store(float* to, Floats x, First lanes) {
  _mm256_maskstore_ps(to, lanes.low, x.low);
  _mm256_maskstore_ps(to + 8, lanes.high, x.high);
}
inline Floats load(const Half* from) {
  const auto* eights = reinterpret_cast<const __m128i*>(from);
  return {_mm256_cvtph_ps(_mm_loadu_si128(eights)), _mm256_cvtph_ps(_mm_loadu_si128(eights + 1))};
}
inline Floats load(const Power* from) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  const auto powers = [](__m128i eight) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(eight), 23));
  };
  return {powers(bytes), powers(_mm_srli_si128(bytes, 8))};
}
inline Floats load(const int8_t* from) {
  const auto eight = [&](size_t first) {
    const auto* bytes = reinterpret_cast<const __m128i*>(from + first);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes)));
  };
  return {eight(0), eight(8)};
}
inline Floats load(const Half* from, First lanes) {
  // There are no masks for numbers of 16 bits.
  Half whole[kLanes] = {};
  std::memcpy(whole, from, lanes.count * sizeof(Half));
  return load(whole);
}
inline void store_halves(Half* to, Floats x, All) {
  auto* eights = reinterpret_cast<__m128i*>(to);
  _mm_storeu_si128(eights, _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(eights + 1, _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT));
}
inline void store_halves(Half* to, Floats x, First lanes) {
  Half whole[kLanes];
  store_halves(whole, x, All{});
  std::memcpy(to, whole, lanes.count * sizeof(Half));
}
inline Floats select(First lanes, Floats x, Floats otherwise) {
  return {_mm256_blendv_ps(otherwise.low, x.low, _mm256_castsi256_ps(lanes.low)),
          _mm256_blendv_ps(otherwise.high, x.high, _mm256_castsi256_ps(lanes.high))};
}

inline Floats add(Floats a, Floats b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Floats subtract(Floats a, Floats b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Floats times(Floats a, Floats b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Floats divide(Floats a, Floats b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
// a * b + c, a * b - c and c - a * b, rounded once.
inline Floats multiply_add(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Floats multiply_subtract(Floats a, Floats b, Floats c) {
  return {_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
}
inline Floats subtract_product(Floats a, Floats b, Floats c) {
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
// Of a NaN and a number, the second.
inline Floats lesser(Floats a, Floats b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Floats greater(Floats a, Floats b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Floats magnitude(Floats x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
inline Floats whole(Floats x) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.low, kNearest), _mm256_round_ps(x.high, kNearest)};
}
inline __m256 times_power_of_two(__m256 x, __m256 n) {
  // In two steps, the first of which is exact: one power may have no float of its own.
  const auto power = [](__m256i exponent) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)), 23));
  };
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  return _mm256_mul_ps(_mm256_mul_ps(x, power(half)), power(_mm256_sub_epi32(whole, half)));
}
// x * 2**n, for whole n from -200 to 200.
inline Floats times_power_of_two(Floats x, Floats n) {
  return {times_power_of_two(x.low, n.low), times_power_of_two(x.high, n.high)};
}

inline unsigned signs(__m256 low, __m256 high) {
  return static_cast<unsigned>(_mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8);
}
// A bit for each number: whether a >= b, and whether it is none.
inline unsigned at_least(Floats a, Floats b) {
  return signs(_mm256_cmp_ps(a.low, b.low, _CMP_GE_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_GE_OQ));
}
inline unsigned not_numbers(Floats x) {
  return signs(_mm256_cmp_ps(x.low, x.low, _CMP_UNORD_Q),
               _mm256_cmp_ps(x.high, x.high, _CMP_UNORD_Q));
}
// x, 0 where it is below a threshold; NaN stays NaN.
inline Floats zero_below(Floats x, Floats threshold) {
  return {_mm256_and_ps(x.low, _mm256_cmp_ps(x.low, threshold.low, _CMP_NLT_UQ)),
          _mm256_and_ps(x.high, _mm256_cmp_ps(x.high, threshold.high, _CMP_NLT_UQ))};
}

inline Integers repeat(int32_t x) {
  const __m256i all = _mm256_set1_epi32(x);
  return {all, all};
}
inline Integers load_integers(const void* from) {
  const auto* eights = static_cast<const __m256i*>(from);
  return {_mm256_loadu_si256(eights), _mm256_loadu_si256(eights + 1)};
}
inline void store_integers(void* to, Integers x) {
  auto* eights = static_cast<__m256i*>(to);
  _mm256_storeu_si256(eights, x.low);
  _mm256_storeu_si256(eights + 1, x.high);
}
inline Integers add(Integers a, Integers b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline Integers rounded(Floats x) {
  return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)};
}
inline Floats as_floats(Integers x) {
  return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)};
}
// Of the same bits.
inline Floats bits_as_floats(Integers x) {
  return {_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)};
}
// As bytes, the nearest there are.
inline void store_bytes(int8_t* to, Integers x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.low, x.high), 0xd8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(to),
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
// Of each byte, the lower or the upper four bits.
inline Integers low_nibbles(Integers x) {
  const __m256i mask = _mm256_set1_epi8(0xf);
  return {_mm256_and_si256(x.low, mask), _mm256_and_si256(x.high, mask)};
}
inline Integers high_nibbles(Integers x) {
  return low_nibbles({_mm256_srli_epi16(x.low, 4), _mm256_srli_epi16(x.high, 4)});
}
// Sixteen bytes, and of each byte of x, from 0 to 15, the one of these that has its number.
inline Integers load_table(const uint8_t* from) {
  const __m256i twice =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return {twice, twice};
}
inline Integers look_up(Integers table, Integers x) {
  return {_mm256_shuffle_epi8(table.low, x.low), _mm256_shuffle_epi8(table.high, x.high)};
}
// Integers of six bits: the lower four of each byte, and such two above them.
template <size_t Pair>
inline Integers with_upper(Integers nibbles, Integers pairs) {
  const auto joined = [](__m256i lower, __m256i x) {
    if constexpr (Pair < 2) x = _mm256_slli_epi16(x, 4 - 2 * Pair);
    if constexpr (Pair > 2) x = _mm256_srli_epi16(x, 2);
    return _mm256_or_si256(lower, _mm256_and_si256(x, _mm256_set1_epi8(0x30)));
  };
  return {joined(nibbles.low, pairs.low), joined(nibbles.high, pairs.high)};
}
inline FourBytes repeat_four(const void* from) {
  int32_t word;
  std::memcpy(&word, from, sizeof word);
  return _mm256_set1_epi32(word);
}
// As bytes, of integers from 0 to 255, and of the least there is 0.
inline void store_bytes(uint8_t* to, Integers x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(x.low, x.high), 0xd8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(to),
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
#ifdef __AVXVNNI__
// The same as add_dot of four bytes of `a` and its four of `b`.
inline Integers add_dot_of_four(Integers to, FourBytes a, Integers b) {
  return {_mm256_dpbusd_avx_epi32(to.low, a, b.low), _mm256_dpbusd_avx_epi32(to.high, a, b.high)};
}
// Adds to each number the products of its four bytes of `a`, without signs, with those of `b`.
inline Integers add_dot(Integers to, Integers a, FourBytes b) {
  return {_mm256_dpbusd_avx_epi32(to.low, a.low, b), _mm256_dpbusd_avx_epi32(to.high, a.high, b)};
}
#else
// Adds to each number the products of four bytes of `a`, without signs, with its four of `b`.
inline Integers add_dot_of_four(Integers to, FourBytes a, Integers b) {
  // By words, which the products of bytes do not fit.
  const __m256i even = _mm256_and_si256(a, _mm256_set1_epi16(0xff));
  const __m256i odd = _mm256_srli_epi16(a, 8);
  const auto dot = [&](__m256i sums, __m256i x) {
    const __m256i evens = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(even, evens));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(odd, _mm256_srai_epi16(x, 8)));
  };
  return {dot(to.low, b.low), dot(to.high, b.high)};
}
// Adds to each number, two words, the products of its four bytes of `a`, without signs, with those
// of `b`: those of the first two to the first word, of the others to the second.
inline Integers add_pairs(Integers to, Integers a, FourBytes b) {
  to.low = _mm256_add_epi16(to.low, _mm256_maddubs_epi16(a.low, b));
  to.high = _mm256_add_epi16(to.high, _mm256_maddubs_epi16(a.high, b));
  // Or else all products come first and their sums after them, for which registers are too few.
  __asm__("" : "+x"(to.low), "+x"(to.high));
  return to;
}
// Adds to each number the sum of its two words of `a`, times a factor.
inline Integers add_words(Integers to, Integers a, int16_t factor) {
  const __m256i factors = _mm256_set1_epi16(factor);
  return add(to, {_mm256_madd_epi16(a.low, factors), _mm256_madd_epi16(a.high, factors)});
}
#endif

inline __m256 lower(Floats x) { return x.low; }
inline __m256 upper(Floats x) { return x.high; }
inline __m256i lower(Integers x) { return x.low; }
inline __m256i upper(Integers x) { return x.high; }

}  // namespace rbee::RBEE_VARIANT
