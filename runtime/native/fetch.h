// Memory that is asked for before it is needed.
#pragma once

#include <immintrin.h>

#include <cstddef>

#include "inlined.h"

namespace rbee {

constexpr size_t kCacheLine = 64;

// Have some bytes brought into the core's first cache, or its second; nothing happens where there is
// no memory. Processors do so for what is read in order, but begin anew with every page of 4 KB.
//
// To g++ a function that does no more than this does nothing: were it not inlined, its calls would
// be dropped.
RBEE_INLINED void fetch(const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += kCacheLine) {
    _mm_prefetch(static_cast<const char*>(from) + i, _MM_HINT_T0);
  }
}
RBEE_INLINED void fetch_into_second(const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += kCacheLine) {
    _mm_prefetch(static_cast<const char*>(from) + i, _MM_HINT_T1);
  }
}

}  // namespace rbee
