#include "elementwise.h"

#include <algorithm>

namespace rbee {
namespace {

// Numbers that are worth the while of another thread.
constexpr size_t kWorthAThread = 8 << 10;
constexpr size_t kMostTasks = 8;

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

}  // namespace

GatedSilu::GatedSilu(ort::Api* api, const ort::KernelInfo*, const Kernels& kernels)
    : Gated(api, kernels.gated_silu) {}

GatedGelu::GatedGelu(ort::Api* api, const ort::KernelInfo*, const Kernels& kernels)
    : Gated(api, kernels.gated_gelu) {}

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
    gate_(gate, gate + width, width, y + i * width);
  });
}

AddNorm::AddNorm(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
    : ort_(api),
      kernels_(kernels),
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
    kernels_.add_norm(x + at, skip + at, gamma, epsilon_, width, total + at, y + at);
  });
}

}  // namespace rbee
