// Weights in the order in which the product reads them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "factored_scales.h"
#include "inlined.h"
#include "integer_table.h"

namespace rbee {

// Outputs computed together.
constexpr size_t kPanel = 16;

// What a matrix of weights is. An element of a block stands for (q - 2^(bits-1)) * scale + offset.
struct WeightsShape {
  size_t outputs;
  size_t inputs;
  size_t bits;   // 4 or 8
  size_t block;  // inputs that share a scale: 16, 32, 64 or 128
  bool halves;   // panels are of either half of the outputs by turns; both are whole panels

  RBEE_INLINED size_t blocks() const { return (inputs + block - 1) / block; }
  RBEE_INLINED size_t panels() const { return (outputs + kPanel - 1) / kPanel; }
  RBEE_INLINED size_t first_output(size_t panel) const {
    return halves ? panel % 2 * (outputs / 2) + panel / 2 * kPanel : panel * kPanel;
  }
};

// A matrix in the layout of MatMulNBits: integers [outputs, blocks, block * bits / 8], scales and
// offsets float[outputs, blocks]; offsets may be null.
struct BlockMatrix {
  const uint8_t* integers;
  const float* scales;
  const float* offsets;
};

// How the scales and offsets of blocks are held, each exactly. GGUF's types with offsets have minima
// of their blocks, of integers from 0 on; an artifact has the middle of these for 0, and the offset
// is the sum of so many scales and the minimum, rounded once. As products scales and minima are in
// K-quants: of a 16-bit float, which a group of blocks shares, and of an integer of 8 bits.
enum class Held : uint8_t {
  kFloats,    // both as 32-bit floats
  kHalves,    // scales as 16-bit floats, and minima in place of offsets
  kProducts,  // scales as products, and minima in place of offsets
  kPowers,    // scales as exponents of two; there are no offsets
};

// How integers are held, each exactly.
enum class Form : uint8_t {
  kFours,    // in 4 bits
  kNumbers,  // those of 8 bits as their numbers in a table of sixteen, in blocks of 32, no offsets
  kSixes,    // those of 8 bits that 6 hold, less what these cannot (six_bits.h)
  kEights,   // in 8 bits
};
RBEE_INLINED constexpr size_t bits_of(Form form) {
  return form == Form::kEights ? 8 : form == Form::kSixes ? 6 : 4;
}
// The integer that stands for 0.
RBEE_INLINED constexpr int middle_of(Form form) {
  return form == Form::kFours ? 8 : form == Form::kSixes ? 32 : 128;
}

// Of a scale, or of an offset or minimum.
RBEE_INLINED constexpr size_t bytes_of_a_number(Held held) {
  return held == Held::kFloats ? sizeof(float) : held == Held::kHalves ? sizeof(uint16_t) : 1;
}

// Inputs of a group of blocks.
constexpr size_t kGroupInputs = 256;

// A matrix cut into panels of 16 outputs, each one run of memory; or a part of one. A panel holds,
// where scales are products, group after group:
//
//   factors  16-bit float[16], of the scales
//   factors  the same, of the minima, where the matrix has offsets
//
// and then, block after block of inputs:
//
//   scales   float[16], 16-bit float[16], int8[16], or uint8[16], exponents as floats have them
//   offsets  or minima, the same, where the matrix has any
//   values   for each four inputs, 4 bytes of each of the 16 outputs; at 4 bits two such groups
//            share 64 bytes, the first in the low nibbles; at 6 bits four share 192 (six_bits.h)
class Panels {
 public:
  RBEE_INLINED const WeightsShape& shape() const { return shape_; }
  RBEE_INLINED Held held() const { return holding_.held; }
  RBEE_INLINED Form form() const { return holding_.form; }
  // Which numbers are held of.
  RBEE_INLINED const IntegerTable& table() const { return *holding_.table; }
  RBEE_INLINED bool has_offsets() const { return has_offsets_; }
  // How many scales an offset is more than its minimum, where minima are held.
  RBEE_INLINED float middle() const { return holding_.middle; }
  // Of a block, and of all factors of a panel.
  RBEE_INLINED size_t block_bytes() const { return block_bytes_; }
  RBEE_INLINED size_t head_bytes() const { return head_bytes_; }
  RBEE_INLINED size_t panel_bytes() const { return head_bytes_ + shape_.blocks() * block_bytes_; }
  RBEE_INLINED const uint8_t* panel(size_t index) const {
    return first_ + index * panel_bytes();
  }
  // The panels from one on that so many outputs are of, as a matrix.
  Panels part(size_t first, size_t outputs) const;

 protected:
  struct Holding {
    Held held = Held::kFloats;
    float middle = 0;
    Form form = Form::kEights;
    const IntegerTable* table = nullptr;
  };

  Panels(const WeightsShape& shape, const Holding& holding, bool has_offsets);

  WeightsShape shape_;
  Holding holding_;
  bool has_offsets_;
  size_t block_bytes_;
  size_t head_bytes_;
  const uint8_t* first_ = nullptr;
};

// A matrix in panels, and their memory.
class PackedWeights : public Panels {
 public:
  PackedWeights(const WeightsShape& shape, const BlockMatrix& matrix);
  // Of halves, each a matrix.
  PackedWeights(const WeightsShape& shape, const BlockMatrix& first, const BlockMatrix& second);

 private:
  using Halves = std::array<BlockMatrix, 2>;

  // What was found of scales and offsets, and of integers.
  struct Found {
    Holding holding;
    std::array<FactoredMatrix, 2> factored;
  };
  static Found find(const WeightsShape& shape, const Halves& halves);
  static Found find_scales(const WeightsShape& shape, std::span<const BlockMatrix> parts);

  PackedWeights(const WeightsShape& shape, const Halves& halves, const Found& found);
  void pack_panel(size_t index, const Halves& halves, const Found& found, uint8_t* to) const;

  std::shared_ptr<uint8_t> bytes_;
};

}  // namespace rbee
