#include "packed_weights.h"

#include <emmintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <future>
#include <span>
#include <vector>

#include "half.h"
#include "half_scales.h"
#include "pages.h"
#include "power_scales.h"
#include "six_bits.h"
#include "weight_memory.h"

namespace rbee {
namespace {

// From this size on it is worth the while to give a matrix's file back before the next is packed.
constexpr size_t kLarge = 4 << 20;

// Of four dwords, each eight 4-bit integers in the order of inputs: the first four of a dword in
// the low nibbles of its bytes, the others in the high ones.
RBEE_INLINED __m128i paired_nibbles(__m128i dwords) {
  const __m128i low = _mm_set1_epi8(0xf);
  const __m128i even = _mm_and_si128(dwords, low);
  const __m128i odd = _mm_and_si128(_mm_srli_epi16(dwords, 4), low);
  const __m128 here = _mm_castsi128_ps(_mm_unpacklo_epi8(even, odd));
  const __m128 there = _mm_castsi128_ps(_mm_unpackhi_epi8(even, odd));
  const __m128i first = _mm_castps_si128(_mm_shuffle_ps(here, there, _MM_SHUFFLE(2, 0, 2, 0)));
  const __m128i last = _mm_castps_si128(_mm_shuffle_ps(here, there, _MM_SHUFFLE(3, 1, 3, 1)));
  return _mm_or_si128(first, _mm_slli_epi16(last, 4));
}

// Copies 8 or 16 bytes of each of 16 rows, so many bytes apart, as lines of a dword of each row.
template <size_t kBytes>
RBEE_INLINED void transpose_dwords(const uint8_t* rows, size_t stride, bool nibbles, uint8_t* to) {
  for (size_t lane = 0; lane < kPanel; lane += 4) {
    std::array<__m128i, 4> row{};
    for (size_t i = 0; i < row.size(); ++i) {
      std::memcpy(&row[i], rows + (lane + i) * stride, kBytes);
      if (nibbles) row[i] = paired_nibbles(row[i]);
    }
    const __m128i low01 = _mm_unpacklo_epi32(row[0], row[1]);
    const __m128i low23 = _mm_unpacklo_epi32(row[2], row[3]);
    const __m128i high01 = _mm_unpackhi_epi32(row[0], row[1]);
    const __m128i high23 = _mm_unpackhi_epi32(row[2], row[3]);
    const auto store = [&](size_t line, __m128i dwords) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (line * kPanel + lane) * 4), dwords);
    };
    store(0, _mm_unpacklo_epi64(low01, low23));
    store(1, _mm_unpackhi_epi64(low01, low23));
    if (kBytes == 8) continue;
    store(2, _mm_unpacklo_epi64(high01, high23));
    store(3, _mm_unpackhi_epi64(high01, high23));
  }
}

BlockMatrix lower_half(const BlockMatrix& of, const WeightsShape& shape) {
  const size_t blocks = shape.outputs / 2 * shape.blocks();
  return {of.integers + blocks * shape.block * shape.bits / 8, of.scales + blocks,
          of.offsets != nullptr ? of.offsets + blocks : nullptr};
}

// The table that the integers of all parts of a matrix are from, if there is one that kernels are for.
const IntegerTable* common_table(const WeightsShape& shape, std::span<const BlockMatrix> parts) {
  if (shape.bits != 8 || shape.block != 32 || parts[0].offsets != nullptr) return nullptr;
  const size_t count = shape.outputs / parts.size() * shape.blocks() * shape.block;
  const IntegerTable* table = table_of(parts.front().integers, count);
  for (const BlockMatrix& part : parts.subspan(1)) {
    if (table != nullptr && table_of(part.integers, count) != table) table = nullptr;
  }
  return table;
}

// What the integers of GGUF's types with offsets may have their middle at.
std::span<const float> middles(bool offsets, size_t bits) {
  static constexpr std::array kNone{0.0f};
  static constexpr std::array kInFour{8.0f};
  static constexpr std::array kInEight{16.0f, 2.0f};  // Q5_1 and Q5_K; Q2_K
  if (!offsets) return kNone;
  if (bits == 4) return kInFour;
  return kInEight;
}

// Calls `work(first, last)` for parts of so many panels, on two threads where they are large: a
// session makes one operator after the other.
template <typename Work>
void in_halves(size_t panels, size_t bytes, const Work& work) {
  constexpr size_t kWorthAThread = 512 << 10;
  const size_t middle = bytes < kWorthAThread ? panels : panels / 2;
  std::future<void> rest;
  if (middle < panels) {
    // Where no thread is to be had, it is done here, when it is waited for.
    constexpr auto kEither = std::launch::async | std::launch::deferred;
    rest = std::async(kEither, [&] { work(middle, panels); });
  }
  work(size_t{0}, middle);
  if (rest.valid()) rest.get();
}

}  // namespace

