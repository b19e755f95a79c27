// Floats of 16 bits, of those of 32.
#pragma once

#include <cstdint>
#include <optional>

namespace rbee {

// The 16-bit float of the same value; nothing where there is none.
std::optional<uint16_t> half(float value);

// The 16-bit float that is nearest, as one of 32 bits; of what is too large, another that is.
float rounded_to_half(float value);

}  // namespace rbee
