#include "convolution.h"

#include "exponential.h"

namespace rbee::RBEE_VARIANT {
namespace {

template <typename Lanes>
Floats convolved(const float* const* rows, size_t taps, const float* filters, size_t stride,
                 size_t first, Floats sum, Lanes lanes) {
  for (size_t tap = 0; tap < taps; ++tap) {
    const Floats own = load(filters + tap * stride + first, lanes);
    sum = multiply_add(own, load(rows[tap] + first, lanes), sum);
  }
  return sum;
}

}  // namespace

void convolve_silu(const float* const* rows, size_t taps, const float* filters, size_t stride,
                   size_t width, const float* bias, float* y) {
  over(width, [&](size_t i, auto lanes) {
    const Floats start = bias != nullptr ? load(bias + i, lanes) : zeros();
    const Floats sum = convolved(rows, taps, filters, stride, i, start, lanes);
    const Floats down = exponential(subtract(zeros(), sum));
    store(y + i, divide(sum, add(repeat(1.0f), down)), lanes);
  });
}

void convolve_gated(const float* const* rows, size_t taps, const float* filters, size_t stride,
                    size_t width, const float* gate, float* y) {
  over(width, [&](size_t i, auto lanes) {
    const Floats sum = convolved(rows, taps, filters, stride, i, zeros(), lanes);
    store(y + i, times(load(gate + i, lanes), sum), lanes);
  });
}

}  // namespace rbee::RBEE_VARIANT
