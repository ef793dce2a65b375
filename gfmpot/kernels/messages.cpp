// Messages of PaiNN for inference: the arithmetic of gfmpot/models/backbones/painn.py, without a tensor per
// edge and feature, and its first derivatives.
//
// Plain C functions on raw pointers, called through ctypes: no PyTorch, no Python. Rows are contiguous. Every output
// element is computed by one thread in a fixed order, so that results do not depend on the number of threads.
//
//   N atoms, E edges, F features, K functions of an edge, G = 2 (first message: no vectors to pass on) or 3 gates
//   basis (E, K)   functions of the edge's length          units (E, 3)   direction from sender to receiver
//   filters (K, G F), phi (rows, G F) senders' networks    v (N, 3, F)    vector features
//
//   w_g = sum_k basis_k filters_kg,   out_s = sum_e w_0 phi_0,   out_v = sum_e (w_1 phi_1) unit + (w_2 phi_2) v_sender

#include <algorithm>

#include "vectors.h"

using namespace gfmpot;

namespace {

// Features are done in blocks, so that filters stay in the first-level cache and rows of neighbours in the second.
template <class T>
constexpr Index block() {
  return 1024 / sizeof(T);
}

template <class T>
struct Message {
  Index features, functions;
  const Index *offsets, *ends;  // edges of an atom; for each edge, the row of phi (forward) or the receiver (backward)
  const T *basis, *units, *filters, *phi, *v;
};

// The filters of one edge: w (G F) = sum_k basis_k filters_k; gates side by side, as independent chains of arithmetic.
template <class T, bool First>
inline void filter(Index F, Index n, Index K, const T* basis, const T* filters, T* w) {
  constexpr Index gates = First ? 2 : 3;
  over_features<T>(n, [=](auto zero, Index f) GFMPOT_INLINE {
    using V = decltype(zero);
    V to_s = zero, to_v = zero, through = zero;
    const T* column = filters + f;
    for (Index k = 0; k < K; ++k, column += gates * F) {
      to_s += basis[k] * load<V>(column);
      to_v += basis[k] * load<V>(column + F);
      if constexpr (!First) through += basis[k] * load<V>(column + 2 * F);
    }
    store<T>(w + f, to_s);
    store<T>(w + F + f, to_v);
    if constexpr (!First) store<T>(w + 2 * F + f, through);
  });
}

// What a receiver gets along one edge: out_s (F) and out_v (3 F) grow by it.
template <class T, bool First>
inline void receive(Index F, Index n, const T* w, const T* phi, const T* v, const T* unit, T* out_s, T* out_v) {
  const T ux = unit[0], uy = unit[1], uz = unit[2];
  over_features<T>(n, [=](auto zero, Index f) GFMPOT_INLINE {
    using V = decltype(zero);
    const V to_v = load<V>(w + F + f) * load<V>(phi + F + f);
    V x = load<V>(out_v + f) + to_v * ux, y = load<V>(out_v + F + f) + to_v * uy;
    V z = load<V>(out_v + 2 * F + f) + to_v * uz;
    if constexpr (!First) {
      const V through = load<V>(w + 2 * F + f) * load<V>(phi + 2 * F + f);
      x += through * load<V>(v + f);
      y += through * load<V>(v + F + f);
      z += through * load<V>(v + 2 * F + f);
    }
    store<T>(out_s + f, load<V>(out_s + f) + load<V>(w + f) * load<V>(phi + f));
    store<T>(out_v + f, x);
    store<T>(out_v + F + f, y);
    store<T>(out_v + 2 * F + f, z);
  });
}

// Sums begin with what the receiver had.
template <class T, bool First>
void forward(const Message<T>& m, Index atoms, const T* s_in, T* s_out, T* v_out, int threads) {
  const Index F = m.features, K = m.functions, row = (First ? 2 : 3) * F;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Scratch<T> w(row);
    for (Index f = 0; f < F; f += block<T>()) {
      const Index n = std::min(block<T>(), F - f);
#pragma omp for schedule(static)
      for (Index i = 0; i < atoms; ++i) {
        T *s = s_out + i * F + f, *v = v_out + 3 * i * F + f;
        std::copy_n(s_in + i * F + f, n, s);
        for (Index c = 0; c < 3; ++c)
          if constexpr (First)
            std::fill_n(v + c * F, n, T(0));
          else
            std::copy_n(m.v + (3 * i + c) * F + f, n, v + c * F);
        for (Index e = m.offsets[i]; e < m.offsets[i + 1]; ++e) {
          const Index j = m.ends[e];
          filter<T, First>(F, n, K, m.basis + e * K, m.filters + f, w.data());
          receive<T, First>(F, n, w.data(), m.phi + j * row + f, First ? nullptr : m.v + 3 * j * F + f, m.units + 3 * e,
                            s, v);
        }
      }
    }
  }
}

