// Into how many tasks work is cut.
#pragma once

#include <algorithm>
#include <cstddef>

namespace rbee {

// Work that is worth the while of another thread: bytes of weights for up to four rows.
constexpr size_t kWorthAThread = 64 << 10;
constexpr size_t kMostTasks = 8;
// An activation takes as long to be rounded as so many bytes of weights to be multiplied.
constexpr size_t kBytesPerActivation = 8;

inline size_t tasks(size_t items, size_t work) {
  return std::min<size_t>({items, kMostTasks, work / kWorthAThread + 1});
}

}  // namespace rbee
