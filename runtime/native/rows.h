// Work on one row of numbers: the gate of an MLP, and a sum with its norm.
#pragma once

#include <cstddef>

namespace rbee::RBEE_VARIANT {

// y = activation(gate) * up; GELU in its approximation by tanh.
void gated_silu(const float* gate, const float* up, size_t width, float* y);
void gated_gelu(const float* gate, const float* up, size_t width, float* y);

// total = x + skip, y = total * gamma / sqrt(mean(total ** 2) + epsilon); y may be total.
void add_norm(const float* x, const float* skip, const float* gamma, float epsilon, size_t width,
              float* total, float* y);

}  // namespace rbee::RBEE_VARIANT
