// The inner loops over the state of a head, of a gated DeltaNet and of a state space.
#pragma once

#include "delta_tokens.h"

namespace rbee::RBEE_VARIANT {

// For each token, with the state S, float[key_dim, value_dim], S_kept = kept * S: S = S_kept +
// written * k (v - k S_kept), and what is read is q S. There is `room` for kDeltaColumns numbers
// times key_dim.
void delta_rule(const DeltaTokens& tokens, size_t key_dim, size_t value_dim, float* state,
                float* room);

// The same without what is known already: S = S_kept + written * k v.
void decay_rule(const DeltaTokens& tokens, size_t key_dim, size_t value_dim, float* state,
                float* room);

}  // namespace rbee::RBEE_VARIANT
