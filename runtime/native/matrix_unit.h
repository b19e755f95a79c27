// The processor's matrix unit (AMX): tiles of 16 rows of 64 bytes.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "inlined.h"

// Marks a function that works on tiles: the library as a whole is compiled for processors without.
#define RBEE_MATRIX_UNIT __attribute__((target("amx-tile,amx-bf16,avx512bf16")))

namespace rbee {

constexpr size_t kUnitRows = 16;
constexpr size_t kUnitBytes = 64;

// Whether the processor has the unit, with bfloat16, and the operating system lets this process use
// it, which it is asked once.
bool has_matrix_unit();

// Readies the unit for this thread, all eight tiles at their full size, as long as it lives.
class MatrixUnit {
 public:
  RBEE_INLINED RBEE_MATRIX_UNIT MatrixUnit() : MatrixUnit(kUnitRows, kUnitRows) {}
  // Tiles 0, 1 and 4 with so many rows, and 2, 3 and 5.
  RBEE_INLINED RBEE_MATRIX_UNIT MatrixUnit(size_t first, size_t second) {
    struct alignas(64) {
      uint8_t palette = 1;
      uint8_t start = 0;
      uint8_t reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (size_t tile = 0; tile < 8; ++tile) {
      shape.bytes[tile] = kUnitBytes;
      shape.rows[tile] = kUnitRows;
    }
    shape.rows[0] = shape.rows[1] = shape.rows[4] = static_cast<uint8_t>(first);
    shape.rows[2] = shape.rows[3] = shape.rows[5] = static_cast<uint8_t>(second);
    // g++ believes that the next instruction reads eight bytes.
    __asm__ volatile("" ::"r"(&shape) : "memory");
    _tile_loadconfig(&shape);
  }
  RBEE_INLINED RBEE_MATRIX_UNIT ~MatrixUnit() { _tile_release(); }
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;
};

}  // namespace rbee
