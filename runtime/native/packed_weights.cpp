#include "packed_weights.h"

#include <emmintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <future>
#include <optional>
#include <vector>

#include "pages.h"
#include "weight_memory.h"

namespace rbee {
namespace {

// From this size on it is worth the while to give a matrix's file back before the next is packed.
constexpr size_t kLarge = 4 << 20;

// The 16-bit float of the same value; nothing where there is none.
std::optional<uint16_t> half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  if (exponent >= -14 && exponent <= 15) {
    if ((magnitude & 0x1fff) != 0) return std::nullopt;
    return static_cast<uint16_t>(sign | ((magnitude - (112u << 23)) >> 13));
  }
  // What is smaller stands for whole multiples of 2**-24.
  const float steps = std::bit_cast<float>(magnitude) * 0x1p24f;
  if (exponent < -14 && steps == static_cast<float>(static_cast<int>(steps))) {
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(steps));
  }
  return std::nullopt;
}

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

Panels::Panels(const WeightsShape& shape, bool half_scales, bool has_offsets)
    : shape_(shape),
      half_scales_(half_scales),
      has_offsets_(has_offsets),
      block_bytes_(kPanel * (half_scales_ ? sizeof(uint16_t) : sizeof(float)) +
                   kPanel * (has_offsets_ ? sizeof(float) : 0) +
                   kPanel * shape.block * shape.bits / 8) {}

Panels Panels::part(size_t first, size_t outputs) const {
  Panels part = *this;
  part.shape_.outputs = outputs;
  part.first_ = panel(first);
  return part;
}

PackedWeights::PackedWeights(const WeightsShape& shape, const BlockMatrix& matrix)
    : PackedWeights(shape, Halves{matrix, lower_half(matrix, shape)}) {}

PackedWeights::PackedWeights(const WeightsShape& shape, const BlockMatrix& first,
                             const BlockMatrix& second)
    : PackedWeights(shape, Halves{first, second}) {}

PackedWeights::PackedWeights(const WeightsShape& shape, const Halves& halves)
    : Panels(shape, have_half_scales(halves, shape), halves[0].offsets != nullptr) {
  const size_t total = shape.panels() * panel_bytes();
  bytes_ = weight_memory(total);
  uint8_t* bytes = bytes_.get();
  first_ = bytes;
  in_halves(shape.panels(), total, [&](size_t first, size_t last) {
    populate(bytes + first * panel_bytes(), bytes + last * panel_bytes());
    for (size_t i = first; i < last; ++i) {
      pack_panel(i, halves, bytes + i * panel_bytes());
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

void PackedWeights::pack_panel(size_t index, const Halves& halves, uint8_t* to) const {
  const auto& [integers, scales, offsets] = halves[shape_.halves ? index % 2 : 0];
  const size_t blocks = shape_.blocks();
  const size_t row_bytes = shape_.block * shape_.bits / 8;
  const size_t first = shape_.halves ? index / 2 * kPanel : index * kPanel;
  const size_t lanes = std::min(kPanel, shape_.outputs - first);
  // Lanes beyond the last output: rows and scales of zeros.
  std::vector<uint8_t> padded(lanes < kPanel ? kPanel * row_bytes : 0);
  for (size_t block = 0; block < blocks; ++block) {
    const auto at = [&](size_t lane) { return (first + lane) * blocks + block; };
    std::memset(to, 0, lanes < kPanel ? block_bytes_ : 0);
    for (size_t lane = 0; lane < lanes; ++lane) {
      if (half_scales_) {
        const uint16_t scale = half(scales[at(lane)]).value_or(0);
        std::memcpy(to + lane * sizeof scale, &scale, sizeof scale);
      } else {
        std::memcpy(to + lane * sizeof(float), &scales[at(lane)], sizeof(float));
      }
    }
    to += kPanel * (half_scales_ ? sizeof(uint16_t) : sizeof(float));
    if (has_offsets_) {
      for (size_t lane = 0; lane < lanes; ++lane) {
        std::memcpy(to + lane * sizeof(float), &offsets[at(lane)], sizeof(float));
      }
      to += kPanel * sizeof(float);
    }
    const uint8_t* rows = integers + at(0) * row_bytes;
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
