// Work on one row of numbers: an MLP's gate or activation, a sum with its norm, a head turned.
#pragma once

#include <cstddef>

#include "head_cache.h"

namespace rbee::RBEE_VARIANT {

// y = activation(gate) * up; GELU in its approximation by tanh. y may be gate or up.
void gated_silu(const float* gate, const float* up, size_t width, float* y);
void gated_gelu(const float* gate, const float* up, size_t width, float* y);
void gated_erf_gelu(const float* gate, const float* up, size_t width, float* y);

// y = g * sigmoid(1.702 * g) * (u + 1), with g the lesser of gate and 7, and u what -7 and 7 clamp up
// to; y may be gate.
void gated_clamped_silu(const float* gate, const float* up, size_t width, float* y);

// y = x * (1 + erf(x / sqrt(2))) / 2; y may be x.
void gelu(const float* x, size_t width, float* y);

// y = x * gamma / sqrt(mean(x ** 2) + epsilon); y may be x.
void norm(const float* x, const float* gamma, float epsilon, size_t width, float* y);

// total = x + skip, y = total * gamma / sqrt(mean(total ** 2) + epsilon); y may be total.
void add_norm(const float* x, const float* skip, const float* gamma, float epsilon, size_t width,
              float* total, float* y);

// total = x + skip, y = (total - mean(total)) * gamma / sqrt(variance(total) + epsilon) + beta; y may
// be total.
void add_layer_norm(const float* x, const float* skip, const float* gamma, const float* beta,
                    float epsilon, size_t width, float* total, float* y);

// to = scale * x, the first 2 * half elements turned: pairs are x[i] and x[i + half]; to floats, or
// to Halves, the nearest that are finite.
template <typename Element>
void rotate(const float* x, size_t size, const Angles& angles, float scale, Element* to);

}  // namespace rbee::RBEE_VARIANT
