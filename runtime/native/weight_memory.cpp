#include "weight_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>

#include "pages.h"

namespace rbee {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kLargePage = 2 << 20;
// What is at least so large shares large pages; what is smaller is not worth one.
constexpr size_t kShares = 128 << 10;
// Address space that is taken at once. It becomes memory page by page.
constexpr size_t kStretch = 64 << 20;

size_t up_to(size_t multiple, size_t bytes) { return (bytes + multiple - 1) / multiple * multiple; }

// Address space in large pages, handed out from its beginning to its end.
class Stretch {
 public:
  explicit Stretch(size_t bytes) : size_(bytes) {
    // Where it begins is for the system to say: what is before the first large page is given back.
    void* mapped = mmap(nullptr, size_ + kLargePage, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    const auto address = reinterpret_cast<uintptr_t>(mapped);
    const size_t before = up_to(kLargePage, address) - address;
    first_ = static_cast<uint8_t*>(mapped) + before;
    if (before != 0) munmap(mapped, before);
    if (before != kLargePage) munmap(first_ + size_, kLargePage - before);
    ask_for_large_pages(first_, size_);
  }
  Stretch(const Stretch&) = delete;
  ~Stretch() { munmap(first_, size_); }

  // Null where there is no room.
  uint8_t* take(size_t bytes) {
    if (bytes > size_ - taken_) return nullptr;
    uint8_t* taken = first_ + taken_;
    taken_ += bytes;
    return taken;
  }

 private:
  size_t size_;
  size_t taken_ = 0;
  uint8_t* first_;
};

}  // namespace

std::shared_ptr<uint8_t> weight_memory(size_t bytes) {
  const size_t rounded = up_to(kAlignment, bytes);
  if (bytes < kShares) {
    auto* alone = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, rounded));
    if (alone == nullptr) throw std::bad_alloc();
    return {alone, std::free};
  }
  static std::mutex mutex;
  static std::weak_ptr<Stretch> last;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Stretch> stretch = last.lock();
  uint8_t* taken = stretch != nullptr ? stretch->take(rounded) : nullptr;
  if (taken == nullptr) {
    stretch = std::make_shared<Stretch>(std::max(kStretch, up_to(kLargePage, rounded)));
    taken = stretch->take(rounded);
    last = stretch;
  }
  return {stretch, taken};
}

}  // namespace rbee
