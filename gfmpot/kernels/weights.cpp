// Training of PaiNN's messages (gfmpot/models/backbones/painn.py): gradients of their weights and of what senders say.
//
// Plain C functions on raw pointers, called through ctypes; shapes as in messages.cpp. For each sender, what its edges
// bring back is summed with the basis first (K functions, five channels), in registers: both the gradient of the
// filters and that of the sender's network are products with these sums, and no edge has filters of its own.

#include <algorithm>

#include "vectors.h"

using namespace gfmpot;

namespace {

template <class T>
struct Senders {
  Index features, functions;
  const Index *offsets, *edges, *receivers;  // edges of a sender, and on which atom each ends
  const Index* rows;                         // row of phi for each sender, or null: its own
  const T *basis, *units, *filters, *phi, *v, *gs, *gv;
  T *g_phi, *g_v;
};

// Sums over the edges of a sender of basis_k times (gs, gv . unit) for C functions from k on, at features f.
template <int C, class T>
inline void scalar_sums(const Senders<T>& m, Index j, Index k, Index f, Single<T>* along, Single<T>* across) {
  const Index F = m.features;
  for (Index t = m.offsets[j]; t < m.offsets[j + 1]; ++t) {
    const Index e = m.edges[t], i = m.receivers[e];
    const T *b = m.basis + e * m.functions + k, *unit = m.units + 3 * e, *g = m.gv + 3 * i * F + f;
    const auto s = load<Single<T>>(m.gs + i * F + f);
    const auto d = load<Single<T>>(g) * unit[0] + load<Single<T>>(g + F) * unit[1] + load<Single<T>>(g + 2 * F) * unit[2];
    for (int c = 0; c < C; ++c) along[c] += b[c] * s;
    for (int c = 0; c < C; ++c) across[c] += b[c] * d;
  }
}

// The same of basis_k times each component of gv.
template <int C, class T>
inline void vector_sums(const Senders<T>& m, Index j, Index k, Index f, Single<T> (*sums)[3]) {
  const Index F = m.features;
  for (Index t = m.offsets[j]; t < m.offsets[j + 1]; ++t) {
    const Index e = m.edges[t];
    const T *b = m.basis + e * m.functions + k, *g = m.gv + 3 * m.receivers[e] * F + f;
    const auto x = load<Single<T>>(g), y = load<Single<T>>(g + F), z = load<Single<T>>(g + 2 * F);
    for (int c = 0; c < C; ++c) {
      sums[c][0] += b[c] * x;
      sums[c][1] += b[c] * y;
      sums[c][2] += b[c] * z;
    }
  }
}

// What C functions from k on add to the gradients of a sender's phi and v, and of the filters, at features f.
template <int C, bool First, class T>
inline void add(const Senders<T>& m, Index j, Index k, Index f, Single<T>* to_sender, T* g_filters) {
  using V = Single<T>;
  constexpr Index gates = First ? 2 : 3;
  const Index F = m.features, row = gates * F;
  const T* phi = m.phi + (m.rows ? m.rows[j] : j) * row + f;
  V along[C] = {}, across[C] = {};
  scalar_sums<C>(m, j, k, f, along, across);
  const T* w = m.filters + k * row + f;
  T* g = g_filters + k * row + f;
  const V to_s = load<V>(phi), to_v = load<V>(phi + F);
  for (int c = 0; c < C; ++c, w += row, g += row) {
    to_sender[0] += load<V>(w) * along[c];
    to_sender[1] += load<V>(w + F) * across[c];
    store<T>(g, load<V>(g) + to_s * along[c]);
    store<T>(g + F, load<V>(g + F) + to_v * across[c]);
  }
  if constexpr (!First) {
    V sums[C][3] = {};
    vector_sums<C>(m, j, k, f, sums);
    const T* v = m.v + 3 * j * F + f;
    const V x = load<V>(v), y = load<V>(v + F), z = load<V>(v + 2 * F), through = load<V>(phi + 2 * F);
    w = m.filters + k * row + 2 * F + f;
    g = g_filters + k * row + 2 * F + f;
    for (int c = 0; c < C; ++c, w += row, g += row) {
      const V filter = load<V>(w);
      for (int d = 0; d < 3; ++d) to_sender[2 + d] += filter * sums[c][d];
      store<T>(g, load<V>(g) + through * (x * sums[c][0] + y * sums[c][1] + z * sums[c][2]));
    }
  }
}

// As many functions at once as fit into registers.
template <bool First, class T>
inline void add_all(const Senders<T>& m, Index j, Index f, Single<T>* to_sender, T* g_filters) {
  Index k = 0;
  for (; m.functions - k > 9; k += 8) add<8, First>(m, j, k, f, to_sender, g_filters);
  switch (m.functions - k) {
#define GFMPOT_CASE(n) \
  case n:              \
    return add<n, First>(m, j, k, f, to_sender, g_filters);
    GFMPOT_CASE(1)
    GFMPOT_CASE(2) GFMPOT_CASE(3) GFMPOT_CASE(4) GFMPOT_CASE(5) GFMPOT_CASE(6) GFMPOT_CASE(7) GFMPOT_CASE(8)
        GFMPOT_CASE(9)
#undef GFMPOT_CASE
  }
}

// Each thread has gradients of filters (K, G F) of its own, which the caller adds up.
template <bool First, class T>
void gradients(const Senders<T>& m, Index atoms, T* g_filters, int threads) {
  using V = Single<T>;
  constexpr Index gates = First ? 2 : 3, step = sizeof(V) / sizeof(T);
  const Index F = m.features, size = m.functions * gates * F;
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
  for (int thread = 0; thread < threads; ++thread) {
    Scratch<T> own(size);
    std::fill_n(own.data(), size, T(0));
    for (Index j = atoms * thread / threads; j < atoms * (thread + 1) / threads; ++j)
      for (Index f = 0; f < F; f += step) {
        V to_sender[5] = {};
        add_all<First>(m, j, f, to_sender, own.data());
        T* g = m.g_phi + j * gates * F + f;
        store<T>(g, to_sender[0]);
        store<T>(g + F, to_sender[1]);
        if constexpr (!First) {
          const T *v = m.v + 3 * j * F + f, *gv = m.gv + 3 * j * F + f;
          T* g_v = m.g_v + 3 * j * F + f;
          const V through = load<V>(m.phi + (j * gates + 2) * F + f);
          V dot = {};
          for (int d = 0; d < 3; ++d) {
            dot += load<V>(v + d * F) * to_sender[2 + d];
            store<T>(g_v + d * F, load<V>(gv + d * F) + through * to_sender[2 + d]);
          }
          store<T>(g + 2 * F, dot);
        }
      }
    std::copy_n(own.data(), size, g_filters + thread * size);
  }
}

}  // namespace

#define GFMPOT_INSTANCES(T, S)                                                                                        \
  extern "C" void gfmpot_message_weights_##S(Index atoms, Index features, Index functions, const Index* offsets,      \
                                             const Index* edges, const Index* receivers, const Index* rows,           \
                                             const T* basis, const T* units, const T* filters, const T* phi,          \
                                             const T* v, const T* gs, const T* gv, T* g_phi, T* g_v, T* g_filters,    \
                                             int threads) {                                                           \
    const Senders<T> m{features, functions, offsets, edges, receivers, rows, basis, units,                            \
                       filters,  phi,       v,       gs,    gv,        g_phi, g_v};                                   \
    if (v)                                                                                                            \
      gradients<false>(m, atoms, g_filters, threads);                                                                 \
    else                                                                                                              \
      gradients<true>(m, atoms, g_filters, threads);                                                                  \
  }

GFMPOT_INSTANCES(float, f32)
GFMPOT_INSTANCES(double, f64)
