// Memory that weights are read from, step after step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace rbee {

// Returns so many bytes, aligned to 64. What is large shares pages of 2 MB with what was asked for
// before and after it, where the system has such pages: a processor that streams through memory
// begins anew with every page, and asks tables where each is. They are given back with the last
// of those who share them.
//
// Throws std::bad_alloc.
std::shared_ptr<uint8_t> weight_memory(size_t bytes);

}  // namespace rbee
