// MatMulNBits of ONNX Runtime's own domain, in place of the kernel it brings, and the registration.
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "onnxruntime_abi.h"
#include "product.h"

namespace rbee {
namespace {

// Weights that are worth the while of another thread, in bytes times rows.
constexpr size_t kWorthAThread = 64 << 10;
constexpr size_t kMostTasks = 16;
constexpr size_t kAlignment = 64;

enum Input : size_t { kX, kIntegers, kScales, kZeroPoints, kOrder, kBias, kInputs };

struct Failure {
  std::string what;
};

class OnnxRuntime {
 public:
  explicit OnnxRuntime(ort::Api* api) : api_(api) {}

  template <typename Entry, typename... Arguments>
  void call(Arguments... arguments) const {
    if (ort::Status* status = Entry::in(api_)(arguments...)) {
      ort::ReleaseStatus::in(api_)(status);
      throw Failure{"a call into ONNX Runtime failed"};
    }
  }

  ort::Status* status(const char* what) const {
    return ort::CreateStatus::in(api_)(ort::kFail, what);
  }

  int64_t attribute(const ort::KernelInfo* info, const char* name) const {
    int64_t value = 0;
    call<ort::GetAttributeInt>(info, name, &value);
    return value;
  }

  template <typename T>
  T* data(const ort::Value* value) const {
    void* data = nullptr;
    call<ort::GetData>(const_cast<ort::Value*>(value), &data);
    return static_cast<T*>(data);
  }

  std::vector<int64_t> dimensions(const ort::Value* value) const {
    ort::Shape* shape = nullptr;
    call<ort::GetShape>(value, &shape);
    size_t count = 0;
    call<ort::GetDimensionsCount>(shape, &count);
    std::vector<int64_t> dimensions(count);
    call<ort::GetDimensions>(shape, dimensions.data(), count);
    ort::ReleaseShape::in(api_)(shape);
    return dimensions;
  }

  // The data of an input that is known when the session opens; null where it is absent.
  template <typename T>
  const T* constant(const ort::KernelInfo* info, size_t index) const {
    size_t count = 0;
    call<ort::GetInputCount>(info, &count);
    if (index >= count) return nullptr;
    int is_constant = 0;
    const ort::Value* value = nullptr;
    call<ort::GetConstantInput>(info, index, &is_constant, &value);
    return is_constant != 0 && value != nullptr ? data<const T>(value) : nullptr;
  }

 private:
  ort::Api* api_;
};

// Memory for rounded activations, kept by the thread that runs the session.
void* scratch(size_t bytes) {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local size_t size = 0;
  if (bytes > size) {
    memory.reset();
    size = 0;
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    memory.reset(std::aligned_alloc(kAlignment, rounded));
    if (memory == nullptr) throw std::bad_alloc();
    size = rounded;
  }
  return memory.get();
}

class MatMulNBits {
 public:
  MatMulNBits(ort::Api* api, const ort::KernelInfo* info)
      : ort_(api), weights_(pack(ort_, info)), bias_(ort_.constant<float>(info, kBias)) {}

  void compute(ort::KernelContext* context) const {
    const ort::Value* input = nullptr;
    ort_.call<ort::GetInput>(context, size_t{kX}, &input);
    const WeightsShape& shape = weights_.shape();
    std::vector<int64_t> dimensions = ort_.dimensions(input);
    if (dimensions.empty() || dimensions.back() != static_cast<int64_t>(shape.inputs)) {
      throw Failure{"the activations' last dimension is not K"};
    }
    size_t rows = 1;
    for (size_t i = 0; i + 1 < dimensions.size(); ++i) rows *= dimensions[i];
    dimensions.back() = static_cast<int64_t>(shape.outputs);
    ort::Value* output = nullptr;
    ort_.call<ort::GetOutput>(context, size_t{0}, dimensions.data(), dimensions.size(), &output);
    if (rows == 0) return;

    const Tiles tiles(rows);
    const size_t bytes = QuantisedRows::bytes(rows, shape.blocks(), shape.block);
    Step step{*this, ort_.data<const float>(input), ort_.data<float>(output), tiles,
              QuantisedRows::in(scratch(bytes), rows, shape.blocks(), shape.block), 1};
    in_parallel(context, &Step::quantise, step, tiles.count(), rows * shape.inputs / 4);
    in_parallel(context, &Step::multiply, step, shape.panels(),
                shape.panels() * weights_.panel_bytes() * ((rows + 3) / 4));
  }

 private:
  struct Step {
    const MatMulNBits& kernel;
    const float* x;
    float* y;
    Tiles tiles;
    QuantisedRows rows;
    size_t tasks;

    static void quantise(void* data, size_t task) {
      const Step& step = *static_cast<Step*>(data);
      const size_t count = step.tiles.count();
      for (size_t i = count * task / step.tasks; i < count * (task + 1) / step.tasks; ++i) {
        rbee::quantise(step.x, step.kernel.weights_.shape().inputs, step.tiles[i], step.rows);
      }
    }

