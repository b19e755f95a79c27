// What a head with a state is given.
#pragma once

#include <cstddef>

namespace rbee {

// Columns of a state that are gone through together, at most.
constexpr size_t kDeltaColumns = 32;

// Some tokens of a head of values, in their order.
struct DeltaTokens {
  size_t count;
  const float* queries;  // [count, key_dim]
  const float* keys;     // [count, key_dim]
  const float* values;   // value_dim numbers of a token, those of the next `value_stride` on
  size_t value_stride;
  const float* kept;     // [count], how much of the state is
  const float* written;  // [count], how much of what is new is
  float* read;           // value_dim numbers of a token, those of the next `read_stride` on
  size_t read_stride;
};

}  // namespace rbee
