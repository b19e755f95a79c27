// Block-quantised weights as the processor's matrix unit takes them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "packed_weights.h"

namespace rbee::avx512 {

// Rounds the weights of so many blocks of one panel, from the first one named on, to bfloat16,
// scaled and with their offsets: for each two inputs, those of 16 outputs side by side.
using RoundPanel = void (*)(const Panels& weights, size_t panel, size_t first, size_t blocks,
                            uint16_t* to);

// The function for weights like these.
RoundPanel round_panel_of(const Panels& weights);

}  // namespace rbee::avx512
