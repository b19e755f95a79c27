#include "pages.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace rbee {
namespace {

constexpr size_t kPage = 4096;

// Of /proc/self/pagemap, a word for each page: it is held, or swapped out; it is a file's.
constexpr uint64_t kHeld = uint64_t{3} << 62;
constexpr uint64_t kOfFile = uint64_t{1} << 61;

// Bytes from an address to the next page.
size_t to_next_page(const void* from) { return -reinterpret_cast<uintptr_t>(from) % kPage; }

bool are_mirrored(uintptr_t from, size_t pages) {
  const int states = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (states < 0) return false;
  std::vector<uint64_t> state(pages);
  const size_t bytes = pages * sizeof(uint64_t);
  const ssize_t got =
      pread(states, state.data(), bytes, static_cast<off_t>(from / kPage * sizeof(uint64_t)));
  close(states);
  return got == static_cast<ssize_t>(bytes) &&
         std::none_of(state.begin(), state.end(), [](uint64_t one) {
           return (one & kHeld) != 0 && (one & kOfFile) == 0;
         });
}

}  // namespace

void populate(uint8_t* from, const uint8_t* to) {
#ifdef MADV_POPULATE_WRITE
  const size_t skipped = to_next_page(from);
  const size_t bytes = static_cast<size_t>(to - from);
  if (bytes < skipped + kPage) return;
  madvise(from + skipped, (bytes - skipped) / kPage * kPage, MADV_POPULATE_WRITE);
#endif
}

void ask_for_large_pages(uint8_t* from, size_t bytes) {
  const size_t skipped = to_next_page(from);
  if (bytes > skipped) madvise(from + skipped, bytes - skipped, MADV_HUGEPAGE);
}

void forget_mirrored(const void* from, size_t bytes) {
  const size_t skipped = to_next_page(from);
  if (bytes < skipped + kPage) return;
  const uintptr_t first = reinterpret_cast<uintptr_t>(from) + skipped;
  const size_t pages = (bytes - skipped) / kPage;
  if (are_mirrored(first, pages)) {
    madvise(reinterpret_cast<void*>(first), pages * kPage, MADV_DONTNEED);
  }
}

}  // namespace rbee
