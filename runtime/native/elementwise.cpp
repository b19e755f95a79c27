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

// What is added, row by row, and where the sums and their norms go.
struct Sum {
  const float* x;
  const float* skip;
  float* total;
  float* y;
  size_t rows;
  size_t width;
};

// Those of a step: the first two inputs, the first output and, where there is one, the fourth.
Sum open_sum(const OnnxRuntime& ort, ort::KernelContext* context, bool has_total) {
  const ort::Value* x = ort.input(context, 0);
  const ort::Value* skip = ort.input(context, 1);
  const std::vector<int64_t> dimensions = ort.dimensions(x);
  if (ort.dimensions(skip) != dimensions) throw Failure{"what is added has another shape"};
  float* y = ort.output<float>(context, 0, dimensions);
  return {ort.data<const float>(x),
          ort.data<const float>(skip),
          has_total ? ort.output<float>(context, 3, dimensions) : y,
          y,
          product(dimensions, dimensions.size() - 1),
          static_cast<size_t>(dimensions.back())};
}

}  // namespace

GatedSilu::GatedSilu(ort::Api* api, const ort::KernelInfo*, const Kernels& kernels)
    : Gated(api, kernels.gated_silu) {}

GatedGelu::GatedGelu(ort::Api* api, const ort::KernelInfo*, const Kernels& kernels)
    : Gated(api, kernels.gated_gelu) {}

GatedErfGelu::GatedErfGelu(ort::Api* api, const ort::KernelInfo*, const Kernels& kernels)
    : Gated(api, kernels.gated_erf_gelu) {}

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
  const Sum sum = open_sum(ort_, context, has_total_);
  const auto* gamma = ort_.data<const float>(ort_.input(context, 2));
  for_rows(ort_, context, sum.rows, sum.width, [&](size_t i) {
    const size_t at = i * sum.width;
    kernels_.add_norm(sum.x + at, sum.skip + at, gamma, epsilon_, sum.width, sum.total + at,
                      sum.y + at);
  });
}

AddLayerNorm::AddLayerNorm(ort::Api* api, const ort::KernelInfo* info, const Kernels& kernels)
    : ort_(api),
      kernels_(kernels),
      epsilon_(ort_.float_attribute(info, "epsilon")),
      has_total_(ort_.has_output(info, 3)) {
  if (!ort_.has_input(info, 3)) throw Failure{"no beta is given"};
  if (ort_.has_input(info, 4)) throw Failure{"a bias is given"};
}

void AddLayerNorm::compute(ort::KernelContext* context) const {
  const Sum sum = open_sum(ort_, context, has_total_);
  const auto* gamma = ort_.data<const float>(ort_.input(context, 2));
  const auto* beta = ort_.data<const float>(ort_.input(context, 3));
  for_rows(ort_, context, sum.rows, sum.width, [&](size_t i) {
    const size_t at = i * sum.width;
    kernels_.add_layer_norm(sum.x + at, sum.skip + at, gamma, beta, epsilon_, sum.width,
                            sum.total + at, sum.y + at);
  });
}

}  // namespace rbee
