#include "kernels.h"

#include "attention.h"
#include "cache_rows.h"
#include "convolution.h"
#include "delta_rule.h"
#include "multiply.h"
#include "rows.h"
#include "stretch.h"

namespace rbee::RBEE_VARIANT {

const Kernels kKernels = {
    .matrix_unit = false,
    .tiles = tiles_of,
    .quantise = quantise,
    .multiply = multiply,
    .multiply_pairs = multiply_pairs,
    .multiply_and_add = multiply_and_add,
    .floats = {put, attend, attend_many},
    .halves = {put, attend, attend_many},
    .bytes = {put, attend, attend_many},
    .rotate = rotate,
    .combine = combine,
    .gated_silu = gated_silu,
    .gated_gelu = gated_gelu,
    .gated_erf_gelu = gated_erf_gelu,
    .gated_clamped_silu = gated_clamped_silu,
    .gelu = gelu,
    .norm = norm,
    .add_norm = add_norm,
    .add_layer_norm = add_layer_norm,
    .find_largest = find_largest,
    .weigh_stretch = weigh_stretch,
    .sum_from = sum_from,
    .collect = collect,
    .convolve_silu = convolve_silu,
    .convolve_gated = convolve_gated,
    .delta_rule = delta_rule,
    .decay_rule = decay_rule,
};

}  // namespace rbee::RBEE_VARIANT
