#include "kernels.h"

#include "attention.h"
#include "multiply.h"
#include "rows.h"
#include "stretch.h"

namespace rbee::RBEE_VARIANT {

const Kernels kKernels = {
    .matrix_unit = false,
    .tile = kTile,
    .quantise = quantise,
    .multiply = multiply,
    .multiply_gated = multiply_gated,
    .attend = attend,
    .combine = combine,
    .attend_many = attend_many,
    .rotate = rotate,
    .gated_silu = gated_silu,
    .gated_gelu = gated_gelu,
    .add_norm = add_norm,
    .find_largest = find_largest,
    .weigh_stretch = weigh_stretch,
    .sum_from = sum_from,
    .collect = collect,
};

}  // namespace rbee::RBEE_VARIANT
