#include "packed_weights.h"

#include <emmintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <future>
#include <optional>
#include <vector>

#include "half.h"
#include "pages.h"
#include "weight_memory.h"

namespace rbee {
namespace {

// From this size on it is worth the while to give a matrix's file back before the next is packed.
constexpr size_t kLarge = 4 << 20;

// Of many values at a time, since nearly all of those that are tell it by their bits alone.
bool all_are_halves(const float* values, size_t count) {
  constexpr size_t kTogether = 256;
  for (size_t first = 0; first < count; first += kTogether) {
    const size_t last = std::min(first + kTogether, count);
    uint32_t doubtful = 0;
    for (size_t i = first; i < last; ++i) {
      const auto bits = std::bit_cast<uint32_t>(values[i]);
      const uint32_t above_least = (bits & 0x7fffffff) - (113u << 23);  // of exponents -14 to 15
      doubtful |= (bits & 0x1fff) | static_cast<uint32_t>(above_least >= 30u << 23);
    }
    if (doubtful != 0 && !std::all_of(values + first, values + last,
                                      [](float value) { return half(value).has_value(); })) {
      return false;
    }
  }
  return true;
}

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

bool have_half_scales(const std::array<BlockMatrix, 2>& halves, const WeightsShape& shape) {
  const size_t blocks = shape.outputs * shape.blocks();
  if (!shape.halves) return all_are_halves(halves[0].scales, blocks);
  return all_are_halves(halves[0].scales, blocks / 2) &&
         all_are_halves(halves[1].scales, blocks / 2);
}

// What scales are products of, of a matrix or of both of its halves.
std::array<FactoredMatrix, 2> factors(const std::array<BlockMatrix, 2>& halves,
                                      const WeightsShape& shape) {
  std::array<FactoredMatrix, 2> found;
  // Where a few are 16-bit floats, all are.
  constexpr size_t kFew = 256;
  const size_t parts = shape.halves ? 2 : 1;
  const size_t count = shape.outputs / parts * shape.blocks();
  if (kGroupInputs % shape.block != 0 || shape.blocks() * shape.block % kGroupInputs != 0 ||
      all_are_halves(halves[0].scales, std::min(kFew, count))) {
    return found;
  }
  const float middle = static_cast<float>(1 << (shape.bits - 1));
  for (size_t i = 0; i < parts; ++i) {
    found[i] = factored(halves[i].scales, halves[i].offsets, count, kGroupInputs / shape.block,
                        middle);
    if (!found[i].scales.has_value()) break;
  }
  return found;
}

Held held_as(const std::array<BlockMatrix, 2>& halves,
             const std::array<FactoredMatrix, 2>& factored, const WeightsShape& shape) {
  if (factored[shape.halves ? 1 : 0].scales.has_value()) return Held::kProducts;
  return have_half_scales(halves, shape) ? Held::kHalves : Held::kFloats;
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

Panels::Panels(const WeightsShape& shape, Held held, bool has_offsets)
    : shape_(shape),
      held_(held),
      has_offsets_(has_offsets),
      block_bytes_(kPanel * bytes_of_a_scale(held) +
                   kPanel * (has_offsets ? bytes_of_an_offset(held) : 0) +
                   kPanel * shape.block * shape.bits / 8),
      head_bytes_(held == Held::kProducts ? shape.blocks() * shape.block / kGroupInputs * kPanel *
                                                sizeof(uint16_t) * (has_offsets ? 2 : 1)
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
    : PackedWeights(shape, Halves{first, second}, factors({first, second}, shape)) {}

PackedWeights::PackedWeights(const WeightsShape& shape, const Halves& halves,
                             const Factored& factored)
    : Panels(shape, held_as(halves, factored, shape), halves[0].offsets != nullptr) {
  const size_t total = shape.panels() * panel_bytes();
  bytes_ = weight_memory(total);
  uint8_t* bytes = bytes_.get();
  first_ = bytes;

  in_halves(shape.panels(), total, [&](size_t first, size_t last) {
    populate(bytes + first * panel_bytes(), bytes + last * panel_bytes());
    for (size_t i = first; i < last; ++i) {
      pack_panel(i, halves, factored, bytes + i * panel_bytes());
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

void PackedWeights::pack_panel(size_t index, const Halves& halves, const Factored& factored,
                               uint8_t* to) const {
  const size_t part = shape_.halves ? index % 2 : 0;
  const auto& [integers, scales, offsets] = halves[part];
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
  if (held_ == Held::kProducts) {
    const size_t groups = blocks * shape_.block / kGroupInputs;
    for (size_t group = 0; group < groups; ++group) {
      const auto factor_of = [&](const Products& products) {
        return [&, group](size_t output) { return products.factors[output * groups + group]; };
      };
      put(factor_of(*factored[part].scales));
      if (has_offsets_) put(factor_of(factored[part].lows));
    }
  }
  // Rows of lanes beyond the last output.
  std::vector<uint8_t> padded(lanes < kPanel ? kPanel * row_bytes : 0);
  for (size_t block = 0; block < blocks; ++block) {
    const auto of = [&](const auto& numbers) {
      return [&, block](size_t output) { return numbers[output * blocks + block]; };
    };
    switch (held_) {
      case Held::kFloats:
        put(of(scales));
        break;
      case Held::kHalves:
        put([&](size_t output) { return half(scales[output * blocks + block]).value_or(0); });
        break;
      case Held::kProducts:
        put(of(factored[part].scales->integers));
        if (has_offsets_) put(of(factored[part].lows.integers));
        break;
    }
    if (has_offsets_ && held_ != Held::kProducts) put(of(offsets));
    const uint8_t* rows = integers + (first * blocks + block) * row_bytes;
    size_t stride = blocks * row_bytes;
    if (lanes < kPanel) {
      for (size_t lane = 0; lane < lanes; ++lane) {
        std::memcpy(padded.data() + lane * row_bytes, rows + lane * stride, row_bytes);
      }
      rows = padded.data();
      stride = row_bytes;
    }
    const bool nibbles = shape_.bits == 4;
    for (size_t byte = 0; byte < row_bytes; byte += 16) {
      const auto transpose = row_bytes == 8 ? transpose_dwords<8> : transpose_dwords<16>;
      transpose(rows + byte, stride, nibbles, to + byte * kPanel);
    }
    to += kPanel * row_bytes;
  }
}

}  // namespace rbee
