#include "matrix_unit.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace rbee {
namespace {

// Of arch_prctl: a process asks once for the tiles' eight kilobytes in its threads' saved state.
constexpr int kRequestPermission = 0x1023;
constexpr int kTileData = 18;

// What the operating system saves of a thread: the tiles' shapes and their data.
constexpr unsigned kSavedTiles = 3u << 17;

bool processor_has_it() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24;
  if ((d & kBf16) == 0 || (d & kTiles) == 0) return false;
  // Conversions to bfloat16 are AVX-512's.
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || (a & 1u << 5) == 0) return false;
  // XGETBV may be executed where the operating system says that it saves states at all.
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & 1u << 27) == 0) return false;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kSavedTiles) == kSavedTiles;
}

bool is_usable() {
  return processor_has_it() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool has_matrix_unit() {
  static const bool usable = is_usable();
  return usable;
}

}  // namespace rbee