Panels::Panels(const WeightsShape& shape, const Holding& holding, bool has_offsets)
    : shape_(shape),
      holding_(holding),
      has_offsets_(has_offsets),
      block_bytes_(kPanel * bytes_of_a_number(holding.held) * (has_offsets ? 2 : 1) +
                   kPanel * shape.block * bits_of(holding.form) / 8),
      head_bytes_(holding.held == Held::kProducts
                      ? shape.blocks() * shape.block / kGroupInputs * kPanel * sizeof(uint16_t) *
                            (has_offsets ? 2 : 1)
                      : 0) {}

Panels Panels::part(size_t first, size_t outputs) const {
  Panels part = *this;
  part.shape_.outputs = outputs;
  part.first_ = panel(first);
  return part;
}

PackedWeights::PackedWeights(const WeightsShape& shape, const BlockMatrix& matrix)
    : PackedWeights(shape, matrix, lower_half(matrix, shape)) {}

PackedWeights::PackedWeights(const WeightsShape& shape, const BlockMatrix& first,
                             const BlockMatrix& second)
    : PackedWeights(shape, Halves{first, second}, find(shape, {first, second})) {}

PackedWeights::Found PackedWeights::find(const WeightsShape& shape, const Halves& halves) {
  const std::span parts(halves.data(), shape.halves ? halves.size() : 1);
  const size_t count = shape.outputs / parts.size() * shape.blocks();
  const auto all = [&](const auto& fits) { return std::all_of(parts.begin(), parts.end(), fits); };
  const IntegerTable* table = common_table(shape, parts);
  if (table != nullptr && all([&](const BlockMatrix& part) {
        return all_are_powers(part.scales, part.integers, count, shape.block);
      })) {
    return {{Held::kPowers, 0, Form::kNumbers, table}};
  }
  Found found = find_scales(shape, parts);
  auto& holding = found.holding;
  if (shape.bits == 4) {
    holding.form = Form::kFours;
  } else if (holding.held == Held::kFloats) {
    // Of no type are they what fewer bits hold where scales are not what a file has.
    holding.form = Form::kEights;
  } else if (table != nullptr) {
    holding.form = Form::kNumbers;
    holding.table = table;
  } else if (all([&](const BlockMatrix& part) {
               return fit_six_bits(part.integers, count * shape.block);
             })) {
    holding.form = Form::kSixes;
  }
  return found;
}

PackedWeights::Found PackedWeights::find_scales(const WeightsShape& shape,
                                                std::span<const BlockMatrix> parts) {
  const size_t count = shape.outputs / parts.size() * shape.blocks();
  const auto all = [&](const auto& fits) { return std::all_of(parts.begin(), parts.end(), fits); };
  // Of larger blocks, sums of products are beyond what is weighed without being converted.
  const bool halves_fit = shape.block <= kGroupInputs && all([&](const BlockMatrix& part) {
    return all_are_halves(part.scales, count);
  });
  const bool groups_fit =
      kGroupInputs % shape.block == 0 && shape.blocks() * shape.block % kGroupInputs == 0;
  for (const float middle : middles(parts[0].offsets != nullptr, shape.bits)) {
    if (halves_fit && all([&](const BlockMatrix& part) {
          return all_have_half_minima(part.scales, part.offsets, count, middle);
        })) {
      return {{Held::kHalves, middle}};
    }
    Found found{{Held::kProducts, middle}};
    auto to = found.factored.begin();
    if (groups_fit && all([&](const BlockMatrix& part) {
          *to = factored(part.scales, part.offsets, count, kGroupInputs / shape.block, middle);
          return (to++)->scales.has_value();
        })) {
      return found;
    }
  }
  return {};
}

PackedWeights::PackedWeights(const WeightsShape& shape, const Halves& halves, const Found& found)
    : Panels(shape, found.holding, halves[0].offsets != nullptr) {
  const size_t total = shape.panels() * panel_bytes();
  bytes_ = weight_memory(total);
  uint8_t* bytes = bytes_.get();
  first_ = bytes;

  in_halves(shape.panels(), total, [&](size_t first, size_t last) {
    populate(bytes + first * panel_bytes(), bytes + last * panel_bytes());
    for (size_t i = first; i < last; ++i) {
      pack_panel(i, halves, found, bytes + i * panel_bytes());
    }
  });
  // Two of everything would be too much at once.
  if (total >= kLarge) {
    const size_t parts = shape.halves ? halves.size() : 1;
    const size_t blocks = shape.outputs / parts * shape.blocks();
    for (size_t i = 0; i < parts; ++i) {
      forget_mirrored(halves[i].integers, blocks * shape.block * shape.bits / 8);
    }
  }
}

