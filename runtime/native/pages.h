// Memory as the system sees it, page by page.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rbee {

// Has the whole pages of fresh memory come at once; one by one they cost more than what is written
// to them. A system that does not know how lets them come as they are needed.
void populate(uint8_t* from, const uint8_t* to);

// Asks for pages of 2 MB, which spare a processor many a look at its tables of pages.
void ask_for_large_pages(uint8_t* from, size_t bytes);

// Gives back the whole pages that only mirror a file, which they come from again if they are read
// again; where any of them was written to, or is no file's, all stay.
void forget_mirrored(const void* from, size_t bytes);

}  // namespace rbee
