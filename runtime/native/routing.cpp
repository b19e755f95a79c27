#include "routing.h"

#include <algorithm>
#include <cmath>

namespace rbee {
namespace {

// Added to the sum of sigmoids that they are divided by.
constexpr float kLeastSum = 1e-6f;

size_t tiles_of(size_t rows) { return (rows + Routing::kTile - 1) / Routing::kTile; }

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// Finds the experts with the largest scores, the best of them first.
void find_best(const Choice& choice, const float* scores, uint32_t* chosen) {
  const size_t active = choice.active;
  for (size_t expert = 0; expert < choice.experts; ++expert) {
    if (expert >= active && !(scores[expert] > scores[chosen[active - 1]])) continue;
    size_t place = std::min(expert, active - 1);
    for (; place > 0 && scores[expert] > scores[chosen[place - 1]]; --place) {
      chosen[place] = chosen[place - 1];
    }
    chosen[place] = static_cast<uint32_t>(expert);
  }
}

void choose_by_sigmoids(const Choice& choice, const float* logits, float* room, uint32_t* chosen,
                        float* weights) {
  for (size_t i = 0; i < choice.experts; ++i) room[i] = sigmoid(logits[i]) + choice.bias[i];
  find_best(choice, room, chosen);
  std::sort(chosen, chosen + choice.active);
  float sum = kLeastSum;
  for (size_t i = 0; i < choice.active; ++i) {
    weights[i] = sigmoid(logits[chosen[i]]);
    sum += weights[i];
  }
  for (size_t i = 0; i < choice.active && choice.normalized; ++i) weights[i] /= sum;
}

}  // namespace

void choose_experts(const Kernels& kernels, const Choice& choice, const float* logits, float* room,
                    uint32_t* chosen, float* weights) {
  if (choice.bias != nullptr) return choose_by_sigmoids(choice, logits, room, chosen, weights);
  const size_t active = choice.active;
  find_best(choice, logits, chosen);
  const float shift = logits[chosen[0]];
  std::sort(chosen, chosen + active);
  float largest, sum;
  if (choice.normalized) {
    for (size_t i = 0; i < active; ++i) weights[i] = logits[chosen[i]];
    kernels.weigh_stretch(weights, active, 0, shift, 1.0f, &largest, &sum);
  } else {
    std::copy_n(logits, choice.experts, room);
    kernels.weigh_stretch(room, choice.experts, 0, shift, 1.0f, &largest, &sum);
    for (size_t i = 0; i < active; ++i) weights[i] = room[chosen[i]];
  }
  for (size_t i = 0; i < active; ++i) weights[i] /= sum;
}

size_t Routing::most_tiles(const Choice& choice, size_t rows) {
  return rows / kTile + std::min(choice.experts, rows);
}

void Routing::sort(const Choice& choice, size_t rows, const uint32_t* chosen,
                   const float* chosen_weights, uint32_t* starts) {
  std::fill_n(starts, choice.experts + 1, 0);
  for (size_t i = 0; i < rows; ++i) ++starts[chosen[i] + 1];
  count = 0;
  size_t tile = 0;
  for (size_t expert = 0; expert < choice.experts; ++expert) {
    const size_t first = starts[expert], own = starts[expert + 1], tiles = tiles_of(own);
    const size_t cuts = (tiles + kMostTiles - 1) / kMostTiles;
    for (size_t cut = 0; cut < cuts; ++cut) {
      const size_t from = tiles * cut / cuts, to = tiles * (cut + 1) / cuts;
      const size_t last = std::min(own, to * kTile);
      parts[count++] = {expert, first + from * kTile, last - from * kTile, tile + from};
    }
    starts[expert + 1] += starts[expert];
    tile += tiles;
  }
  // Tokens in their order, so that each expert has them so.
  for (size_t i = 0; i < rows; ++i) {
    const uint32_t row = starts[chosen[i]]++;
    tokens[row] = static_cast<uint32_t>(i / choice.active);
    weights[row] = chosen_weights[i];
  }
}

}  // namespace rbee
