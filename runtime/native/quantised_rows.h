// Activations rounded to eight bits, block by block.
#pragma once

#include <cstddef>
#include <cstdint>

#include "inlined.h"

namespace rbee {

// Rows that are neighbours and multiplied together.
struct Tile {
  size_t first;
  size_t rows;
};

// Cuts rows into tiles of nearly the same size, up to `most` rows each.
class Tiles {
 public:
  RBEE_INLINED Tiles(size_t rows, size_t most) : rows_(rows), count_((rows + most - 1) / most) {}
  RBEE_INLINED size_t count() const { return count_; }
  RBEE_INLINED Tile operator[](size_t index) const {
    const size_t first = rows_ * index / count_;
    return {first, rows_ * (index + 1) / count_ - first};
  }

 private:
  size_t rows_;
  size_t count_;
};

// Activations, float[rows, width]: one row after another, or those of so many numbers.
struct FloatRows {
  const float* first;
  size_t width;
  const uint32_t* numbers = nullptr;

  RBEE_INLINED const float* operator[](size_t row) const {
    return first + (numbers != nullptr ? numbers[row] : row) * width;
  }
};

// Rounded activations, in memory of the caller's. A tile starts at its first row's share of each
// array and holds, for each block, its rows side by side.
struct QuantisedRows {
  size_t blocks;
  size_t block;
  int8_t* values;   // [tile][block][row][input], the last block padded with zeros
  float* scales;    // [tile][block][row]
  float* sums;      // the same; of the activations as they were
  int32_t* starts;  // the same; what sums of their products with weights begin with

  RBEE_INLINED size_t padded() const { return blocks * block; }
  // Those from a row on, with which tiles begin anew.
  RBEE_INLINED QuantisedRows from(size_t row) const {
    const size_t at = row * blocks;
    return {blocks, block, values + at * block, scales + at, sums + at, starts + at};
  }
  static size_t bytes(size_t rows, size_t blocks, size_t block) {
    return rows * blocks * (block + 2 * sizeof(float) + sizeof(int32_t));
  }
  // Lays the arrays out in memory of at least bytes(...), aligned to 64 bytes.
  static QuantisedRows in(void* memory, size_t rows, size_t blocks, size_t block) {
    auto* values = static_cast<int8_t*>(memory);
    auto* scales = reinterpret_cast<float*>(values + rows * blocks * block);
    float* sums = scales + rows * blocks;
    return {blocks, block, values, scales, sums, reinterpret_cast<int32_t*>(sums + rows * blocks)};
  }
};

}  // namespace rbee
