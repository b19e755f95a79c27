// Functions that sources of several variants share must leave no copy of themselves in an object:
// a linker keeps one of all, and another variant's may have instructions that the processor lacks.
#pragma once

#define RBEE_INLINED [[gnu::always_inline]] inline
