// Activations rounded to eight bits, block by block.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rbee {

// Rows multiplied together, at most: their sums, and half as many registers again, fill a core's.
constexpr size_t kTile = 8;

// Rows that are neighbours and multiplied together.
struct Tile {
  size_t first;
  size_t rows;
};

// Cuts rows into tiles of nearly the same size.
class Tiles {
 public:
  explicit Tiles(size_t rows) : rows_(rows), count_((rows + kTile - 1) / kTile) {}
  size_t count() const { return count_; }
  Tile operator[](size_t index) const {
    const size_t first = rows_ * index / count_;
    return {first, rows_ * (index + 1) / count_ - first};
  }

 private:
  size_t rows_;
  size_t count_;
};

// Rounded activations, in memory of the caller's. A tile starts at its first row's share of each
// array and holds, for each block, its rows side by side.
struct QuantisedRows {
  size_t blocks;
  size_t block;
  int8_t* values;   // [tile][block][row][input], the last block padded with zeros
  float* scales;    // [tile][block][row]
  float* sums;      // the same; of the activations as they were
  int32_t* totals;  // the same; of the rounded ones

  size_t padded() const { return blocks * block; }
  static size_t bytes(size_t rows, size_t blocks, size_t block) {
    return rows * blocks * (block + 2 * sizeof(float) + sizeof(int32_t));
  }
  // Lays the arrays out in memory of at least bytes(...), aligned to 64 bytes.
  static QuantisedRows in(void* memory, size_t rows, size_t blocks, size_t block);
};

}  // namespace rbee
