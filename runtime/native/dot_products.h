// Sums of products of weights and rounded activations, exact in 32 bits.
#pragma once

#include <algorithm>

#include "packed_weights.h"
#include "simd.h"

namespace rbee::RBEE_VARIANT {

constexpr size_t kLine = kLanes * sizeof(int32_t);

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

// Of sixteen inputs of six bits.
template <size_t Rows>
[[gnu::always_inline]] inline void add_sixes(const uint8_t* integers, const int8_t* values,
                                             size_t block, Integers* sums) {
  const Integers first = load_integers(integers);
  const Integers second = load_integers(integers + kLine);
  const Integers pairs = load_integers(integers + 2 * kLine);
  const auto add = [&](Integers line, size_t input) {
    for (size_t r = 0; r < Rows; ++r) {
      sums[r] = add_dot(sums[r], line, repeat_four(values + r * block + input));
    }
  };
  add(with_upper<0>(low_nibbles(first), pairs), 0);
  add(with_upper<1>(high_nibbles(first), pairs), 4);
  add(with_upper<2>(low_nibbles(second), pairs), 8);
  add(with_upper<3>(high_nibbles(second), pairs), 12);
}

// Adds to the sums of `Rows` rows the products of a block: integers without signs for sixteen
// outputs, in the order of PackedWeights, with each row's `block` bytes. Numbers are a table's.
template <size_t Rows, Form kForm>
[[gnu::always_inline]] inline void add_products(const uint8_t* integers, const int8_t* values,
                                                size_t block, Integers table, Integers* sums) {
  constexpr bool kNibbles = bits_of(kForm) == 4;
  if constexpr (kForm == Form::kSixes) {
#pragma GCC unroll 2
    for (size_t i = 0; i < block; i += 16, integers += 3 * kLine) {
      add_sixes<Rows>(integers, values + i, block, sums);
    }
    return;
  }
#pragma GCC unroll 8
  for (size_t i = 0; i < block; i += kNibbles ? 8 : 4) {
    const Integers line = load_integers(integers);
    integers += kLine;
    if constexpr (kNibbles) {
      Integers even = low_nibbles(line);
      Integers odd = high_nibbles(line);
      if constexpr (kForm == Form::kNumbers) {
        even = look_up(table, even);
        odd = look_up(table, odd);
      }
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

// Of a run of six bits, the lower four and the upper two.
template <size_t Rows>
[[gnu::always_inline]] inline void add_sixes(const uint8_t* lines, const int8_t* values,
                                             size_t block, size_t count, Integers* sums) {
  Integers words[Rows];
  const auto add = [&](Integers line, const int8_t* inputs) {
    for (size_t r = 0; r < Rows; ++r) {
      words[r] = add_pairs(words[r], line, repeat_four(inputs + r * block));
    }
  };
  for (Integers& word : words) word = repeat(0);
#pragma GCC unroll 4
  for (size_t i = 0; i < count; i += 8) {
    const Integers line = load_integers(lines + (i / 16 * 3 + i / 8 % 2) * kLine);
    add(low_nibbles(line), values + i);
    add(high_nibbles(line), values + i + 4);
  }
  for (size_t r = 0; r < Rows; ++r) sums[r] = add_words(sums[r], words[r], 1);
  for (Integers& word : words) word = repeat(0);
#pragma GCC unroll 2
  for (size_t i = 0; i < count; i += 16) {
    const Integers pairs = load_integers(lines + (i / 16 * 3 + 2) * kLine);
    add(pairs_of<0>(pairs), values + i);
    add(pairs_of<1>(pairs), values + i + 4);
    add(pairs_of<2>(pairs), values + i + 8);
    add(pairs_of<3>(pairs), values + i + 12);
  }
  for (size_t r = 0; r < Rows; ++r) sums[r] = add_words(sums[r], words[r], 16);
}

// Of a run of numbers, what a table has for each, from 0 to 15, times a factor.
template <size_t Rows>
[[gnu::always_inline]] inline void add_looked_up(const uint8_t* lines, const int8_t* values,
                                                 size_t block, size_t count, Integers table,
                                                 int16_t factor, Integers* sums) {
  Integers words[Rows];
  const auto add = [&](Integers line, const int8_t* inputs) {
    for (size_t r = 0; r < Rows; ++r) {
      words[r] = add_pairs(words[r], line, repeat_four(inputs + r * block));
    }
  };
  for (Integers& word : words) word = repeat(0);
#pragma GCC unroll 4
  for (size_t i = 0; i < count; i += 8) {
    const Integers line = load_integers(lines + i / 8 * kLine);
    add(look_up(table, low_nibbles(line)), values + i);
    add(look_up(table, high_nibbles(line)), values + i + 4);
  }
  for (size_t r = 0; r < Rows; ++r) sums[r] = add_words(sums[r], words[r], factor);
}

template <size_t Rows, Form kForm>
[[gnu::always_inline]] inline void add_products(const uint8_t* integers, const int8_t* values,
                                                size_t block, Integers table, Integers* sums) {
  for (size_t from = 0; from < block; from += kRun, values += kRun) {
    const size_t count = std::min(kRun, block - from);
    if constexpr (kForm == Form::kFours) {
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
    } else if constexpr (kForm == Form::kNumbers) {
      add_looked_up<Rows>(integers, values, block, count, low_nibbles(table), 1, sums);
      __asm__("" ::: "memory");  // as below
      add_looked_up<Rows>(integers, values, block, count, high_nibbles(table), 16, sums);
    } else if constexpr (kForm == Form::kSixes) {
      add_sixes<Rows>(integers, values, block, count, sums);
    } else {
      add_nibbles<Rows, false>(integers, values, block, count, sums);
      // Or else what both read would be kept in between, for which registers are too few.
      __asm__("" ::: "memory");
      add_nibbles<Rows, true>(integers, values, block, count, sums);
    }
    integers += count * bits_of(kForm) / 32 * kLine;
  }
}

#endif

}  // namespace rbee::RBEE_VARIANT
