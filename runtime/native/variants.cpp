#include "variants.h"

#include <cpuid.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "matrix_unit.h"
#include "operator.h"

namespace rbee {
namespace {

constexpr const char* kChoice = "RBEE_KERNELS";

enum Register { kEax, kEbx, kEcx };

// A bit of what the processor says of itself.
struct Instructions {
  uint32_t leaf;
  uint32_t part;
  Register in;
  unsigned bit;
};

constexpr Instructions kFma{1, 0, kEcx, 12}, kSavedState{1, 0, kEcx, 27}, kF16c{1, 0, kEcx, 29},
    kAvx2{7, 0, kEbx, 5}, kBmi2{7, 0, kEbx, 8}, kAvxVnni{7, 1, kEax, 4}, kAvx512F{7, 0, kEbx, 16},
    kAvx512Dq{7, 0, kEbx, 17}, kAvx512Cd{7, 0, kEbx, 28}, kAvx512Bw{7, 0, kEbx, 30},
    kAvx512Vl{7, 0, kEbx, 31}, kAvx512Vnni{7, 0, kEcx, 11};

// State that a system must save for a process that uses these registers, as bits of XCR0.
constexpr uint64_t kRegisters256 = 0x06;
constexpr uint64_t kRegisters512 = 0xe6;

bool has(Instructions wanted) {
  uint32_t found[4] = {};
  return __get_cpuid_count(wanted.leaf, wanted.part, &found[0], &found[1], &found[2],
                           &found[3]) != 0 &&
         (found[wanted.in] >> wanted.bit & 1) != 0;
}

bool has_all(std::initializer_list<Instructions> wanted) {
  for (const Instructions& one : wanted) {
    if (!has(one)) return false;
  }
  return true;
}

bool saves(uint64_t state) {
  if (!has(kSavedState)) return false;
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & state) == state;
}

// In a virtual machine the processor takes long to answer: it is asked once.
bool runs_avx2() {
  static const bool runs = saves(kRegisters256) && has_all({kAvx2, kFma, kF16c});
  return runs;
}

bool runs_avxvnni() {
  static const bool runs = runs_avx2() && has(kAvxVnni);
  return runs;
}

bool runs_avx512() {
  static const bool runs =
      runs_avx2() && saves(kRegisters512) &&
      has_all({kBmi2, kAvx512F, kAvx512Dq, kAvx512Cd, kAvx512Bw, kAvx512Vl, kAvx512Vnni});
  return runs;
}

thread_local bool exactly = false;

bool runs_amx() { return runs_avx512() && has_matrix_unit(); }

// What does not run on the matrix unit runs on AVX-512.
const Kernels kAmx = [] {
  Kernels kernels = avx512::kKernels;
  kernels.matrix_unit = true;
  return kernels;
}();

}  // namespace

const Variant kVariants[] = {
    {"amx", &kAmx, runs_amx},
    {"avx512", &avx512::kKernels, runs_avx512},
    {"avxvnni", &avxvnni::kKernels, runs_avxvnni},
    {"avx2", &avx2::kKernels, runs_avx2},
};

void choose_exactly(bool on) { exactly = on; }

const Variant& chosen_variant() {
  const char* name = std::getenv(kChoice);
  const bool any = name == nullptr || *name == '\0';
  for (const Variant& variant : kVariants) {
    if (any && exactly && variant.kernels->matrix_unit) continue;
    if (any ? variant.runs_here() : std::strcmp(name, variant.name) == 0) {
      if (variant.runs_here()) return variant;
      throw Failure{std::string(kChoice) + "=" + name + ": the processor cannot run them"};
    }
  }
  if (any) throw Failure{"the processor has no AVX2"};
  throw Failure{std::string(kChoice) + "=" + name + " names no kernels"};
}

}  // namespace rbee
