#include "kernels.h"

#include "attention.h"
#include "multiply.h"
#include "rows.h"

namespace rbee::RBEE_VARIANT {

const Kernels kKernels = {kTile,  quantise, multiply,   attend,     combine,
                          attend_many, rotate,   gated_silu, gated_gelu, add_norm};

}  // namespace rbee::RBEE_VARIANT
