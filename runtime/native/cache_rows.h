// A position's key and value, put into the cache of a head.
#pragma once

#include <cstddef>

#include "head_cache.h"

namespace rbee::RBEE_VARIANT {

// Keys are turned on the way. Halves are the nearest that are finite.
void put(const float* key, const float* value, size_t size, const Angles& angles, float* keys,
         float* values, size_t position);
void put(const float* key, const float* value, size_t size, const Angles& angles, Half* keys,
         Half* values, size_t position);

// Numbers are rounded to what byte_panels.h says. Where one is not finite, no score with that
// position's key is a number.
void put(const float* key, const float* value, size_t size, const Angles& angles, Byte* keys,
         Byte* values, size_t position);

}  // namespace rbee::RBEE_VARIANT
