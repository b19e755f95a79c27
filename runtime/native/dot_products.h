// Sums of products of weights and rounded activations, exact in 32 bits.
#pragma once

#include <algorithm>

#include "simd.h"

namespace rbee::RBEE_VARIANT {

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

// Adds to the sums of `Rows` rows the products of a block: integers without signs for sixteen
// outputs, in the order of PackedWeights, with each row's `block` bytes.
template <size_t Rows, size_t Bits>
[[gnu::always_inline]] inline void add_products(const uint8_t* integers, const int8_t* values,
                                                size_t block, Integers* sums) {
#pragma GCC unroll 8
  for (size_t i = 0; i < block; i += Bits == 4 ? 8 : 4) {
    const Integers line = load_integers(integers);
    integers += kLanes * sizeof(int32_t);
    if constexpr (Bits == 4) {
      const Integers even = low_nibbles(line);
      const Integers odd = high_nibbles(line);
      for (size_t r = 0; r < Rows; ++r) {
        sums[r] = add_dot(sums[r], even, repeat_four(values + r * block + i));
      }
      for (size_t r = 0; r < Rows; ++r) {
        sums[r] = add_dot(sums[r], odd, repeat_four(values + r * block + i + 4));
      }
    } else {
      for (size_t r = 0; r < Rows; ++r) {
        sums[r] = add_dot(sums[r], line, repeat_four(values + r * block + i));
      }
    }
  }
}

#else

// Inputs whose products with four bits fit words: eight sums of two of at most 15 * 128 each.
constexpr size_t kRun = 32;
constexpr size_t kLine = kLanes * sizeof(int32_t);

// Of eight bits, the lower or the upper four of a run, which count sixteen times as much.
template <size_t Rows, bool Upper>
[[gnu::always_inline]] inline void add_nibbles(const uint8_t* lines, const int8_t* values,
                                               size_t block, size_t count, Integers* sums) {
  Integers words[Rows];
  for (Integers& word : words) word = repeat(0);
#pragma GCC unroll 8
  for (size_t i = 0; i < count; i += 4) {
    const Integers line = load_integers(lines + i / 4 * kLine);
    const Integers nibbles = Upper ? high_nibbles(line) : low_nibbles(line);
    for (size_t r = 0; r < Rows; ++r) {
      words[r] = add_pairs(words[r], nibbles, repeat_four(values + r * block + i));
    }
  }
  for (size_t r = 0; r < Rows; ++r) sums[r] = add_words(sums[r], words[r], Upper ? 16 : 1);
}

template <size_t Rows, size_t Bits>
[[gnu::always_inline]] inline void add_products(const uint8_t* integers, const int8_t* values,
                                                size_t block, Integers* sums) {
  for (size_t from = 0; from < block; from += kRun, values += kRun) {
    const size_t count = std::min(kRun, block - from);
    if constexpr (Bits == 4) {
      Integers words[Rows];
      for (Integers& word : words) word = repeat(0);
#pragma GCC unroll 4
      for (size_t i = 0; i < count; i += 8) {
        const Integers line = load_integers(integers + i / 8 * kLine);
        const Integers even = low_nibbles(line);
        for (size_t r = 0; r < Rows; ++r) {
          words[r] = add_pairs(words[r], even, repeat_four(values + r * block + i));
        }
        const Integers odd = high_nibbles(line);
        for (size_t r = 0; r < Rows; ++r) {
          words[r] = add_pairs(words[r], odd, repeat_four(values + r * block + i + 4));
        }
      }
      for (size_t r = 0; r < Rows; ++r) sums[r] = add_words(sums[r], words[r], 1);
    } else {
      add_nibbles<Rows, false>(integers, values, block, count, sums);
      // Or else what both read would be kept in between, for which registers are too few.
      __asm__("" ::: "memory");
      add_nibbles<Rows, true>(integers, values, block, count, sums);
    }
    integers += count * Bits / 32 * kLine;
  }
}

#endif

}  // namespace rbee::RBEE_VARIANT
