// What the operators of attention share: a group of queries to one cache, by what runs it best.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <vector>

#include "bf16_attention.h"
#include "kernels.h"

namespace rbee {

// Numbers of keys and values, or of queries, that are worth the while of another thread.
constexpr size_t kWorthAThread = 16 << 10;
constexpr size_t kMostTasks = 16;
constexpr Angles kNotTurned{nullptr, nullptr, 0};
// Tokens of a text from which on the matrix unit is worth its preparations.
constexpr size_t kTokensForTheUnit = 24;

inline size_t tasks(size_t items, size_t work) {
  return std::min<size_t>({items, kMostTasks, work / kWorthAThread + 1});
}

template <typename Element>
const CacheKernels<Element>& kernels_on(const Kernels& kernels) {
  if constexpr (std::is_same_v<Element, Half>) {
    return kernels.halves;
  } else if constexpr (std::is_same_v<Element, Byte>) {
    return kernels.bytes;
  } else {
    return kernels.floats;
  }
}

// Does what attend_many does, on the matrix unit or off it.
template <typename Element>
void attend_group(const Kernels& kernels, bool on_unit, const Query* queries, size_t count,
                  const HeadCache<Element>& cache, const Scoring& scoring) {
  if (on_unit) return avx512::attend_many_bf16(queries, count, cache, scoring);
  // Registers are loaded from it, and none from two of the cache's lines.
  constexpr size_t kAlignment = 64;
  thread_local std::vector<float> room;
  room.resize(std::max(room.size(), 2 * cache.size * kKeys + kAlignment));
  void* aligned = room.data();
  size_t left = room.size() * sizeof(float);
  std::align(kAlignment, 2 * cache.size * kKeys * sizeof(float), aligned, left);
  kernels_on<Element>(kernels).attend_many(queries, count, cache, scoring,
                                           static_cast<float*>(aligned));
}

}  // namespace rbee
