// Which experts tokens go to, and in which order experts take them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace rbee {

// How a layer chooses: of so many experts the `active` with the largest logits, of equal ones those
// of lower index. Each counts for its part of the softmax over all, or, normalized, over those
// chosen. Where there are biases, float[experts], it counts for the sigmoid of its logit, or for its
// part of the sum of those chosen, and is chosen by that sigmoid and its bias.
struct Choice {
  size_t experts;
  size_t active;
  bool normalized;
  const float* bias;
};

// Chooses the experts of a token by its logits, float[experts]: writes their indices, in ascending
// order, and what each counts for. `room` is float[experts].
void choose_experts(const Kernels& kernels, const Choice& choice, const float* logits, float* room,
                    uint32_t* chosen, float* weights);

// Neighbours among the rows of one expert.
struct Part {
  size_t expert;
  size_t first;  // of all experts' rows
  size_t rows;
  size_t first_tile;  // of all parts' tiles
};

// Tokens in the order of their experts, one row for each pair of the two; in memory of the caller's.
struct Routing {
  // Rows of a tile, with which every part begins anew, and tiles of a part, at most. So many stay in
  // a core's second-level cache while they are multiplied.
  static constexpr size_t kTile = 16;
  static constexpr size_t kMostTiles = 8;
  static constexpr size_t kMostRows = kMostTiles * kTile;

  uint32_t* tokens;
  float* weights;
  Part* parts;
  size_t count;  // of parts

  // The most that there can be of so many rows.
  static size_t most_tiles(const Choice& choice, size_t rows);

  // Sorts what was chosen, both [tokens, active]; `starts` has room for experts + 1.
  void sort(const Choice& choice, size_t rows, const uint32_t* chosen, const float* chosen_weights,
            uint32_t* starts);
};

}  // namespace rbee
