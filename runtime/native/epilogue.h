// What becomes of a product's outputs before they leave it: the gate of an MLP, or an activation.
#pragma once

#include <cstddef>

#include "inlined.h"

namespace rbee {

// y = activation(gate) * up, of so many numbers; y may be gate.
using Gate = void (*)(const float* gate, const float* up, size_t count, float* y);

// y = activation(x), of so many numbers; y may be x.
using Activation = void (*)(const float* x, size_t count, float* y);

// What becomes of two panels of outputs, one of these or nothing.
struct Epilogue {
  Gate gate = nullptr;  // makes one of both: the first is its own, the second what it is for
  Activation activation = nullptr;  // of each

  RBEE_INLINED bool any() const { return gate != nullptr || activation != nullptr; }
  // How many are left of two.
  RBEE_INLINED size_t panels() const { return gate != nullptr ? 1 : 2; }
};

}  // namespace rbee
