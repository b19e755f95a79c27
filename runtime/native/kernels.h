// The kernels: what the operators leave to code that is compiled once for each variant.
#pragma once

#include "delta_tokens.h"
#include "epilogue.h"
#include "head_cache.h"
#include "packed_weights.h"
#include "quantised_rows.h"
#include "weighed_rows.h"

namespace rbee {

// Those on caches of one type.
template <typename Element>
struct CacheKernels {
  void (*put)(const float* key, const float* value, size_t size, const Angles& angles,
              Element* keys, Element* values, size_t position);
  void (*attend)(const float* queries, size_t count, const HeadCache<Element>& cache, Range range,
                 const Scoring& scoring, float* scores, Partial* partials);
  void (*attend_many)(const Query* queries, size_t count, const HeadCache<Element>& cache,
                      const Scoring& scoring, float* room);
};

// The kernels of a variant. What they do is said in multiply.h, attention.h, cache_rows.h, rows.h,
// stretch.h, convolution.h and delta_rule.h.
struct Kernels {
  bool matrix_unit;  // whether prompts run on it: bf16_product.h, bf16_attention.h
  Tiles (*tiles)(const Panels& weights, size_t rows);
  void (*quantise)(const FloatRows& x, Tile tile, const Panels& weights, const QuantisedRows& to);
  void (*multiply)(const Panels& weights, const QuantisedRows& rows, const Tiles& tiles,
                   size_t first, size_t last, const float* bias, float* y);
  void (*multiply_pairs)(const Panels& weights, const QuantisedRows& rows,
                         const Tiles& tiles, size_t first, size_t last, const float* bias,
                         const Epilogue& epilogue, float* y);
  void (*multiply_and_add)(const Panels& weights, const QuantisedRows& rows, const Tiles& tiles,
                           size_t first, size_t last, const WeighedRows& to);
  CacheKernels<float> floats;
  CacheKernels<Half> halves;
  CacheKernels<Byte> bytes;
  void (*rotate)(const float* x, size_t size, const Angles& angles, float scale, float* to);
  void (*combine)(const Partial* parts, size_t stride, size_t count, float sink, size_t size,
                  float* y);
  Gate gated_silu;
  Gate gated_gelu;
  Gate gated_erf_gelu;
  Gate gated_clamped_silu;
  Activation gelu;
  void (*norm)(const float* x, const float* gamma, float epsilon, size_t width, float* y);
  void (*add_norm)(const float* x, const float* skip, const float* gamma, float epsilon,
                   size_t width, float* total, float* y);
  void (*add_layer_norm)(const float* x, const float* skip, const float* gamma, const float* beta,
                         float epsilon, size_t width, float* total, float* y);
  float (*find_largest)(const float* values, size_t count);
  void (*weigh_stretch)(float* values, size_t count, size_t ahead, float shift, float factor,
                        float* largest, float* sum);
  size_t (*sum_from)(const float* values, size_t count, float threshold, float* sum);
  size_t (*collect)(const float* values, size_t count, float least, float below, float* to);
  void (*convolve_silu)(const float* const* rows, size_t taps, const float* filters,
                        size_t stride, size_t width, const float* bias, float* y);
  void (*convolve_gated)(const float* const* rows, size_t taps, const float* filters,
                         size_t stride, size_t width, const float* gate, float* y);
  void (*delta_rule)(const DeltaTokens& tokens, size_t key_dim, size_t value_dim, float* state,
                     float* room);
  void (*decay_rule)(const DeltaTokens& tokens, size_t key_dim, size_t value_dim, float* state,
                     float* room);
};

namespace avx2 {
extern const Kernels kKernels;
}
namespace avxvnni {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}

}  // namespace rbee
