// The library's door: what ONNX Runtime calls when the library is registered with a session.
#include "block_product.h"
#include "elementwise.h"
#include "group_query_attention.h"
#include "operator.h"

namespace rbee {
namespace {

template <typename... Kernels>
void add_domain(const OnnxRuntime& ort, ort::SessionOptions* options, const char* name) {
  ort::OperatorDomain* domain = nullptr;
  ort.call<ort::CreateDomain>(name, &domain);
  (ort.call<ort::AddOperator>(domain, &operator_of<Kernels>()), ...);
  ort.call<ort::AddDomain>(options, domain);
}

}  // namespace
}  // namespace rbee

extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(
    ort::SessionOptions* options, const ort::ApiBase* base) {
  ort::Api* api = base->get_api(ort::kVersion);
  return rbee::guarded(api, "rbee", [&] {
    const rbee::OnnxRuntime ort(api);
    // In place of kernels that ONNX Runtime brings.
    rbee::add_domain<rbee::MatMulNBits, rbee::GroupQueryAttention, rbee::AddNorm>(ort, options,
                                                                                "com.microsoft");
    // In place of functions that the model brings (rbee_export.dialect.functions).
    rbee::add_domain<rbee::OffsetBlockProduct, rbee::GatedSilu, rbee::GatedGelu>(ort, options,
                                                                                "rbee");
  });
}
