// The variants of the kernels, and which of them a processor can run.
#pragma once

#include <string>

#include "kernels.h"

namespace rbee {

struct Variant {
  const char* name;
  const Kernels* kernels;
  bool (*runs_here)();
};

// The fastest first.
extern const Variant kVariants[4];

// Whether variants whose prompts are not computed in float32 throughout are to be passed over from
// now on, by this thread, unless the environment names one.
void choose_exactly(bool on);

// The one that the environment's RBEE_KERNELS names, or the fastest that runs here.
//
// Throws a Failure: there is no such variant, or it does not run here.
const Variant& chosen_variant();

}  // namespace rbee
