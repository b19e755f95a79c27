#include "bf16_weights.h"

#include <immintrin.h>

#include <type_traits>

#include "bf16_tiles.h"

namespace rbee::avx512 {
namespace {

// Numbers are cut off after the bits of a bfloat16, which takes half as long as rounding them: this
// much larger before, what is cut off takes away as much on average.
constexpr float kCutOff = 1.0028f;

// Integers become floats in place: below the exponent of 2^(23 - bit), a mantissa whose bits from
// `bit` on are q is the number 2^(23 - bit) + q.
template <int Bit, int Bits>
RBEE_MATRIX_UNIT inline __m512 above_power(__m512i word) {
  constexpr int kExponent = (127 + 23 - Bit) << 23;
  constexpr int kMask = ((1 << Bits) - 1) << Bit;
  // (word & mask) | exponent
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(word, _mm512_set1_epi32(kMask),
                                                       _mm512_set1_epi32(kExponent), 0xea));
}

// The same of a byte of each word, from bit 8 on: one instruction that shifts, masks and adds.
template <int Byte>
RBEE_MATRIX_UNIT inline __m512 byte_above_power(__m512i line) {
  constexpr int kExponent = (127 + 23 - 8) << 23;
  constexpr __mmask64 kSecond = 0x2222222222222222;
  const __m512i order =
      _mm512_set4_epi32((12 + Byte) << 8, (8 + Byte) << 8, (4 + Byte) << 8, Byte << 8);
  return _mm512_castsi512_ps(
      _mm512_mask_shuffle_epi8(_mm512_set1_epi32(kExponent), kSecond, line, order));
}

template <int Bit, int Middle>
RBEE_MATRIX_UNIT inline __m512 less_power(__m512 scale, __m512 offset) {
  constexpr float kPower = static_cast<float>((1 << (23 - Bit)) + Middle);
  return _mm512_fnmadd_ps(scale, _mm512_set1_ps(kPower), offset);
}

// What side_by_side does, by one shuffle of bytes for two instructions: here are few shuffles else.
inline __m512i shuffled_together(__m512 even, __m512 odd) {
  constexpr __mmask64 kLower = 0x3333333333333333;
  const __m512i order = _mm512_set4_epi32(0x0f0e, 0x0b0a, 0x0706, 0x0302);
  return _mm512_mask_shuffle_epi8(_mm512_castps_si512(odd), kLower, _mm512_castps_si512(even),
                                  order);
}

// Integers of six bits: the lower four of each byte, and the next two of another.
RBEE_MATRIX_UNIT inline __m512i joined(__m512i lower, __m512i upper) {
  // lower where the mask is set, else upper
  const __m512i six =
      _mm512_ternarylogic_epi32(_mm512_set1_epi8(0x0f), lower, upper, 0xca);
  return _mm512_and_si512(six, _mm512_set1_epi8(0x3f));
}

// A float's exponent.
struct Power {
  uint8_t exponent;
};

// What a table has for the lower four bits of each byte.
RBEE_MATRIX_UNIT inline __m512i numbered(__m512i table, __m512i line) {
  return _mm512_shuffle_epi8(table, _mm512_and_si512(line, _mm512_set1_epi8(0x0f)));
}

template <typename Number>
RBEE_MATRIX_UNIT inline __m512 take(const uint8_t*& from) {
  const uint8_t* numbers = from;
  from += kPanel * sizeof(Number);
  if constexpr (std::is_same_v<Number, Power>) {
    const auto* bytes = reinterpret_cast<const __m128i*>(numbers);
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128(bytes)), 23));
  } else if constexpr (sizeof(Number) == 1) {
    const auto* bytes = reinterpret_cast<const __m128i*>(numbers);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes)));
  } else if constexpr (sizeof(Number) == 2) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers)));
  } else {
    return _mm512_loadu_ps(numbers);
  }
}

