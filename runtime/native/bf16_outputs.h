// Where products on the processor's matrix unit put their sums.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "epilogue.h"
#include "matrix_unit.h"
#include "packed_weights.h"
#include "weighed_rows.h"

namespace rbee::avx512 {

// Sums of 16 rows and 16 outputs: what they start from, and where they go.
struct Sums {
  const float* from;
  size_t from_stride;  // of bytes, from row to row
  float* to;
  size_t to_stride;
};

// Sums in memory of their own: of two tiles of rows, two panels side by side.
struct alignas(kUnitBytes) Square {
  static constexpr size_t kStride = 2 * kPanel;
  float sums[2 * kUnitRows][2][kPanel];

  float* tile(size_t tile, size_t panel) { return sums[tile * kUnitRows][panel]; }
};
constexpr size_t kSquareBytes = Square::kStride * sizeof(float);

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
  // With `cut`, the unit's tiles have no more rows than there are.
  Columns(float* y, size_t rows, size_t outputs, size_t first, bool cut)
      : y_(y), rows_(rows), outputs_(outputs), first_(first), cut_(cut) {}

  Sums start(const Slab& slab, size_t tile, size_t panel) {
    const Place at = place(tile, panel);
    Sums sums{at.y, outputs_ * sizeof(float), at.y, outputs_ * sizeof(float)};
    if (!fits(at)) {
      float* own = edges_.tile(tile % 2, panel);
      if (slab.bias == nullptr) {
        copy_lines(at.y, outputs_, at.rows, at.columns, own, Square::kStride);
      }
      sums = {own, kSquareBytes, own, kSquareBytes};
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
        if (fits(at)) continue;
        copy_lines(edges_.tile(tile % 2, panel), Square::kStride, at.rows, at.columns, at.y,
                   outputs_);
      }
    }
  }

 private:
  struct Place {
    float* y;
    size_t rows;
    size_t columns;
  };

  bool fits(const Place& at) const {
    return (cut_ || at.rows == kUnitRows) && at.columns == kPanel;
  }
  Place place(size_t tile, size_t panel) const {
    const size_t row = tile * kUnitRows, column = first_ + panel * kPanel;
    return {y_ + row * outputs_ + column, std::min(kUnitRows, rows_ - row),
            std::min(kPanel, outputs_ - column)};
  }

  float* y_;
  size_t rows_, outputs_, first_;
  bool cut_;
  Square edges_;
};

// What becomes of a row of a pair's sums: what an epilogue makes of them, a row of y.
struct Finished {
  Epilogue epilogue;
  float* y;
  size_t stride;

  RBEE_INLINED void take(const Square& sums, size_t row) {
    const auto& both = sums.sums[row];
    if (epilogue.gate != nullptr) {
      epilogue.gate(both[0], both[1], kPanel, y + row * stride);
    } else {
      epilogue.activation(both[0], 2 * kPanel, y + row * stride);
    }
  }
  Finished from(size_t row) const { return {epilogue, y + row * stride, stride}; }
};

// Or they are added to another row.
struct Added {
  const WeighedRows* to;
  size_t column;
  size_t panels;
  size_t first = 0;

  RBEE_INLINED void take(const Square& sums, size_t row) {
    float* y = (*to)[first + row] + column;
    const __m512 weight = _mm512_set1_ps(to->weights[first + row]);
    for (size_t p = 0; p < panels; ++p, y += kPanel) {
      const __m512 sum = _mm512_load_ps(sums.sums[row][p]);
      _mm512_storeu_ps(y, _mm512_fmadd_ps(weight, sum, _mm512_loadu_ps(y)));
    }
  }
  Added from(size_t row) const { return {to, column, panels, row}; }
};

constexpr size_t kMostWaiting = 2 * kUnitRows;

// Rows of sums that wait for what becomes of them, which is done for a few at a time while the unit
// multiplies.
template <typename Outcome>
class Waiting {
 public:
  void add(const Square* sums, size_t rows, const Outcome& outcome) {
    take(kMostWaiting);
    sums_ = sums;
    outcome_ = outcome;
    next_ = 0;
    rows_ = rows;
  }

  bool is_in(const Square& square) const { return sums_ == &square; }

  void take(size_t most) {
    for (const size_t last = std::min(rows_, next_ + most); next_ < last; ++next_) {
      outcome_.take(*sums_, next_);
    }
  }

 private:
  Outcome outcome_{};
  const Square* sums_ = nullptr;
  size_t next_ = 0, rows_ = 0;
};

// Where sums of tiles of rows from the first on are until they are taken; so many squares in turn.
struct Squares {
  Square* squares;
  size_t count;
  size_t first_tile;
  size_t first_square;

  Square& of(size_t tile) const {
    return squares[(first_square + (tile - first_tile) / 2) % count];
  }
};

// A pair of panels whose outcome is taken once all slabs were multiplied.
class PairColumn {
 public:
  PairColumn(const Finished& outcome, size_t rows, Squares squares, bool is_last,
             Waiting<Finished>& waiting)
      : outcome_(outcome), rows_(rows), squares_(squares), is_last_(is_last), waiting_(waiting) {}

  Sums start(const Slab& slab, size_t tile, size_t panel) {
    const size_t first = squares_.first_tile;
    float* own = squares_.of(tile).tile((tile - first) % 2, panel);
    if (slab.bias == nullptr) return {own, kSquareBytes, own, kSquareBytes};
    return {slab.bias + panel * kPanel, 0, own, kSquareBytes};
  }

  void meanwhile(size_t rows) { waiting_.take(rows); }

  void finish(const Slab&, size_t tile, size_t tiles) {
    if (!is_last_) return;
    const size_t row = tile * kUnitRows;
    waiting_.add(&squares_.of(tile), std::min(tiles * kUnitRows, rows_ - row),
                 outcome_.from(row));
  }

 private:
  Finished outcome_;
  size_t rows_;
  Squares squares_;
  bool is_last_;
  Waiting<Finished>& waiting_;
};

// A pair, or the last panel, whose sums are added to other rows slab by slab.
class AddedColumns {
 public:
  AddedColumns(const Added& outcome, size_t rows, size_t first_tile, Square* squares,
               Waiting<Added>& waiting)
      : outcome_(outcome),
        rows_(rows),
        first_tile_(first_tile),
        squares_(squares),
        waiting_(waiting) {}

  Sums start(const Slab&, size_t tile, size_t panel) {
    alignas(kUnitBytes) static constexpr float kZeros[kPanel] = {};
    return {kZeros, 0, own().tile((tile - first_tile_) % 2, panel), kSquareBytes};
  }

  void meanwhile(size_t rows) { waiting_.take(rows); }

  void finish(const Slab&, size_t tile, size_t tiles) {
    const size_t row = tile * kUnitRows;
    waiting_.add(&own(), std::min(tiles * kUnitRows, rows_ - row), outcome_.from(row));
  }

 private:
  // Of two, the one in which no sums wait.
  Square& own() const { return squares_[waiting_.is_in(squares_[0]) ? 1 : 0]; }

  Added outcome_;
  size_t rows_;
  size_t first_tile_;
  Square* squares_;
  Waiting<Added>& waiting_;
};

}  // namespace rbee::avx512
