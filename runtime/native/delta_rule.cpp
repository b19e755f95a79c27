#include "delta_rule.h"

#include <type_traits>
#include <utility>

#include "simd.h"

namespace rbee::RBEE_VARIANT {
namespace {

// Sums that are added up apart, for one not to wait for another: rows i, i + 4, ... in each.
constexpr size_t kSums = 4;
// Columns of the state that are gone through together, in sixteens.
constexpr size_t kTogether = kRegisters < 32 ? 1 : 2;
static_assert(kTogether * kLanes <= kDeltaColumns);

template <size_t Count>
void add_up(Floats (&sums)[kSums][Count]) {
  for (size_t c = 0; c < Count; ++c) {
    sums[0][c] = add(add(sums[0][c], sums[1][c]), add(sums[2][c], sums[3][c]));
  }
}

template <size_t Sum>
using Into = std::integral_constant<size_t, Sum>;

// Calls `body(row, sum)` for each row, `sum` the one that it counts in: known to the compiler, for
// sums to stay in registers.
template <typename Body>
inline void over_rows(size_t rows, const Body& body) {
  size_t i = 0;
  for (; i + kSums <= rows; i += kSums) {
    [&]<size_t... Sums>(std::index_sequence<Sums...>) {
      (body(i + Sums, Into<Sums>{}), ...);
    }(std::make_index_sequence<kSums>{});
  }
  for (; i < rows; ++i) body(i, Into<0>{});
}

// Tokens from which on columns are gone through in a place of their own: where rows are apart by
// a power of two, few of a cache's lines are for them.
constexpr size_t kManyTokens = 4;

// Goes through sixteen columns of the state, times `Count`, which are the values' from `first` on,
// with `stride` numbers from row to row. What they give for a key is told from its value where they
// are corrected by it.
template <bool Corrects, size_t Count, typename Lanes>
void through(const DeltaTokens& tokens, size_t key_dim, size_t first, Lanes lanes, float* columns,
             size_t stride) {
  for (size_t t = 0; t < tokens.count; ++t) {
    const float* q = tokens.queries + t * key_dim;
    const float* k = tokens.keys + t * key_dim;
    const float* v = tokens.values + t * tokens.value_stride + first;
    const Floats kept = repeat(tokens.kept[t]), written = repeat(tokens.written[t]);
    Floats sums[kSums][Count], news[Count];
    const auto clear = [&] {
      for (auto& sum : sums) {
        for (Floats& column : sum) column = zeros();
      }
    };
    for (size_t c = 0; c < Count; ++c) news[c] = load(v + c * kLanes, lanes);
    if constexpr (Corrects) {
      clear();
      over_rows(key_dim, [&](size_t i, auto s) {
        const Floats key = repeat(k[i]);
        for (size_t c = 0; c < Count; ++c) {
          const Floats own = load(columns + i * stride + c * kLanes, lanes);
          sums[s][c] = multiply_add(key, own, sums[s][c]);
        }
      });
      add_up(sums);
      for (size_t c = 0; c < Count; ++c) news[c] = subtract_product(kept, sums[0][c], news[c]);
    }
    for (size_t c = 0; c < Count; ++c) news[c] = times(written, news[c]);
    clear();
    over_rows(key_dim, [&](size_t i, auto s) {
      const Floats key = repeat(k[i]), query = repeat(q[i]);
      for (size_t c = 0; c < Count; ++c) {
        float* own = columns + i * stride + c * kLanes;
        const Floats next = multiply_add(key, news[c], times(kept, load(own, lanes)));
        store(own, next, lanes);
        sums[s][c] = multiply_add(query, next, sums[s][c]);
      }
    });
    add_up(sums);
    float* read = tokens.read + t * tokens.read_stride + first;
    for (size_t c = 0; c < Count; ++c) store(read + c * kLanes, sums[0][c], lanes);
  }
}

// The same, of a state of `value_dim` columns.
template <bool Corrects, size_t Count, typename Lanes>
void through_columns(const DeltaTokens& tokens, size_t key_dim, size_t value_dim, size_t first,
                     Lanes lanes, float* state, float* room) {
  constexpr size_t kWidth = Count * kLanes;
  float* const columns = state + first;
  if (tokens.count < kManyTokens) {
    return through<Corrects, Count>(tokens, key_dim, first, lanes, columns, value_dim);
  }
  const auto copy = [&](const float* from, size_t from_stride, float* to, size_t to_stride) {
    for (size_t i = 0; i < key_dim; ++i) {
      for (size_t c = 0; c < kWidth; c += kLanes) {
        store(to + i * to_stride + c, load(from + i * from_stride + c, lanes), lanes);
      }
    }
  };
  copy(columns, value_dim, room, kWidth);
  through<Corrects, Count>(tokens, key_dim, first, lanes, room, kWidth);
  copy(room, kWidth, columns, value_dim);
}

template <bool Corrects>
void through_state(const DeltaTokens& tokens, size_t key_dim, size_t value_dim, float* state,
                   float* room) {
  size_t first = 0;
  for (; first + kTogether * kLanes <= value_dim; first += kTogether * kLanes) {
    through_columns<Corrects, kTogether>(tokens, key_dim, value_dim, first, All{}, state, room);
  }
  for (; first + kLanes <= value_dim; first += kLanes) {
    through_columns<Corrects, 1>(tokens, key_dim, value_dim, first, All{}, state, room);
  }
  if (first < value_dim) {
    const First lanes(value_dim - first);
    through_columns<Corrects, 1>(tokens, key_dim, value_dim, first, lanes, state, room);
  }
}

}  // namespace

void delta_rule(const DeltaTokens& tokens, size_t key_dim, size_t value_dim, float* state,
                float* room) {
  through_state<true>(tokens, key_dim, value_dim, state, room);
}

void decay_rule(const DeltaTokens& tokens, size_t key_dim, size_t value_dim, float* state,
                float* room) {
  through_state<false>(tokens, key_dim, value_dim, state, room);
}

}  // namespace rbee::RBEE_VARIANT
