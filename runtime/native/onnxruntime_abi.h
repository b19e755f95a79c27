// The part of ONNX Runtime's C interface that an operator needs, declared by position.
//
// The library publishes one table of functions. The table only grows at its end, so a position,
// once taken, means the same function in every later version; the positions below are those of
// version 17, the first that lets an operator share the session's threads. Declaring them here
// spares a build from ONNX Runtime's headers, which its Python package does not bring.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

constexpr uint32_t kVersion = 17;

struct Status;
struct Value;
struct KernelInfo;
struct KernelContext;
struct Shape;
struct SessionOptions;
struct OperatorDomain;
struct ShapeInference;

using Api = void* const;  // one entry of the table

struct ApiBase {
  Api* (*get_api)(uint32_t version);
  const char* (*version)();
};

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int { kFloat = 1, kUint8 = 2, kInt32 = 6, kInt64 = 7, kFloat16 = 10 };
enum Presence : int { kRequired = 0, kOptional = 1 };

template <size_t Position, typename Function>
struct Entry {
  static Function* in(Api* api) { return reinterpret_cast<Function*>(api[Position]); }
};

using CreateStatus = Entry<0, Status*(ErrorCode, const char*)>;
using CreateDomain = Entry<26, Status*(const char*, OperatorDomain**)>;
using AddOperator = Entry<27, Status*(OperatorDomain*, const struct Operator*)>;
using AddDomain = Entry<28, Status*(SessionOptions*, OperatorDomain*)>;
using GetData = Entry<51, Status*(Value*, void**)>;
using GetDimensionsCount = Entry<61, Status*(const Shape*, size_t*)>;
using GetDimensions = Entry<62, Status*(const Shape*, int64_t*, size_t)>;
using GetShape = Entry<65, Status*(const Value*, Shape**)>;
using GetAttributeFloat = Entry<85, Status*(const KernelInfo*, const char*, float*)>;
using GetAttributeInt = Entry<86, Status*(const KernelInfo*, const char*, int64_t*)>;
using GetInput = Entry<90, Status*(const KernelContext*, size_t, const Value**)>;
using GetOutput = Entry<91, Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)>;
using ReleaseStatus = Entry<93, void(Status*)>;
using ReleaseShape = Entry<99, void(Shape*)>;
using GetInputCount = Entry<230, Status*(const KernelInfo*, size_t*)>;
using GetOutputCount = Entry<231, Status*(const KernelInfo*, size_t*)>;
using GetInputName = Entry<232, Status*(const KernelInfo*, size_t, char*, size_t*)>;
using GetConstantInput = Entry<249, Status*(const KernelInfo*, size_t, int*, const Value**)>;
using ParallelFor =
    Entry<274, Status*(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>;

// What ONNX Runtime asks of an operator, in the order of its own struct; null where it need not.
struct Operator {
  uint32_t version = kVersion;
  void* (*create_kernel)(const Operator*, Api*, const KernelInfo*) = nullptr;
  const char* (*name)(const Operator*) = nullptr;
  const char* (*provider)(const Operator*) = nullptr;
  ElementType (*input_type)(const Operator*, size_t) = nullptr;
  size_t (*input_count)(const Operator*) = nullptr;
  ElementType (*output_type)(const Operator*, size_t) = nullptr;
  size_t (*output_count)(const Operator*) = nullptr;
  void (*compute)(void*, KernelContext*) = nullptr;
  void (*destroy)(void*) = nullptr;
  Presence (*input_presence)(const Operator*, size_t) = nullptr;
  Presence (*output_presence)(const Operator*, size_t) = nullptr;
  int (*input_memory)(const Operator*, size_t) = nullptr;
  int (*variadic_input_minimum)(const Operator*) = nullptr;
  int (*variadic_input_same_type)(const Operator*) = nullptr;
  int (*variadic_output_minimum)(const Operator*) = nullptr;
  int (*variadic_output_same_type)(const Operator*) = nullptr;
  Status* (*create_kernel_or_fail)(const Operator*, Api*, const KernelInfo*, void**) = nullptr;
  Status* (*compute_or_fail)(void*, KernelContext*) = nullptr;
  Status* (*infer_shape)(const Operator*, ShapeInference*) = nullptr;
  int (*start_version)(const Operator*) = nullptr;
  int (*end_version)(const Operator*) = nullptr;
};

}  // namespace ort
