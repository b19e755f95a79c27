// A causal convolution's inner loops, of each channel by itself.
#pragma once

#include <cstddef>

namespace rbee::RBEE_VARIANT {

// y = silu(bias[c] + sum over i of filters[i * stride + c] * rows[i][c]), for c below `width`; the
// bias may be null.
void convolve_silu(const float* const* rows, size_t taps, const float* filters, size_t stride,
                   size_t width, const float* bias, float* y);

// y = gate[c] * that sum, without a bias.
void convolve_gated(const float* const* rows, size_t taps, const float* filters, size_t stride,
                    size_t width, const float* gate, float* y);

}  // namespace rbee::RBEE_VARIANT
