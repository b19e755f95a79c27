// The gate of an MLP, as a function of numbers side by side.
#pragma once

#include <cstddef>

namespace rbee {

// y = activation(gate) * up, of so many numbers; y may be gate.
using Gate = void (*)(const float* gate, const float* up, size_t count, float* y);

}  // namespace rbee
