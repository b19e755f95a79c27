// Where products on the processor's matrix unit put their sums.
#pragma once

#include <algorithm>
#include <cstring>

#include "epilogue.h"
#include "matrix_unit.h"
#include "packed_weights.h"

namespace rbee::avx512 {

// Sums of 16 rows and 16 outputs: what they start from, and where they go.
struct Sums {
  const float* from;
  size_t from_stride;  // of bytes, from row to row
  float* to;
  size_t to_stride;
};

// Sums in memory of their own: of two tiles of rows, two panels each.
struct alignas(kUnitBytes) Square {
  struct Tile {
    float sums[kUnitRows][kPanel];
  };
  Tile tiles[2][2];
};

inline void copy_lines(const float* from, size_t from_stride, size_t rows, size_t columns,
                       float* to, size_t to_stride) {
  for (size_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * to_stride, from + r * from_stride, columns * sizeof(float));
  }
}

// A slab of inputs of a pair of panels, or of one.
struct Slab {
  const uint16_t* weights;
  size_t weights_stride;  // from panel to panel
  size_t first_step;
  size_t steps;
  size_t panels;
  const float* bias;  // of the panels' outputs, padded; null to add to earlier slabs' sums
};

// Columns of y, float[rows, outputs], for two tiles of rows at a time.
class Columns {
 public:
  Columns(float* y, size_t rows, size_t outputs, size_t first)
      : y_(y), rows_(rows), outputs_(outputs), first_(first) {}

  Sums start(const Slab& slab, size_t tile, size_t panel) {
    const Place at = place(tile, panel);
    Sums sums{at.y, outputs_ * sizeof(float), at.y, outputs_ * sizeof(float)};
    if (at.rows < kUnitRows || at.columns < kPanel) {
      float* own = edge(tile, panel);
      if (slab.bias == nullptr) copy_lines(at.y, outputs_, at.rows, at.columns, own, kPanel);
      sums = {own, kUnitBytes, own, kUnitBytes};
    }
    if (slab.bias != nullptr) {
      sums.from = slab.bias + panel * kPanel;
      sums.from_stride = 0;
    }
    return sums;
  }

  void meanwhile(size_t) {}  // has nothing to do while others are multiplied

  void finish(const Slab& slab, size_t first, size_t tiles) {
    for (size_t tile = first; tile < first + tiles; ++tile) {
      for (size_t panel = 0; panel < slab.panels; ++panel) {
        const Place at = place(tile, panel);
        if (at.rows == kUnitRows && at.columns == kPanel) continue;
        copy_lines(edge(tile, panel), kPanel, at.rows, at.columns, at.y, outputs_);
      }
    }
  }

 private:
  struct Place {
    float* y;
    size_t rows;
    size_t columns;
  };

  Place place(size_t tile, size_t panel) const {
    const size_t row = tile * kUnitRows, column = first_ + panel * kPanel;
    return {y_ + row * outputs_ + column, std::min(kUnitRows, rows_ - row),
            std::min(kPanel, outputs_ - column)};
  }
  float* edge(size_t tile, size_t panel) { return edges_.tiles[tile % 2][panel].sums[0]; }

  float* y_;
  size_t rows_, outputs_, first_;
  Square edges_;
};

// Rows of sums that wait for an epilogue, which takes a few of them at a time while the unit
// multiplies.
class Waiting {
 public:
  static constexpr size_t kMost = 2 * kUnitRows;

  explicit Waiting(const Epilogue& epilogue) : epilogue_(epilogue) {}

  // So many rows of `sums`, of two panels, become those of y.
  void add(const Square* sums, size_t rows, float* y, size_t stride) {
    take(kMost);
    sums_ = sums;
    y_ = y;
    stride_ = stride;
    next_ = 0;
    rows_ = rows;
  }

  void take(size_t most) {
    for (const size_t last = std::min(rows_, next_ + most); next_ < last; ++next_) {
      const auto& tiles = sums_->tiles[next_ / kUnitRows];
      const size_t row = next_ % kUnitRows;
      float* y = y_ + next_ * stride_;
      if (epilogue_.gate != nullptr) {
        epilogue_.gate(tiles[0].sums[row], tiles[1].sums[row], kPanel, y);
      } else {
        epilogue_.activation(tiles[0].sums[row], kPanel, y);
        epilogue_.activation(tiles[1].sums[row], kPanel, y + kPanel);
      }
    }
  }

 private:
  Epilogue epilogue_;
  const Square* sums_ = nullptr;
  float* y_ = nullptr;
  size_t stride_ = 0, next_ = 0, rows_ = 0;
};

// Where sums of tiles of rows from the first on are until an epilogue takes them; so many squares in
// turn.
struct Squares {
  Square* squares;
  size_t count;
  size_t first_tile;
  size_t first_square;

  Square& of(size_t tile) const {
    return squares[(first_square + (tile - first_tile) / 2) % count];
  }
};

// Columns of y, float[rows, width]: what an epilogue makes of a pair of panels.
class PairColumn {
 public:
  PairColumn(float* y, size_t rows, size_t width, Squares squares, bool is_last, Waiting& waiting)
      : y_(y),
        rows_(rows),
        width_(width),
        squares_(squares),
        is_last_(is_last),
        waiting_(waiting) {}

  Sums start(const Slab& slab, size_t tile, size_t panel) {
    const size_t first = squares_.first_tile;
    float* own = squares_.of(tile).tiles[(tile - first) % 2][panel].sums[0];
    if (slab.bias == nullptr) return {own, kUnitBytes, own, kUnitBytes};
    return {slab.bias + panel * kPanel, 0, own, kUnitBytes};
  }

  void meanwhile(size_t rows) { waiting_.take(rows); }

  void finish(const Slab&, size_t tile, size_t tiles) {
    if (!is_last_) return;
    const size_t row = tile * kUnitRows;
    waiting_.add(&squares_.of(tile), std::min(tiles * kUnitRows, rows_ - row), y_ + row * width_,
                 width_);
  }

 private:
  float* y_;
  size_t rows_, width_;
  Squares squares_;
  bool is_last_;
  Waiting& waiting_;
};

}  // namespace rbee::avx512
