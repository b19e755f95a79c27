// Work on a stretch of a row of logits, or of the weights in their place; see sampler.cpp.
#pragma once

#include <cstddef>

namespace rbee::RBEE_VARIANT {

// The largest of some numbers; NaN where any is.
float find_largest(const float* values, size_t count);

// Turns logits into weights, e**((x - shift) * factor), and finds their largest and their sum. The
// numbers `ahead` of each are fetched meanwhile.
void weigh_stretch(float* values, size_t count, size_t ahead, float shift, float factor,
                   float* largest, float* sum);

// Finds how many weights there are from a threshold on, and their sum.
size_t sum_from(const float* values, size_t count, float threshold, float* sum);

// Copies the weights from `least` on that are below `below`, in their order; returns how many.
size_t collect(const float* values, size_t count, float least, float below, float* to);

}  // namespace rbee::RBEE_VARIANT