    static void multiply(void* data, size_t task) {
      const Step& step = *static_cast<Step*>(data);
      const MatMulNBits& kernel = step.kernel;
      const size_t panels = kernel.weights_.shape().panels();
      rbee::multiply(kernel.weights_, step.rows, step.tiles, panels * task / step.tasks,
                     panels * (task + 1) / step.tasks, kernel.bias_, step.y);
    }
  };

  static PackedWeights pack(const OnnxRuntime& ort, const ort::KernelInfo* info) {
    const WeightsShape shape{static_cast<size_t>(ort.attribute(info, "N")),
                             static_cast<size_t>(ort.attribute(info, "K")),
                             static_cast<size_t>(ort.attribute(info, "bits")),
                             static_cast<size_t>(ort.attribute(info, "block_size"))};
    if (shape.bits != 4 && shape.bits != 8) throw Failure{"bits is neither 4 nor 8"};
    if (shape.block < 16 || shape.block % 16 != 0) throw Failure{"block_size is no multiple of 16"};
    if (ort.constant<uint8_t>(info, kZeroPoints) != nullptr) throw Failure{"zero points are given"};
    const auto* integers = ort.constant<uint8_t>(info, kIntegers);
    const auto* scales = ort.constant<float>(info, kScales);
    if (integers == nullptr || scales == nullptr) throw Failure{"the weights are not constant"};
    return PackedWeights(shape, integers, scales, nullptr);
  }

  // Splits `items` into tasks that are worth a thread each.
  void in_parallel(ort::KernelContext* context, void (*task)(void*, size_t), Step& step,
                   size_t items, size_t work) const {
    step.tasks = std::min<size_t>({items, kMostTasks, work / kWorthAThread + 1});
    if (step.tasks == 1) return task(&step, 0);
    ort_.call<ort::ParallelFor>(context, task, step.tasks, size_t{0}, static_cast<void*>(&step));
  }

  OnnxRuntime ort_;
  PackedWeights weights_;
  const float* bias_;
};

ort::Status* guarded(ort::Api* api, const auto& action) noexcept {
  try {
    action();
    return nullptr;
  } catch (const Failure& failure) {
    return OnnxRuntime(api).status(("MatMulNBits: " + failure.what).c_str());
  } catch (const std::bad_alloc&) {
    return OnnxRuntime(api).status("MatMulNBits: bad allocation");
  } catch (const std::exception& error) {
    return OnnxRuntime(api).status(error.what());
  }
}

struct Kernel {
  ort::Api* api;
  MatMulNBits operation;
};

const ort::Operator& matmul_nbits() {
  static const ort::Operator instance = [] {
    ort::Operator op;
    op.name = [](const ort::Operator*) { return "MatMulNBits"; };
    op.provider = [](const ort::Operator*) { return "CPUExecutionProvider"; };
    op.input_count = [](const ort::Operator*) -> size_t { return kInputs; };
    op.input_type = [](const ort::Operator*, size_t index) {
      return index == kIntegers || index == kZeroPoints ? ort::kUint8
             : index == kOrder                          ? ort::kInt32
                                                        : ort::kFloat;
    };
    op.input_presence = [](const ort::Operator*, size_t index) {
      return index < kZeroPoints ? ort::kRequired : ort::kOptional;
    };
    op.input_memory = [](const ort::Operator*, size_t) { return 0; };
    op.output_count = [](const ort::Operator*) -> size_t { return 1; };
    op.output_type = [](const ort::Operator*, size_t) { return ort::kFloat; };
    op.output_presence = [](const ort::Operator*, size_t) { return ort::kRequired; };
    op.start_version = [](const ort::Operator*) { return 1; };
    op.end_version = [](const ort::Operator*) { return 1; };
    op.create_kernel_or_fail = [](const ort::Operator*, ort::Api* api, const ort::KernelInfo* info,
                                  void** kernel) {
      return guarded(api, [&] { *kernel = new Kernel{api, MatMulNBits(api, info)}; });
    };
    op.compute_or_fail = [](void* kernel, ort::KernelContext* context) {
      const auto& k = *static_cast<Kernel*>(kernel);
      return guarded(k.api, [&] { k.operation.compute(context); });
    };
    op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    return op;
  }();
  return instance;
}

}  // namespace
}  // namespace rbee

extern "C" {

// Called by ONNX Runtime when the library is registered with a session's options.
__attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                                      const ort::ApiBase* base) {
  ort::Api* api = base->get_api(ort::kVersion);
  if (api == nullptr) return nullptr;
  return rbee::guarded(api, [&] {
    const rbee::OnnxRuntime runtime(api);
    ort::OperatorDomain* domain = nullptr;
    runtime.call<ort::CreateDomain>("com.microsoft", &domain);
    runtime.call<ort::AddOperator>(domain, &rbee::matmul_nbits());
    runtime.call<ort::AddDomain>(options, domain);
  });
}
}
