// Log probabilities of tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace rbee {

// Finds the `top` largest log probabilities, natural ones, in a row of logits, float[vocab], and their
// tokens, at most `vocab`; of equal ones the first. Returns what they all are relative to, the
// logarithm of the sum of e**x, to within 1e-6; NaN where the largest logit is not finite, and
// nothing is found then.
double log_softmax(const Kernels& kernels, const float* logits, size_t vocab, size_t top,
                   int64_t* likeliest, double* values);

}  // namespace rbee
