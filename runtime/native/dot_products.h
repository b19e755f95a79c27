// Sums of products of weights and rounded activations, exact in 32 bits.
#pragma once

#include <algorithm>

#include "packed_weights.h"
#include "simd.h"

namespace rbee::RBEE_VARIANT {

constexpr size_t kLine = kLanes * sizeof(int32_t);

// What sums begin with besides, as the bits of a float: each 1 that is added to these is a 1 that is
// added to it, up to 2**22 either way. So no sum is converted, and what it is too large by goes
// where it is weighed, rounded once: this times a scale is exact, unless that is a 32-bit float.
constexpr float kShift = 3 << 22;
constexpr int32_t kShiftBits = 0x4b400000;
inline Floats shift_of(Floats scale) { return times(scale, repeat(-kShift)); }
inline Floats weighed(Integers sum, Floats scale, Floats shift) {
  return multiply_add(bits_as_floats(sum), scale, shift);
}

// Calls `put(input, first, second)` for each eight inputs of a block: two lines of integers without
// signs, each four bytes of sixteen outputs, out of the order of PackedWeights. Numbers are a table's.
template <Form kForm, typename Put>
[[gnu::always_inline]] inline void for_lines(const uint8_t* integers, size_t block,
                                             Integers table, const Put& put) {
  if constexpr (kForm == Form::kSixes) {
#pragma GCC unroll 2
    for (size_t i = 0; i < block; i += 16, integers += 3 * kLine) {
      const Integers first = load_integers(integers);
      const Integers second = load_integers(integers + kLine);
      const Integers pairs = load_integers(integers + 2 * kLine);
      put(i, with_upper<0>(low_nibbles(first), pairs), with_upper<1>(high_nibbles(first), pairs));
      put(i + 8, with_upper<2>(low_nibbles(second), pairs),
          with_upper<3>(high_nibbles(second), pairs));
    }
    return;
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < block; i += 8) {
    const Integers line = load_integers(integers);
    integers += kLine;
    if constexpr (kForm == Form::kEights) {
      put(i, line, load_integers(integers));
      integers += kLine;
    } else if constexpr (kForm == Form::kNumbers) {
      put(i, look_up(table, low_nibbles(line)), look_up(table, high_nibbles(line)));
    } else {
      put(i, low_nibbles(line), high_nibbles(line));
    }
  }
}

// Writes two lines side by side to where those of a block stand that is unpacked.
[[gnu::always_inline]] inline auto to_lines(uint8_t* to) {
  return [to](size_t input, Integers first, Integers second) {
    store_integers(to + input * kLanes, first);
    store_integers(to + (input + 4) * kLanes, second);
  };
}

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

// Of an unpacked block every integer is a byte.
constexpr Form unpacked(Form) { return Form::kEights; }
constexpr size_t unpacked_bytes(Form) { return 1; }

// Adds to the sums of `Rows` rows the products of a block of sixteen outputs with each row's `block`
// bytes.
template <size_t Rows, Form kForm>
[[gnu::always_inline]] inline void add_products(const uint8_t* integers, const int8_t* values,
                                                size_t block, Integers table, Integers* sums) {
  for_lines<kForm>(integers, block, table, [&](size_t i, Integers first, Integers second) {
    for (size_t r = 0; r < Rows; ++r) {
      sums[r] = add_dot(sums[r], first, repeat_four(values + r * block + i));
    }
    for (size_t r = 0; r < Rows; ++r) {
      sums[r] = add_dot(sums[r], second, repeat_four(values + r * block + i + 4));
    }
  });
}

// Unpacks a block.
template <Form kForm>
[[gnu::always_inline]] inline void unpack(const uint8_t* integers, size_t block, Integers table,
                                          uint8_t* to) {
  for_lines<kForm>(integers, block, table, to_lines(to));
}

// The same as add_products, of a block of several panels, so many bytes apart, that are unpacked.
template <size_t Rows, size_t Panels, Form>
[[gnu::always_inline]] inline void add_unpacked(const uint8_t* integers, size_t apart,
                                                const int8_t* values, size_t block,
                                                Integers (*sums)[Rows]) {
#pragma GCC unroll 8
  for (size_t i = 0; i < block; i += 4) {
    Integers line[Panels];
    for (size_t p = 0; p < Panels; ++p) {
      line[p] = load_integers(integers + p * apart + i * kLanes);
    }
    for (size_t r = 0; r < Rows; ++r) {
      const FourBytes inputs = repeat_four(values + r * block + i);
      for (size_t p = 0; p < Panels; ++p) sums[p][r] = add_dot(sums[p][r], line[p], inputs);
    }
  }
}

#else

// Inputs whose products with four bits fit words: eight sums of two of at most 15 * 128 each.
constexpr size_t kRun = 32;

// Of an unpacked block of eight bits, or of a table's, the lower four of all stand before the upper.
constexpr Form unpacked(Form form) { return form == Form::kNumbers ? Form::kEights : form; }
constexpr size_t unpacked_bytes(Form form) { return unpacked(form) == Form::kEights ? 2 : 1; }

// Calls `put` as for_lines does, with the lower or the upper four bits of all integers.
template <Form kForm, bool Upper, typename Put>
[[gnu::always_inline]] inline void for_nibbles(const uint8_t* integers, size_t block,
                                               Integers table, const Put& put) {
  const auto nibbles = [](Integers x) { return Upper ? high_nibbles(x) : low_nibbles(x); };
  if constexpr (kForm == Form::kNumbers) {
    for_lines<kForm>(integers, block, nibbles(table), put);
  } else {
    for_lines<kForm>(integers, block, table, [&](size_t i, Integers first, Integers second) {
      put(i, nibbles(first), nibbles(second));
    });
  }
}

// Of a run of four bits, times a factor. `each(put)` is one of the above.
template <size_t Rows, typename Each>
[[gnu::always_inline]] inline void add_fours(const Each& each, const int8_t* values, size_t block,
                                             int16_t factor, Integers* sums) {
  Integers words[Rows];
  for (Integers& word : words) word = repeat(0);
  each([&](size_t i, Integers first, Integers second) {
    for (size_t r = 0; r < Rows; ++r) {
      words[r] = add_pairs(words[r], first, repeat_four(values + r * block + i));
    }
    for (size_t r = 0; r < Rows; ++r) {
      words[r] = add_pairs(words[r], second, repeat_four(values + r * block + i + 4));
    }
  });
  for (size_t r = 0; r < Rows; ++r) sums[r] = add_words(sums[r], words[r], factor);
}

// Of six bits: two sums of two products of at most 63 * 128 fit words, no more.
template <size_t Rows, typename Each>
[[gnu::always_inline]] inline void add_sixes(const Each& each, const int8_t* values, size_t block,
                                             Integers* sums) {
  each([&](size_t i, Integers first, Integers second) {
    for (size_t r = 0; r < Rows; ++r) {
      Integers words = add_pairs(repeat(0), first, repeat_four(values + r * block + i));
      words = add_pairs(words, second, repeat_four(values + r * block + i + 4));
      sums[r] = add_words(sums[r], words, 1);
    }
  });
}

template <size_t Rows, Form kForm>
[[gnu::always_inline]] inline void add_products(const uint8_t* integers, const int8_t* values,
                                                size_t block, Integers table, Integers* sums) {
  if constexpr (kForm == Form::kSixes) {
    const auto lines = [&](const auto& put) { for_lines<kForm>(integers, block, table, put); };
    add_sixes<Rows>(lines, values, block, sums);
    return;
  }
  for (size_t from = 0; from < block; from += kRun, values += kRun) {
    const size_t count = std::min(kRun, block - from);
    if constexpr (kForm == Form::kFours) {
      const auto lines = [&](const auto& put) { for_lines<kForm>(integers, count, table, put); };
      add_fours<Rows>(lines, values, block, 1, sums);
    } else {
      const auto lower = [&](const auto& put) {
        for_nibbles<kForm, false>(integers, count, table, put);
      };
      const auto upper = [&](const auto& put) {
        for_nibbles<kForm, true>(integers, count, table, put);
      };
      add_fours<Rows>(lower, values, block, 1, sums);
      // Or else what both read would be kept in between, for which registers are too few.
      __asm__("" ::: "memory");
      add_fours<Rows>(upper, values, block, 16, sums);
    }
    integers += count * bits_of(kForm) / 32 * kLine;
  }
}

template <Form kForm>
[[gnu::always_inline]] inline void unpack(const uint8_t* integers, size_t block, Integers table,
                                          uint8_t* to) {
  if constexpr (unpacked(kForm) == Form::kEights) {
    for_nibbles<kForm, false>(integers, block, table, to_lines(to));
    for_nibbles<kForm, true>(integers, block, table, to_lines(to + block * kLanes));
  } else {
    for_lines<kForm>(integers, block, table, to_lines(to));
  }
}

template <size_t Rows, size_t Panels, Form kForm>
[[gnu::always_inline]] inline void add_unpacked(const uint8_t* integers, size_t,
                                                const int8_t* values, size_t block,
                                                Integers (*sums)[Rows]) {
  static_assert(Panels == 1);
  const auto lines = [](const uint8_t* from, size_t count) {
    return [=](const auto& put) { for_lines<Form::kEights>(from, count, repeat(0), put); };
  };
  if constexpr (kForm == Form::kSixes) {
    add_sixes<Rows>(lines(integers, block), values, block, *sums);
    return;
  }
  for (size_t from = 0; from < block; from += kRun, values += kRun, integers += kRun * kLanes) {
    const size_t count = std::min(kRun, block - from);
    add_fours<Rows>(lines(integers, count), values, block, 1, *sums);
    if constexpr (kForm == Form::kEights) {
      __asm__("" ::: "memory");  // as above
      add_fours<Rows>(lines(integers + block * kLanes, count), values, block, 16, *sums);
    }
  }
}

#endif

}  // namespace rbee::RBEE_VARIANT