// grads_k += sum over gates and the n features of a block of filters_k products, for a few functions k at once.
template <int functions, class T>
inline void project(Index F, Index n, Index gates, const T* filters, const T* products, T* grads) {
  Single<T> sums[functions] = {};
  constexpr Index step = sizeof(Single<T>) / sizeof(T);
  for (Index gate = 0; gate < gates; ++gate) {
    const T *p = products + gate * F, *w = filters + gate * F;
    for (Index f = 0; f < n; f += step) {
      const auto product = load<Single<T>>(p + f);
      for (int k = 0; k < functions; ++k) sums[k] += product * load<Single<T>>(w + k * gates * F + f);
    }
  }
  for (int k = 0; k < functions; ++k) grads[k] += total<T>(sums[k]);
}

// As many functions at once as fit into registers: fewer chains of arithmetic would wait for each other.
template <class T>
inline void project_all(Index F, Index n, Index gates, Index K, const T* filters, const T* products, T* grads) {
  for (; K > 12; K -= 8, filters += 8 * gates * F, grads += 8) project<8>(F, n, gates, filters, products, grads);
  switch (K) {
#define GFMPOT_CASE(k) \
  case k:              \
    return project<k>(F, n, gates, filters, products, grads);
    GFMPOT_CASE(1)
    GFMPOT_CASE(2) GFMPOT_CASE(3) GFMPOT_CASE(4) GFMPOT_CASE(5) GFMPOT_CASE(6) GFMPOT_CASE(7) GFMPOT_CASE(8)
        GFMPOT_CASE(9) GFMPOT_CASE(10) GFMPOT_CASE(11) GFMPOT_CASE(12)
#undef GFMPOT_CASE
  }
}

// What one edge gives to the gradients of its length (products, still to be projected) and of its direction.
template <class T, bool First>
inline void edge_products(Index F, Index n, const T* w, const T* phi, const T* v, const T* gs, const T* gv,
                          const T* unit, T* products, T* g_unit) {
  const T ux = unit[0], uy = unit[1], uz = unit[2];
  Sum3<T> sums;
  over_features<T>(n, [=, &sums](auto zero, Index f) GFMPOT_INLINE {
    using V = decltype(zero);
    const V x = load<V>(gv + f), y = load<V>(gv + F + f), z = load<V>(gv + 2 * F + f), say = load<V>(phi + F + f);
    store<T>(products + f, load<V>(phi + f) * load<V>(gs + f));
    store<T>(products + F + f, say * (x * ux + y * uy + z * uz));
    if constexpr (!First)
      store<T>(products + 2 * F + f,
               load<V>(phi + 2 * F + f) * (load<V>(v + f) * x + load<V>(v + F + f) * y + load<V>(v + 2 * F + f) * z));
    const V to_v = load<V>(w + f) * say;
    V* unit_sums = sums.template parts<V>();
    unit_sums[0] += to_v * x;
    unit_sums[1] += to_v * y;
    unit_sums[2] += to_v * z;
  });
  sums.add_to(g_unit);
}

// First message: only edges get gradients, since what senders say depends on their kind alone. By receiver.
template <class T>
void backward_first(const Message<T>& m, Index atoms, const T* gs, const T* gv, T* g_basis, T* g_units, int threads) {
  const Index F = m.features, K = m.functions, row = 2 * F;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Scratch<T> products(row), w(row);
    for (Index f = 0; f < F; f += block<T>()) {
      const Index n = std::min(block<T>(), F - f);
#pragma omp for schedule(static)
      for (Index i = 0; i < atoms; ++i)
        for (Index e = m.offsets[i]; e < m.offsets[i + 1]; ++e) {
          filter<T, true>(F, n, K, m.basis + e * K, m.filters + f, w.data());
          edge_products<T, true>(F, n, w.data() + F, m.phi + m.ends[e] * row + f, nullptr, gs + i * F + f,
                                 gv + 3 * i * F + f, m.units + 3 * e, products.data(), g_units + 3 * e);
          project_all(F, n, 2, K, m.filters + f, products.data(), g_basis + e * K);
        }
    }
  }
}

