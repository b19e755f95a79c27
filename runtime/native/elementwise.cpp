#include "elementwise.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "exponential.h"

namespace rbee {
namespace {

constexpr size_t kLanes = 16;
// Numbers that are worth the while of another thread.
constexpr size_t kWorthAThread = 8 << 10;
constexpr size_t kMostTasks = 8;

// Which of the sixteen numbers from `i` on are below `count`.
__mmask16 lanes(size_t i, size_t count) {
  return i + kLanes <= count ? 0xffff : static_cast<__mmask16>((1u << (count - i)) - 1);
}

__m512 times_sigmoid(__m512 x, __m512 of) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 down = exponential(_mm512_sub_ps(_mm512_setzero_ps(), of));
  return _mm512_div_ps(x, _mm512_add_ps(one, down));
}

__m512 silu(__m512 x) { return times_sigmoid(x, x); }

// x / 2 * (1 + tanh(u)) is x * sigmoid(2 * u); u = sqrt(2 / pi) * (x + 0.044715 * x**3).
__m512 gelu(__m512 x) {
  const __m512 square = _mm512_mul_ps(x, x);
  const __m512 slope = _mm512_fmadd_ps(square, _mm512_set1_ps(2 * 0.7978845608f * 0.044715f),
                                       _mm512_set1_ps(2 * 0.7978845608f));
  return times_sigmoid(x, _mm512_mul_ps(x, slope));
}

template <__m512 (*Activation)(__m512)>
void gated_row(const float* gate, const float* up, size_t width, float* y) {
  for (size_t i = 0; i < width; i += kLanes) {
    const __mmask16 mask = lanes(i, width);
    const __m512 active = Activation(_mm512_maskz_loadu_ps(mask, gate + i));
    const __m512 product = _mm512_mul_ps(active, _mm512_maskz_loadu_ps(mask, up + i));
    _mm512_mask_storeu_ps(y + i, mask, product);
  }
}

// Calls `row(index)` for each row, on as many threads as so many numbers are worth.
template <typename Row>
void for_rows(const OnnxRuntime& ort, const ort::KernelContext* context, size_t rows, size_t width,
              const Row& row) {
  const size_t tasks = std::min<size_t>({rows, kMostTasks, rows * width / kWorthAThread + 1});
  ort.in_parallel(context, tasks, [&](size_t task) {
    for (size_t i = rows * task / tasks; i < rows * (task + 1) / tasks; ++i) row(i);
  });
}

size_t product(const std::vector<int64_t>& dimensions, size_t count) {
  size_t result = 1;
  for (size_t i = 0; i < count; ++i) result *= static_cast<size_t>(dimensions[i]);
  return result;
}

void add_norm_row(const float* x, const float* skip, const float* gamma, float epsilon,
                  size_t width, float* total, float* y) {
  __m512 squares = _mm512_setzero_ps();
  for (size_t i = 0; i < width; i += kLanes) {
    const __mmask16 mask = lanes(i, width);
    const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, x + i),
                                     _mm512_maskz_loadu_ps(mask, skip + i));
    squares = _mm512_fmadd_ps(sum, sum, squares);
    _mm512_mask_storeu_ps(total + i, mask, sum);
  }
  const float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(width);
  const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(mean + epsilon));
  for (size_t i = 0; i < width; i += kLanes) {
    const __mmask16 mask = lanes(i, width);
    const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, total + i), factor);
    _mm512_mask_storeu_ps(y + i, mask,
                          _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(mask, gamma + i)));
  }
}

}  // namespace

GatedSilu::GatedSilu(ort::Api* api, const ort::KernelInfo*) : Gated(api, gated_row<silu>) {}

GatedGelu::GatedGelu(ort::Api* api, const ort::KernelInfo*) : Gated(api, gated_row<gelu>) {}

void Gated::compute(ort::KernelContext* context) const {
  const ort::Value* input = ort_.input(context, 0);
  std::vector<int64_t> dimensions = ort_.dimensions(input);
  if (dimensions.empty() || dimensions.back() % 2 != 0) {
    throw Failure{"the last dimension is not that of two halves"};
  }
  const size_t width = static_cast<size_t>(dimensions.back() /= 2);
  const size_t rows = product(dimensions, dimensions.size() - 1);
  const auto* x = ort_.data<const float>(input);
  float* y = ort_.output<float>(context, 0, dimensions);
  if (rows == 0) return;
  for_rows(ort_, context, rows, width, [&](size_t i) {
    const float* gate = x + i * 2 * width;
    row_(gate, gate + width, width, y + i * width);
  });
}

AddNorm::AddNorm(ort::Api* api, const ort::KernelInfo* info)
    : ort_(api),
      epsilon_(ort_.float_attribute(info, "epsilon")),
      has_total_(ort_.has_output(info, 3)) {
  if (ort_.has_input(info, 3)) throw Failure{"a bias is given"};
}

void AddNorm::compute(ort::KernelContext* context) const {
  const ort::Value* inputs[3];
  for (size_t i = 0; i < std::size(inputs); ++i) inputs[i] = ort_.input(context, i);
  const std::vector<int64_t> dimensions = ort_.dimensions(inputs[0]);
  const size_t width = static_cast<size_t>(dimensions.back());
  const size_t rows = product(dimensions, dimensions.size() - 1);
  if (ort_.dimensions(inputs[1]) != dimensions) throw Failure{"what is added has another shape"};
  const auto* x = ort_.data<const float>(inputs[0]);
  const auto* skip = ort_.data<const float>(inputs[1]);
  const auto* gamma = ort_.data<const float>(inputs[2]);
  float* y = ort_.output<float>(context, 0, dimensions);
  float* total = has_total_ ? ort_.output<float>(context, 3, dimensions) : y;
  if (rows == 0) return;
  for_rows(ort_, context, rows, width, [&](size_t i) {
    const size_t at = i * width;
    add_norm_row(x + at, skip + at, gamma, epsilon_, width, total + at, y + at);
  });
}

}  // namespace rbee
