// Drawing tokens from logits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace rbee {

// How a row is drawn, as the caller's array holds it.
struct DrawParameters {
  double inverse_temperature;  // 0 takes the largest logit
  double top_k;                // 0 keeps all
  double top_p;                // share of the weight to keep; 1 keeps all
  double min_p;                // least weight to keep, the largest being 1
  double uniform;              // in [0, 1): where to draw
};

// Draws a token from one row of logits, float[vocab], which are overwritten. Returns -1 where the
// largest of them is not finite.
int64_t draw(const Kernels& kernels, float* logits, size_t vocab, const DrawParameters& how);

}  // namespace rbee
