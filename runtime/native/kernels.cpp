#include "kernels.h"

#include "attention.h"
#include "multiply.h"
#include "rows.h"
#include "stretch.h"

namespace rbee::RBEE_VARIANT {

const Kernels kKernels = {
    kTile,      quantise, multiply,     attend,        combine,  attend_many, rotate, gated_silu,
    gated_gelu, add_norm, find_largest, weigh_stretch, sum_from, collect,
};

}  // namespace rbee::RBEE_VARIANT