// What one edge gives to its sender: sums (5 F) of w_0 gs, w_1 (unit gv), w_2 gv.
template <class T>
inline void to_sender(Index F, Index n, const T* w, const T* gs, const T* gv, const T* unit, T* sums) {
  const T ux = unit[0], uy = unit[1], uz = unit[2];
  over_features<T>(n, [=](auto zero, Index f) GFMPOT_INLINE {
    using V = decltype(zero);
    const V x = load<V>(gv + f), y = load<V>(gv + F + f), z = load<V>(gv + 2 * F + f), through = load<V>(w + 2 * F + f);
    T* sum = sums + f;
    store<T>(sum, load<V>(sum) + load<V>(w + f) * load<V>(gs + f));
    store<T>(sum + F, load<V>(sum + F) + load<V>(w + F + f) * (x * ux + y * uy + z * uz));
    store<T>(sum + 2 * F, load<V>(sum + 2 * F) + through * x);
    store<T>(sum + 3 * F, load<V>(sum + 3 * F) + through * y);
    store<T>(sum + 4 * F, load<V>(sum + 4 * F) + through * z);
  });
}

// From these sums to the gradients of phi (3 F) and, after what went past the message, of v (3 F).
template <class T>
inline void sender_gradients(Index F, Index n, const T* sums, const T* phi, const T* v, const T* gv, T* g_phi, T* g_v) {
  over_features<T>(n, [=](auto zero, Index f) GFMPOT_INLINE {
    using V = decltype(zero);
    const V x = load<V>(sums + 2 * F + f), y = load<V>(sums + 3 * F + f), z = load<V>(sums + 4 * F + f);
    const V p = load<V>(phi + 2 * F + f);
    store<T>(g_phi + f, load<V>(sums + f));
    store<T>(g_phi + F + f, load<V>(sums + F + f));
    store<T>(g_phi + 2 * F + f, load<V>(v + f) * x + load<V>(v + F + f) * y + load<V>(v + 2 * F + f) * z);
    store<T>(g_v + f, load<V>(gv + f) + p * x);
    store<T>(g_v + F + f, load<V>(gv + F + f) + p * y);
    store<T>(g_v + 2 * F + f, load<V>(gv + 2 * F + f) + p * z);
  });
}

// Later messages: edges and senders. By sender: offsets are those of the transposed list, whose entries are edges.
template <class T>
void backward(const Message<T>& m, Index atoms, const Index* edges, const T* gs, const T* gv, T* g_basis, T* g_units,
              T* g_phi, T* g_v, int threads) {
  const Index F = m.features, K = m.functions, row = 3 * F;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Scratch<T> products(row), w(row), sums(5 * F);
    for (Index f = 0; f < F; f += block<T>()) {
      const Index n = std::min(block<T>(), F - f);
#pragma omp for schedule(static)
      for (Index j = 0; j < atoms; ++j) {
        const T *phi = m.phi + j * row + f, *v = m.v + 3 * j * F + f;
        std::fill_n(sums.data(), 5 * F, T(0));
        for (Index t = m.offsets[j]; t < m.offsets[j + 1]; ++t) {
          const Index e = edges[t], i = m.ends[e];
          const T *s = gs + i * F + f, *g = gv + 3 * i * F + f, *unit = m.units + 3 * e;
          filter<T, false>(F, n, K, m.basis + e * K, m.filters + f, w.data());
          to_sender(F, n, w.data(), s, g, unit, sums.data());
          edge_products<T, false>(F, n, w.data() + F, phi, v, s, g, unit, products.data(), g_units + 3 * e);
          project_all(F, n, 3, K, m.filters + f, products.data(), g_basis + e * K);
        }
        sender_gradients(F, n, sums.data(), phi, v, gv + 3 * j * F + f, g_phi + j * row + f, g_v + 3 * j * F + f);
      }
    }
  }
}

// Sums over neighbours, by kind of sender, of the basis (N, U K), and of the basis along each axis (N, 3, U K), for U
// kinds. What senders of one kind say in the first message is the same: products with these sums are all of it.
template <class T>
void kind_sums(Index atoms, Index K, Index kinds, const Index* offsets, const Index* rows, const T* basis,
               const T* units, T* scalars, T* vectors, int threads) {
  const Index width = kinds * K;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (Index i = 0; i < atoms; ++i) {
    std::fill_n(scalars + i * width, width, T(0));
    std::fill_n(vectors + 3 * i * width, 3 * width, T(0));
    for (Index e = offsets[i]; e < offsets[i + 1]; ++e) {
      const T *b = basis + e * K, x = units[3 * e], y = units[3 * e + 1], z = units[3 * e + 2];
      T *s = scalars + i * width + rows[e] * K, *v = vectors + 3 * i * width + rows[e] * K;
      for (Index k = 0; k < K; ++k) {
        s[k] += b[k];
        v[k] += b[k] * x;
        v[width + k] += b[k] * y;
        v[2 * width + k] += b[k] * z;
      }
    }
  }
}

