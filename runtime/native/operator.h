// What the operators of this library share: calls into ONNX Runtime, and an operator's callbacks.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "onnxruntime_abi.h"
#include "variants.h"

namespace rbee {

// An operator cannot be opened or computed; ONNX Runtime reports the text.
struct Failure {
  std::string what;
};

// ONNX Runtime's functions, for one operator.
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

  ort::Status* status(const std::string& what) const {
    return ort::CreateStatus::in(api_)(ort::kFail, what.c_str());
  }

  int64_t attribute(const ort::KernelInfo* info, const char* name) const;
  float float_attribute(const ort::KernelInfo* info, const char* name) const;
  int64_t attribute_or(const ort::KernelInfo* info, const char* name, int64_t otherwise) const;
  float attribute_or(const ort::KernelInfo* info, const char* name, float otherwise) const;

  template <typename T>
  T* data(const ort::Value* value) const {
    void* data = nullptr;
    call<ort::GetData>(const_cast<ort::Value*>(value), &data);
    return static_cast<T*>(data);
  }

  // Whether an input, or an output, is there at all; optional ones need not be.
  bool has_input(const ort::KernelInfo* info, size_t index) const;
  bool has_output(const ort::KernelInfo* info, size_t index) const;

  std::vector<int64_t> dimensions(const ort::Value* value) const;

  // An input of a step; null where it is absent.
  const ort::Value* input(const ort::KernelContext* context, size_t index) const;

  // The memory of an output of a step.
  template <typename T>
  T* output(ort::KernelContext* context, size_t index,
            const std::vector<int64_t>& dimensions) const {
    ort::Value* value = nullptr;
    call<ort::GetOutput>(context, index, dimensions.data(), dimensions.size(), &value);
    return data<T>(value);
  }

  // The data of an input that is known when the session opens; null where it is absent.
  template <typename T>
  const T* constant(const ort::KernelInfo* info, size_t index) const {
    const ort::Value* value = constant_value(info, index);
    return value != nullptr ? data<const T>(value) : nullptr;
  }

  // Calls `work(task)` for each of so many tasks, on the session's threads.
  template <typename Work>
  void in_parallel(const ort::KernelContext* context, size_t tasks, const Work& work) const {
    if (tasks == 1) return work(size_t{0});
    const auto call_work = [](void* data, size_t task) { (*static_cast<const Work*>(data))(task); };
    void (*function)(void*, size_t) = call_work;
    call<ort::ParallelFor>(context, function, tasks, size_t{0},
                           const_cast<void*>(static_cast<const void*>(&work)));
  }

 private:
  const ort::Value* constant_value(const ort::KernelInfo* info, size_t index) const;

  ort::Api* api_;
};

// Memory for intermediate results, kept by the thread that runs the session; aligned to 64 bytes.
void* scratch(size_t bytes);

// Runs an action, and turns what it throws into what ONNX Runtime reports.
template <typename Action>
ort::Status* guarded(ort::Api* api, const char* name, const Action& action) noexcept {
  const auto said = [&](const std::string& what) {
    return OnnxRuntime(api).status(std::string(name) + ": " + what);
  };
  try {
    action();
    return nullptr;
  } catch (const Failure& failure) {
    return said(failure.what);
  } catch (const std::bad_alloc&) {
    return said("bad allocation");
  } catch (const std::exception& error) {
    return said(error.what());
  }
}

// An operator as it is registered, for one variant of the kernels.
struct VariantOperator : ort::Operator {
  const Kernels* kernels;
};

// An operator's callbacks. A `Kernel` is made from (Api*, const KernelInfo*, const Kernels&), has a
// `compute(KernelContext*)`, and says its `kName`, its `kInputs`, an array of types with the least
// number of inputs `kRequired`, and its `kOutputs`, alike.
template <typename Kernel>
VariantOperator make_operator(const Kernels* kernels) {
  struct Opened {
    ort::Api* api;
    Kernel kernel;
  };
  using Op = const ort::Operator*;
  VariantOperator op;
  op.kernels = kernels;
  op.name = [](Op) { return Kernel::kName; };
  op.provider = [](Op) { return "CPUExecutionProvider"; };
  op.input_count = [](Op) { return std::size(Kernel::kInputs); };
  op.input_type = [](Op, size_t index) { return Kernel::kInputs[index]; };
  op.input_presence = [](Op, size_t index) {
    return index < Kernel::kRequired ? ort::kRequired : ort::kOptional;
  };
  op.input_memory = [](Op, size_t) { return 0; };
  op.output_count = [](Op) { return std::size(Kernel::kOutputs); };
  op.output_type = [](Op, size_t index) { return Kernel::kOutputs[index]; };
  op.output_presence = [](Op, size_t index) {
    return index == 0 ? ort::kRequired : ort::kOptional;
  };
  op.start_version = [](Op) { return 1; };
  op.end_version = [](Op) { return 1; };
  op.create_kernel_or_fail = [](Op self, ort::Api* api, const ort::KernelInfo* info,
                                void** kernel) {
    const Kernels& kernels = *static_cast<const VariantOperator*>(self)->kernels;
    return guarded(api, Kernel::kName,
                   [&] { *kernel = new Opened{api, Kernel(api, info, kernels)}; });
  };
  op.compute_or_fail = [](void* kernel, ort::KernelContext* context) {
    const auto& opened = *static_cast<Opened*>(kernel);
    return guarded(opened.api, Kernel::kName, [&] { opened.kernel.compute(context); });
  };
  op.destroy = [](void* kernel) { delete static_cast<Opened*>(kernel); };
  return op;
}

// The same for each session that is opened with a variant.
template <typename Kernel>
const ort::Operator& operator_of(const Variant& variant) {
  static const auto instances = [] {
    std::array<VariantOperator, std::size(kVariants)> made;
    for (size_t i = 0; i < made.size(); ++i) made[i] = make_operator<Kernel>(kVariants[i].kernels);
    return made;
  }();
  return instances[static_cast<size_t>(&variant - kVariants)];
}

}  // namespace rbee
