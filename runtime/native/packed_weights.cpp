#include "packed_weights.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>

namespace rbee {
namespace {

constexpr size_t kAlignment = 64;

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

bool all_are_halves(const float* values, size_t count) {
  return std::all_of(values, values + count, [](float value) { return half(value).has_value(); });
}

// Four neighbouring inputs of one output, as four bytes.
uint32_t four_bytes(const uint8_t* row, size_t bits, size_t input) {
  uint32_t word;
  if (bits == 8) {
    std::memcpy(&word, row + input, sizeof word);
    return word;
  }
  uint16_t nibbles;
  std::memcpy(&nibbles, row + input / 2, sizeof nibbles);
  return (nibbles & 0xfu) | (nibbles & 0xf0u) << 4 | (nibbles & 0xf00u) << 8 |
         (nibbles & 0xf000u) << 12;
}

}  // namespace

void PackedWeights::Free::operator()(uint8_t* bytes) const { std::free(bytes); }

PackedWeights::PackedWeights(const WeightsShape& shape, const uint8_t* integers,
                             const float* scales, const float* offsets)
    : shape_(shape),
      half_scales_(all_are_halves(scales, shape.outputs * shape.blocks())),
      has_offsets_(offsets != nullptr),
      block_bytes_(kPanel * (half_scales_ ? sizeof(uint16_t) : sizeof(float)) +
                   kPanel * (has_offsets_ ? sizeof(float) : 0) +
                   kPanel * shape.block * shape.bits / 8) {
  const size_t total = shape.panels() * panel_bytes();
  auto* bytes = static_cast<uint8_t*>(
      std::aligned_alloc(kAlignment, (total + kAlignment - 1) / kAlignment * kAlignment));
  if (bytes == nullptr) throw std::bad_alloc();
  bytes_.reset(bytes);

  const size_t blocks = shape.blocks();
  const size_t row_bytes = shape.block * shape.bits / 8;
  uint8_t* to = bytes;
  for (size_t panel = 0; panel < shape.panels(); ++panel) {
    const size_t first = shape.first_output(panel);
    const size_t lanes = std::min(kPanel, shape.outputs - first);
    for (size_t block = 0; block < blocks; ++block) {
      const auto at = [&](size_t lane) { return (first + lane) * blocks + block; };
      // Lanes beyond the last output keep a scale of zero.
      std::memset(to, 0, block_bytes_);
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
      const size_t inputs_per_line = shape.bits == 8 ? 4 : 8;
      for (size_t input = 0; input < shape.block; input += inputs_per_line) {
        for (size_t lane = 0; lane < lanes; ++lane) {
          const uint8_t* row = integers + at(lane) * row_bytes;
          uint32_t word = four_bytes(row, shape.bits, input);
          if (shape.bits == 4) word |= four_bytes(row, 4, input + 4) << 4;
          std::memcpy(to + lane * sizeof word, &word, sizeof word);
        }
        to += kPanel * sizeof(uint32_t);
      }
    }
  }
}

}  // namespace rbee