template <class T>
void kind_sums_backward(Index atoms, Index K, Index kinds, const Index* offsets, const Index* rows, const T* basis,
                        const T* units, const T* g_scalar, const T* g_vector, T* g_basis, T* g_units, int threads) {
  const Index width = kinds * K;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (Index i = 0; i < atoms; ++i) {
    for (Index e = offsets[i]; e < offsets[i + 1]; ++e) {
      const T *s = g_scalar + i * width + rows[e] * K, *v = g_vector + 3 * i * width + rows[e] * K, *b = basis + e * K;
      const T x = units[3 * e], y = units[3 * e + 1], z = units[3 * e + 2];
      T to_x = 0, to_y = 0, to_z = 0;
      for (Index k = 0; k < K; ++k) {
        g_basis[e * K + k] += s[k] + x * v[k] + y * v[width + k] + z * v[2 * width + k];
        to_x += b[k] * v[k];
        to_y += b[k] * v[width + k];
        to_z += b[k] * v[2 * width + k];
      }
      g_units[3 * e] += to_x;
      g_units[3 * e + 1] += to_y;
      g_units[3 * e + 2] += to_z;
    }
  }
}

}  // namespace

#define GFMPOT_INSTANCES(T, S)                                                                                         \
  extern "C" void gfmpot_message_##S(Index atoms, Index features, Index functions, const Index* offsets,               \
                                     const Index* rows, const T* basis, const T* units, const T* filters,              \
                                     const T* phi, const T* v, const T* s_in, T* s_out, T* v_out, int threads) {       \
    const Message<T> m{features, functions, offsets, rows, basis, units, filters, phi, v};                             \
    if (v)                                                                                                             \
      forward<T, false>(m, atoms, s_in, s_out, v_out, threads);                                                        \
    else                                                                                                               \
      forward<T, true>(m, atoms, s_in, s_out, v_out, threads);                                                         \
  }                                                                                                                    \
  extern "C" void gfmpot_first_message_backward_##S(                                                                   \
      Index atoms, Index features, Index functions, const Index* offsets, const Index* rows, const T* basis,           \
      const T* units, const T* filters, const T* phi, const T* gs, const T* gv, T* g_basis, T* g_units, int threads) { \
    const Message<T> m{features, functions, offsets, rows, basis, units, filters, phi, nullptr};                       \
    backward_first<T>(m, atoms, gs, gv, g_basis, g_units, threads);                                                    \
  }                                                                                                                    \
  extern "C" void gfmpot_kind_sums_##S(Index atoms, Index functions, Index kinds, const Index* offsets,                \
                                       const Index* rows, const T* basis, const T* units, T* scalars, T* vectors,      \
                                       int threads) {                                                                  \
    kind_sums<T>(atoms, functions, kinds, offsets, rows, basis, units, scalars, vectors, threads);                     \
  }                                                                                                                    \
  extern "C" void gfmpot_kind_sums_backward_##S(Index atoms, Index functions, Index kinds, const Index* offsets,       \
                                                const Index* rows, const T* basis, const T* units, const T* g_scalar,  \
                                                const T* g_vector, T* g_basis, T* g_units, int threads) {              \
    kind_sums_backward<T>(atoms, functions, kinds, offsets, rows, basis, units, g_scalar, g_vector, g_basis, g_units,  \
                          threads);                                                                                    \
  }                                                                                                                    \
  extern "C" void gfmpot_message_backward_##S(Index atoms, Index features, Index functions, const Index* offsets,      \
                                              const Index* edges, const Index* receivers, const T* basis,              \
                                              const T* units, const T* filters, const T* phi, const T* v, const T* gs, \
                                              const T* gv, T* g_basis, T* g_units, T* g_phi, T* g_v, int threads) {    \
    const Message<T> m{features, functions, offsets, receivers, basis, units, filters, phi, v};                        \
    backward<T>(m, atoms, edges, gs, gv, g_basis, g_units, g_phi, g_v, threads);                                       \
  }

GFMPOT_INSTANCES(float, f32)
GFMPOT_INSTANCES(double, f64)