void PackedWeights::pack_panel(size_t index, const Halves& halves, const Found& found,
                               uint8_t* to) const {
  const size_t part = shape_.halves ? index % 2 : 0;
  const auto& [integers, scales, offsets] = halves[part];
  const FactoredMatrix& factored = found.factored[part];
  const size_t blocks = shape_.blocks();
  const size_t row_bytes = shape_.block * shape_.bits / 8;
  const size_t first = shape_.halves ? index / 2 * kPanel : index * kPanel;
  const size_t lanes = std::min(kPanel, shape_.outputs - first);
  // A number of each output; lanes beyond the last one get zeros.
  const auto put = [&](auto number_of) {
    using Number = decltype(number_of(size_t{}));
    std::array<Number, kPanel> numbers{};
    for (size_t lane = 0; lane < lanes; ++lane) numbers[lane] = number_of(first + lane);
    std::memcpy(to, numbers.data(), sizeof numbers);
    to += sizeof numbers;
  };
  if (held() == Held::kProducts) {
    const size_t groups = blocks * shape_.block / kGroupInputs;
    for (size_t group = 0; group < groups; ++group) {
      const auto factor_of = [&](const Products& products) {
        return [&, group](size_t output) { return products.factors[output * groups + group]; };
      };
      put(factor_of(*factored.scales));
      if (has_offsets_) put(factor_of(factored.minima));
    }
  }
  // Rows of lanes beyond the last output.
  std::vector<uint8_t> padded(lanes < kPanel ? kPanel * row_bytes : 0);
  for (size_t block = 0; block < blocks; ++block) {
    const auto of = [&](const auto& numbers) {
      return [&, block](size_t output) { return numbers[output * blocks + block]; };
    };
    switch (held()) {
      case Held::kFloats:
        put(of(scales));
        if (has_offsets_) put(of(offsets));
        break;
      case Held::kHalves:
        put([&](size_t output) { return half_of_exact(scales[output * blocks + block]); });
        if (has_offsets_) {
          put([&](size_t output) {
            const size_t i = output * blocks + block;
            return half_of_exact(half_minimum(scales[i], offsets[i], middle()));
          });
        }
        break;
      case Held::kProducts:
        put(of(factored.scales->integers));
        if (has_offsets_) put(of(factored.minima.integers));
        break;
      case Held::kPowers:
        put([&](size_t output) { return exponent_of(scales[output * blocks + block]); });
        break;
    }
    const uint8_t* rows = integers + (first * blocks + block) * row_bytes;
    size_t stride = blocks * row_bytes;
    if (lanes < kPanel) {
      for (size_t lane = 0; lane < lanes; ++lane) {
        std::memcpy(padded.data() + lane * row_bytes, rows + lane * stride, row_bytes);
      }
      rows = padded.data();
      stride = row_bytes;
    }
    std::array<uint8_t, 16 * kPanel> numbers;
    if (form() == Form::kNumbers) {
      for (size_t lane = 0; lane < kPanel; ++lane) {
        for (size_t i = 0; i < row_bytes / 2; ++i) {
          const uint16_t two = numbers_of_two(table(), rows + lane * stride + 2 * i);
          numbers[lane * row_bytes / 2 + i] = static_cast<uint8_t>(two);
        }
      }
      rows = numbers.data();
      stride = row_bytes / 2;
    }
    const bool nibbles = bits_of(form()) == 4;
    const size_t bytes = shape_.block * (nibbles ? 4 : 8) / 8;
    for (size_t byte = 0; byte < bytes; byte += 16) {
      const auto transpose = bytes == 8 ? transpose_dwords<8> : transpose_dwords<16>;
      if (form() == Form::kSixes) {
        std::array<uint8_t, 16 * kPanel> lines;
        transpose(rows + byte, stride, nibbles, lines.data());
        pack_six_bits(lines.data(), to + byte * kPanel * 6 / 8);
      } else {
        transpose(rows + byte, stride, nibbles, to + byte * kPanel);
      }
    }
    to += kPanel * shape_.block * bits_of(form()) / 8;
  }
}

}  // namespace rbee
