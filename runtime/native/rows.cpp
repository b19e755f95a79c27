#include "rows.h"

#include <cmath>

#include "exponential.h"
#include "gelu.h"

namespace rbee::RBEE_VARIANT {
namespace {

Floats times_sigmoid(Floats x, Floats of) {
  const Floats down = exponential(subtract(zeros(), of));
  return divide(x, add(repeat(1.0f), down));
}

Floats silu(Floats x) { return times_sigmoid(x, x); }

// x / 2 * (1 + tanh(u)) is x * sigmoid(2 * u); u = sqrt(2 / pi) * (x + 0.044715 * x**3).
Floats gelu_by_tanh(Floats x) {
  const Floats slope = multiply_add(times(x, x), repeat(2 * 0.7978845608f * 0.044715f),
                                    repeat(2 * 0.7978845608f));
  return times_sigmoid(x, times(x, slope));
}

// erf by formula 7.1.26 of Abramowitz and Stegun, to within 2e-7: 1 - erf(z) is e**(-z**2) times a
// polynomial of 1 / (1 + p * z), for z from 0 on.
Floats gelu_by_erf(Floats x) {
  const Floats size = magnitude(x);
  const Floats z = times(size, repeat(0.707106781f));
  const Floats t = divide(repeat(1.0f), multiply_add(z, repeat(0.3275911f), repeat(1.0f)));
  Floats sum = repeat(1.061405429f);
  sum = multiply_add(sum, t, repeat(-1.453152027f));
  sum = multiply_add(sum, t, repeat(1.421413741f));
  sum = multiply_add(sum, t, repeat(-0.284496736f));
  sum = times(t, multiply_add(sum, t, repeat(0.254829592f)));
  const Floats power = exponential(subtract(zeros(), times(z, z)));
  // What is missing of x where it is positive, or left of it where it is negative.
  const Floats tail = times(times(size, repeat(0.5f)), times(sum, power));
  return subtract(greater(x, zeros()), tail);
}

template <Floats (*Activation)(Floats)>
void gated(const float* gate, const float* up, size_t width, float* y) {
  over(width, [&](size_t i, auto lanes) {
    const Floats active = Activation(load(gate + i, lanes));
    store(y + i, times(active, load(up + i, lanes)), lanes);
  });
}

}  // namespace

void gated_silu(const float* gate, const float* up, size_t width, float* y) {
  gated<silu>(gate, up, width, y);
}

void gated_gelu(const float* gate, const float* up, size_t width, float* y) {
  gated<gelu_by_tanh>(gate, up, width, y);
}

void gated_erf_gelu(const float* gate, const float* up, size_t width, float* y) {
  gated<gelu_by_erf>(gate, up, width, y);
}

void gated_clamped_silu(const float* gate, const float* up, size_t width, float* y) {
  const Floats limit = repeat(7.0f);
  over(width, [&](size_t i, auto lanes) {
    const Floats own = lesser(limit, load(gate + i, lanes));
    const Floats active = times_sigmoid(own, times(own, repeat(1.702f)));
    const Floats of = lesser(limit, greater(repeat(-7.0f), load(up + i, lanes)));
    store(y + i, times(active, add(of, repeat(1.0f))), lanes);
  });
}

void gelu(const float* x, size_t width, float* y) {
  over(width, [&](size_t i, auto lanes) {
    store(y + i, gelu(load(x + i, lanes)), lanes);
  });
}

void norm(const float* x, const float* gamma, float epsilon, size_t width, float* y) {
  Floats squares = zeros();
  over(width, [&](size_t i, auto lanes) {
    const Floats own = load(x + i, lanes);
    squares = multiply_add(own, own, squares);
  });
  const float mean = sum(squares) / static_cast<float>(width);
  const Floats factor = repeat(1.0f / std::sqrt(mean + epsilon));
  over(width, [&](size_t i, auto lanes) {
    const Floats scaled = times(load(x + i, lanes), factor);
    store(y + i, times(scaled, load(gamma + i, lanes)), lanes);
  });
}

void add_norm(const float* x, const float* skip, const float* gamma, float epsilon, size_t width,
              float* total, float* y) {
  Floats squares = zeros();
  over(width, [&](size_t i, auto lanes) {
    const Floats both = add(load(x + i, lanes), load(skip + i, lanes));
    squares = multiply_add(both, both, squares);
    store(total + i, both, lanes);
  });
  const float mean = sum(squares) / static_cast<float>(width);
  const Floats factor = repeat(1.0f / std::sqrt(mean + epsilon));
  over(width, [&](size_t i, auto lanes) {
    const Floats scaled = times(load(total + i, lanes), factor);
    store(y + i, times(scaled, load(gamma + i, lanes)), lanes);
  });
}

void add_layer_norm(const float* x, const float* skip, const float* gamma, const float* beta,
                    float epsilon, size_t width, float* total, float* y) {
  Floats sums = zeros();
  over(width, [&](size_t i, auto lanes) {
    const Floats both = add(load(x + i, lanes), load(skip + i, lanes));
    sums = add(sums, both);
    store(total + i, both, lanes);
  });
  const float mean = sum(sums) / static_cast<float>(width);
  Floats squares = zeros();
  over(width, [&](size_t i, auto lanes) {
    // Lanes that are not there must not count.
    const Floats middle = select(lanes, repeat(mean), zeros());
    const Floats centred = subtract(load(total + i, lanes), middle);
    squares = multiply_add(centred, centred, squares);
  });
  const float variance = sum(squares) / static_cast<float>(width);
  const Floats factor = repeat(1.0f / std::sqrt(variance + epsilon));
  over(width, [&](size_t i, auto lanes) {
    const Floats scaled = times(subtract(load(total + i, lanes), repeat(mean)), factor);
    store(y + i, multiply_add(scaled, load(gamma + i, lanes), load(beta + i, lanes)), lanes);
  });
}

template <typename Element>
void rotate(const float* x, size_t size, const Angles& angles, float scale, Element* to) {
  const size_t half = angles.half;
  const Floats factor = repeat(scale);
  over(half, [&](size_t i, auto lanes) {
    const Floats a = load(x + i, lanes), b = load(x + half + i, lanes);
    const Floats cos = load(angles.cos + i, lanes), sin = load(angles.sin + i, lanes);
    store(to + i, times(factor, multiply_subtract(a, cos, times(b, sin))), lanes);
    store(to + half + i, times(factor, multiply_add(b, cos, times(a, sin))), lanes);
  });
  over(size - 2 * half, [&](size_t i, auto lanes) {
    store(to + 2 * half + i, times(factor, load(x + 2 * half + i, lanes)), lanes);
  });
}

template void rotate(const float*, size_t, const Angles&, float, float*);
template void rotate(const float*, size_t, const Angles&, float, Half*);

}  // namespace rbee::RBEE_VARIANT
