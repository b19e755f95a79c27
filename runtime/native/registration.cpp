// The library's doors: what ONNX Runtime calls when the library is registered with a session, and
// what the engine calls by itself.
#include <limits>

#include "block_product.h"
#include "elementwise.h"
#include "experts.h"
#include "gated_delta_net.h"
#include "group_query_attention.h"
#include "log_softmax.h"
#include "mamba2.h"
#include "operator.h"
#include "packed_attention.h"
#include "sampler.h"
#include "short_convolution.h"

namespace rbee {
namespace {

template <typename... Operators>
void add_domain(const OnnxRuntime& ort, ort::SessionOptions* options, const Variant& variant,
                const char* name) {
  ort::OperatorDomain* domain = nullptr;
  ort.call<ort::CreateDomain>(name, &domain);
  (ort.call<ort::AddOperator>(domain, &operator_of<Operators>(variant)), ...);
  ort.call<ort::AddDomain>(options, domain);
}

// Operators of ours: attention on caches of 16 bits, which nothing else has
// (rbee_export.dialect.half_cache), or of 8 in the same memory; the rest in place of functions that
// the model brings (rbee_export.dialect.functions).
template <typename Element>
void add_own(const OnnxRuntime& ort, ort::SessionOptions* options, const Variant& variant) {
  add_domain<GroupQueryAttention<Element>, OffsetBlockProduct, GatedProduct<Silu>,
             GatedProduct<Gelu>, GatedProduct<ErfGelu>, GatedOffsetProduct<Silu>,
             GatedOffsetProduct<Gelu>, GatedOffsetProduct<ErfGelu>, GeluProduct, GatedSilu,
             GatedGelu, GatedErfGelu, PackedAttention, PackedCausalAttention,
             PackedRotaryAttention, PackedRelativeAttention, GatedSiluExperts<false, false>,
             GatedSiluExperts<true, false>, GatedSiluExperts<false, true>,
             GatedSiluExperts<true, true>, ClampedSiluExperts<false, false>,
             ClampedSiluExperts<true, false>, ClampedSiluExperts<false, true>,
             ClampedSiluExperts<true, true>, GatedDeltaNet, Mamba2, ShortConvolution>(
      ort, options, variant, "rbee");
}

// Whether caches of sessions that this thread opens are of 8 bits.
thread_local bool in_bytes = false;

}  // namespace
}  // namespace rbee

#define RBEE_EXPORT extern "C" __attribute__((visibility("default")))

RBEE_EXPORT ort::Status* RegisterCustomOps(
    ort::SessionOptions* options, const ort::ApiBase* base) {
  ort::Api* api = base->get_api(ort::kVersion);
  return rbee::guarded(api, "rbee", [&] {
    const rbee::OnnxRuntime ort(api);
    const rbee::Variant& variant = rbee::chosen_variant();
    // In place of kernels that ONNX Runtime brings.
    rbee::add_domain<rbee::MatMulNBits, rbee::GroupQueryAttention<float>, rbee::AddNorm,
                     rbee::AddLayerNorm>(ort, options, variant, "com.microsoft");
    if (rbee::in_bytes) {
      rbee::add_own<rbee::Byte>(ort, options, variant);
    } else {
      rbee::add_own<rbee::Half>(ort, options, variant);
    }
  });
}

namespace {

// The kernels for calls that no session makes; null where there are none to be had.
const rbee::Kernels* kernels() {
  try {
    return rbee::chosen_variant().kernels;
  } catch (const rbee::Failure&) {
    return nullptr;
  }
}

}  // namespace

// For the thread that calls: whether sessions that it opens from now on compute prompts in float32
// throughout, which those with weights in blocks do not.
RBEE_EXPORT void rbee_choose_exactly(int on) { rbee::choose_exactly(on != 0); }

// For the thread that calls: whether caches of 16 bits, of sessions that it opens from now on, hold
// numbers of 8.
RBEE_EXPORT void rbee_choose_bytes(int on) { rbee::in_bytes = on != 0; }

// Whether the functions below have kernels here.
RBEE_EXPORT int rbee_can_draw() { return kernels() != nullptr; }

// Draws a token for each row of logits, float[rows, vocab]: what the engine calls between steps.
RBEE_EXPORT void rbee_draw(float* logits, size_t rows, size_t vocab,
                           const rbee::DrawParameters* how, int64_t* tokens) {
  const rbee::Kernels* chosen = kernels();
  for (size_t row = 0; row < rows; ++row) {
    tokens[row] =
        chosen != nullptr ? rbee::draw(*chosen, logits + row * vocab, vocab, how[row]) : -1;
  }
}

// Finds the `top` largest log probabilities in a row of logits, float[vocab], and their tokens; returns
// what they are relative to. NaN without kernels.
RBEE_EXPORT double rbee_log_softmax(const float* logits, size_t vocab, size_t top,
                                    int64_t* likeliest, double* values) {
  const rbee::Kernels* chosen = kernels();
  return chosen != nullptr ? rbee::log_softmax(*chosen, logits, vocab, top, likeliest, values)
                           : std::numeric_limits<double>::quiet_NaN();
}
