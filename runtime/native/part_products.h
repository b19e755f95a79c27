// The two products of an expert with some of its rows, in either arithmetic.
#pragma once

#include <cstddef>

#include "kernels.h"
#include "routing.h"

namespace rbee {

class PartProducts {
 public:
  virtual ~PartProducts() = default;

  // Memory of so many rounded rows, which are the inputs of weights of a shape.
  virtual size_t rounded_bytes(size_t rows, const WeightsShape& shape) const = 0;

  // Rounds the first so many rows.
  virtual void round(const FloatRows& x, size_t rows, const Panels& weights, void* to) const = 0;

  // Writes outputs of pairs [first, last) of panels, gated: y is float[rows, outputs / 2]. Their bias
  // is in the order of the panels, or null.
  virtual void gate(const Panels& weights, void* rounded, size_t rows, size_t first, size_t last,
                    const float* bias, Gate how, float* y) const = 0;

  // Adds outputs of pairs [first, last) of panels, or of a last one, to other rows.
  virtual void add(const Panels& weights, void* rounded, size_t rows, size_t first, size_t last,
                   const WeighedRows& to) const = 0;

  // What it is worth to multiply rows by a pair of panels, in bytes of weights that one row is
  // multiplied by meanwhile.
  virtual size_t pair_work(const Panels& weights, size_t rows) const = 0;
};

// Activations rounded to eight bits, and sums of integers.
class ByteProducts : public PartProducts {
 public:
  explicit ByteProducts(const Kernels& kernels) : kernels_(kernels) {}

  size_t rounded_bytes(size_t rows, const WeightsShape& shape) const override;
  void round(const FloatRows& x, size_t rows, const Panels& weights, void* to) const override;
  void gate(const Panels& weights, void* rounded, size_t rows, size_t first, size_t last,
            const float* bias, Gate how, float* y) const override;
  void add(const Panels& weights, void* rounded, size_t rows, size_t first, size_t last,
           const WeighedRows& to) const override;
  size_t pair_work(const Panels& weights, size_t rows) const override;

 private:
  const Kernels& kernels_;
};

// Both factors rounded to bfloat16, on the matrix unit.
class UnitProducts : public PartProducts {
 public:
  explicit UnitProducts(const Kernels& kernels) : kernels_(kernels) {}

  size_t rounded_bytes(size_t rows, const WeightsShape& shape) const override;
  void round(const FloatRows& x, size_t rows, const Panels& weights, void* to) const override;
  void gate(const Panels& weights, void* rounded, size_t rows, size_t first, size_t last,
            const float* bias, Gate how, float* y) const override;
  void add(const Panels& weights, void* rounded, size_t rows, size_t first, size_t last,
           const WeighedRows& to) const override;
  size_t pair_work(const Panels& weights, size_t rows) const override;

 private:
  const Kernels& kernels_;
};

}  // namespace rbee
