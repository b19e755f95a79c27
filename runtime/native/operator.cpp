#include "operator.h"

#include <cstdlib>
#include <memory>

namespace rbee {
namespace {

constexpr size_t kAlignment = 64;

}  // namespace

int64_t OnnxRuntime::attribute(const ort::KernelInfo* info, const char* name) const {
  int64_t value = 0;
  call<ort::GetAttributeInt>(info, name, &value);
  return value;
}

float OnnxRuntime::float_attribute(const ort::KernelInfo* info, const char* name) const {
  float value = 0;
  call<ort::GetAttributeFloat>(info, name, &value);
  return value;
}

int64_t OnnxRuntime::attribute_or(const ort::KernelInfo* info, const char* name,
                                  int64_t otherwise) const {
  int64_t value = 0;
  ort::Status* missing = ort::GetAttributeInt::in(api_)(info, name, &value);
  if (missing == nullptr) return value;
  ort::ReleaseStatus::in(api_)(missing);
  return otherwise;
}

float OnnxRuntime::attribute_or(const ort::KernelInfo* info, const char* name,
                                float otherwise) const {
  float value = 0;
  ort::Status* missing = ort::GetAttributeFloat::in(api_)(info, name, &value);
  if (missing == nullptr) return value;
  ort::ReleaseStatus::in(api_)(missing);
  return otherwise;
}

bool OnnxRuntime::has_input(const ort::KernelInfo* info, size_t index) const {
  size_t count = 0;
  call<ort::GetInputCount>(info, &count);
  if (index >= count) return false;
  size_t size = 0;  // of the name, with a zero at its end; what is left out has none
  call<ort::GetInputName>(info, index, static_cast<char*>(nullptr), &size);
  return size > 1;
}

bool OnnxRuntime::has_output(const ort::KernelInfo* info, size_t index) const {
  size_t count = 0;
  call<ort::GetOutputCount>(info, &count);
  return index < count;
}

std::vector<int64_t> OnnxRuntime::dimensions(const ort::Value* value) const {
  ort::Shape* shape = nullptr;
  call<ort::GetShape>(value, &shape);
  size_t count = 0;
  call<ort::GetDimensionsCount>(shape, &count);
  std::vector<int64_t> dimensions(count);
  call<ort::GetDimensions>(shape, dimensions.data(), count);
  ort::ReleaseShape::in(api_)(shape);
  return dimensions;
}

const ort::Value* OnnxRuntime::input(const ort::KernelContext* context, size_t index) const {
  const ort::Value* value = nullptr;
  call<ort::GetInput>(context, index, &value);
  return value;
}

const ort::Value* OnnxRuntime::constant_value(const ort::KernelInfo* info, size_t index) const {
  size_t count = 0;
  call<ort::GetInputCount>(info, &count);
  if (index >= count) return nullptr;
  int is_constant = 0;
  const ort::Value* value = nullptr;
  call<ort::GetConstantInput>(info, index, &is_constant, &value);
  return is_constant != 0 ? value : nullptr;
}

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

}  // namespace rbee