template <Form kForm, Held How, bool Offsets>
RBEE_MATRIX_UNIT void round_panel(const Panels& weights, size_t index, size_t first, size_t blocks,
                                  uint16_t* to) {
  const size_t block = weights.shape().block;
  const size_t group = kGroupInputs / block;
  const uint8_t* head = weights.panel(index);
  const uint8_t* panel = head + weights.head_bytes() + first * weights.block_bytes();
  [[maybe_unused]] const __m512 middle = _mm512_set1_ps(weights.middle());
  [[maybe_unused]] __m512i integers;
  if constexpr (kForm == Form::kNumbers) {
    const auto* table = reinterpret_cast<const __m128i*>(weights.table().integers.data());
    integers = _mm512_broadcast_i32x4(_mm_loadu_si128(table));
  }
  [[maybe_unused]] __m512 factor, minimum_factor;
  for (size_t b = first; b < first + blocks; ++b) {
    __m512 scale;
    __m512 offset = _mm512_setzero_ps();  // or minimum
    if constexpr (How == Held::kProducts) {
      if (b == first || b % group == 0) {
        const uint8_t* factors = head + b / group * kPanel * sizeof(uint16_t) * (Offsets ? 2 : 1);
        factor = take<uint16_t>(factors);
        if constexpr (Offsets) minimum_factor = take<uint16_t>(factors);
      }
      scale = _mm512_mul_ps(factor, take<int8_t>(panel));
      if constexpr (Offsets) offset = _mm512_mul_ps(minimum_factor, take<int8_t>(panel));
    } else {
      using Short = std::conditional_t<How == Held::kHalves, uint16_t, Power>;
      using Number = std::conditional_t<How == Held::kFloats, float, Short>;
      scale = take<Number>(panel);
      if constexpr (Offsets) offset = take<Number>(panel);
    }
    if constexpr (Offsets && How != Held::kFloats) offset = _mm512_fmadd_ps(middle, scale, offset);
    scale = _mm512_mul_ps(scale, _mm512_set1_ps(kCutOff));
    offset = _mm512_mul_ps(offset, _mm512_set1_ps(kCutOff));
    if constexpr (kForm == Form::kFours) {
      const __m512 low = less_power<16, 8>(scale, offset);
      const __m512 high = less_power<12, 8>(scale, offset);
      for (size_t i = 0; i < block; i += 8, panel += kUnitBytes, to += 4 * kStepInputs) {
        const __m512i line = _mm512_loadu_si512(panel);
        const __m512i by8 = _mm512_ror_epi32(line, 8);
        const __m512i by16 = _mm512_ror_epi32(line, 16);
        const __m512i by24 = _mm512_ror_epi32(line, 24);
        const auto first = [&](__m512i word) RBEE_MATRIX_UNIT {
          return _mm512_fmadd_ps(above_power<16, 4>(word), scale, low);
        };
        const auto second = [&](__m512i word) RBEE_MATRIX_UNIT {
          return _mm512_fmadd_ps(above_power<12, 4>(word), scale, high);
        };
        _mm512_storeu_si512(to, shuffled_together(first(by16), first(by24)));
        _mm512_storeu_si512(to + kStepInputs, shuffled_together(first(line), first(by8)));
        _mm512_storeu_si512(to + 2 * kStepInputs, shuffled_together(second(by24), second(line)));
        _mm512_storeu_si512(to + 3 * kStepInputs, shuffled_together(second(by8), second(by16)));
      }
    } else {
      const __m512 down = less_power<8, middle_of(kForm)>(scale, offset);
      const auto round = [&](__m512i line) RBEE_MATRIX_UNIT {
        const auto number = [&](__m512 word) RBEE_MATRIX_UNIT {
          return _mm512_fmadd_ps(word, scale, down);
        };
        _mm512_storeu_si512(to, shuffled_together(number(byte_above_power<0>(line)),
                                                  number(above_power<8, 8>(line))));
        _mm512_storeu_si512(to + kStepInputs,
                            shuffled_together(number(byte_above_power<2>(line)),
                                              number(byte_above_power<3>(line))));
        to += 2 * kStepInputs;
      };
      if constexpr (kForm == Form::kNumbers) {
        for (size_t i = 0; i < block; i += 8, panel += kUnitBytes) {
          const __m512i line = _mm512_loadu_si512(panel);
          round(numbered(integers, line));
          round(numbered(integers, _mm512_srli_epi16(line, 4)));
        }
      } else if constexpr (kForm == Form::kEights) {
        for (size_t i = 0; i < block; i += 4, panel += kUnitBytes) {
          round(_mm512_loadu_si512(panel));
        }
      } else {
        for (size_t i = 0; i < block; i += 16, panel += 3 * kUnitBytes) {
          const __m512i first = _mm512_loadu_si512(panel);
          const __m512i second = _mm512_loadu_si512(panel + kUnitBytes);
          const __m512i pairs = _mm512_loadu_si512(panel + 2 * kUnitBytes);
          round(joined(first, _mm512_slli_epi16(pairs, 4)));
          round(joined(_mm512_srli_epi16(first, 4), _mm512_slli_epi16(pairs, 2)));
          round(joined(second, pairs));
          round(joined(_mm512_srli_epi16(second, 4), _mm512_srli_epi16(pairs, 2)));
        }
      }
    }
  }
}

template <Form kForm, Held How>
RoundPanel of_scales(const Panels& weights) {
  return weights.has_offsets() ? round_panel<kForm, How, true> : round_panel<kForm, How, false>;
}

template <Form kForm>
RoundPanel of_form(const Panels& weights) {
  switch (weights.held()) {
    case Held::kHalves:
      return of_scales<kForm, Held::kHalves>(weights);
    case Held::kProducts:
      return of_scales<kForm, Held::kProducts>(weights);
    default:
      return of_scales<kForm, Held::kFloats>(weights);
  }
}

RoundPanel of_numbers(const Panels& weights) {
  switch (weights.held()) {
    case Held::kPowers:
      return round_panel<Form::kNumbers, Held::kPowers, false>;
    case Held::kProducts:
      return round_panel<Form::kNumbers, Held::kProducts, false>;
    default:
      return round_panel<Form::kNumbers, Held::kHalves, false>;
  }
}

}  // namespace

RoundPanel round_panel_of(const Panels& weights) {
  switch (weights.form()) {
    case Form::kFours:
      return of_form<Form::kFours>(weights);
    case Form::kNumbers:
      return of_numbers(weights);
    case Form::kSixes:
      return of_form<Form::kSixes>(weights);
    default:
      return of_form<Form::kEights>(weights);
  }
}

}  // namespace rbee::avx512
