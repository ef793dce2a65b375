// What lies between the matrix products of a PaiNN update (gfmpot/models/backbones/painn.py), and its first
// derivatives.
//
// Plain C functions on raw pointers, called through ctypes. N atoms, F features; uw (N, 3, 2 F) holds U v and W v.

#include <cmath>

#include "vectors.h"

using namespace gfmpot;

namespace {

template <class T>
GFMPOT_INLINE inline Single<T> root(Single<T> v) {
  for (std::size_t i = 0; i < sizeof(v) / sizeof(T); ++i) v[i] = std::sqrt(v[i]);
  return v;
}
template <class T>
inline Wide<T> root(const Wide<T>& v) {
  return {root<T>(v.a), root<T>(v.b)};
}

template <class T>
void products(Index atoms, Index F, T softness, const T* uw, const T* s, T* mixed, T* dot, int threads) {
  const T square = softness * softness;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (Index i = 0; i < atoms; ++i) {
    over_features<T>(F, [&](auto zero, Index f) GFMPOT_INLINE {
      using V = decltype(zero);
      V norm = zero + square, product = zero;
      for (Index c = 0; c < 3; ++c) {
        const T* row = uw + (3 * i + c) * 2 * F + f;
        const V u = load<V>(row), w = load<V>(row + F);
        norm += w * w;
        product += u * w;
      }
      store<T>(mixed + 2 * i * F + f, load<V>(s + i * F + f));
      store<T>(mixed + (2 * i + 1) * F + f, root<T>(norm));
      store<T>(dot + i * F + f, product);
    });
  }
}

// s += a_ss + a_sv dot, and v += a_vv u where there is a third gate; both in place.
template <class T, bool Last>
void apply(Index atoms, Index F, const T* gates, const T* dot, const T* uw, T* s, T* v, int threads) {
  constexpr Index n = Last ? 2 : 3;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (Index i = 0; i < atoms; ++i) {
    over_features<T>(F, [&](auto zero, Index f) GFMPOT_INLINE {
      using V = decltype(zero);
      const T* a = gates + n * i * F + f;
      T* out = s + i * F + f;
      store<T>(out, load<V>(out) + load<V>(a) + load<V>(a + F) * load<V>(dot + i * F + f));
      if constexpr (!Last) {
        const V through = load<V>(a + 2 * F);
        for (Index c = 0; c < 3; ++c) {
          T* at = v + (3 * i + c) * F + f;
          store<T>(at, load<V>(at) + through * load<V>(uw + (3 * i + c) * 2 * F + f));
        }
      }
    });
  }
}

template <class T, bool Last>
void apply_backward(Index atoms, Index F, const T* gs, const T* gv, const T* dot, const T* uw, T* g_gates,
                    int threads) {
  constexpr Index n = Last ? 2 : 3;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (Index i = 0; i < atoms; ++i) {
    over_features<T>(F, [&](auto zero, Index f) GFMPOT_INLINE {
      using V = decltype(zero);
      T* a = g_gates + n * i * F + f;
      const V g = load<V>(gs + i * F + f);
      store<T>(a, g);
      store<T>(a + F, g * load<V>(dot + i * F + f));
      if constexpr (!Last) {
        V through = zero;
        for (Index c = 0; c < 3; ++c) {
          const Index row = 3 * i + c;
          through += load<V>(gv + row * F + f) * load<V>(uw + row * 2 * F + f);
        }
        store<T>(a + 2 * F, through);
      }
    });
  }
}

// g_mixed (N, 2 F) holds gradients of s and of the norm; gs becomes that of the s that came in, g_uw that of U v and W
// v.
template <class T, bool Last>
void products_backward(Index atoms, Index F, const T* g_mixed, const T* gv, const T* gates, const T* mixed, const T* uw,
                       T* gs, T* g_uw, int threads) {
  constexpr Index n = Last ? 2 : 3;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (Index i = 0; i < atoms; ++i) {
    over_features<T>(F, [&](auto zero, Index f) GFMPOT_INLINE {
      using V = decltype(zero);
      const T* a = gates + n * i * F + f;
      T* g = gs + i * F + f;
      const V to_dot = load<V>(g) * load<V>(a + F);
      const V to_norm = load<V>(g_mixed + (2 * i + 1) * F + f) / load<V>(mixed + (2 * i + 1) * F + f);
      store<T>(g, load<V>(g) + load<V>(g_mixed + 2 * i * F + f));
      for (Index c = 0; c < 3; ++c) {
        const Index row = 3 * i + c;
        const T* in = uw + row * 2 * F + f;
        T* out = g_uw + row * 2 * F + f;
        const V u = load<V>(in), w = load<V>(in + F);
        V to_u = to_dot * w;
        if constexpr (!Last) to_u += load<V>(gv + row * F + f) * load<V>(a + 2 * F);
        store<T>(out, to_u);
        store<T>(out + F, to_norm * w + to_dot * u);
      }
    });
  }
}

}  // namespace

#define GFMPOT_INSTANCES(T, S)                                                                                      \
  extern "C" void gfmpot_update_products_##S(Index atoms, Index features, double softness, const T* uw, const T* s, \
                                             T* mixed, T* dot, int threads) {                                       \
    products<T>(atoms, features, T(softness), uw, s, mixed, dot, threads);                                          \
  }                                                                                                                 \
  extern "C" void gfmpot_update_apply_##S(Index atoms, Index features, const T* gates, const T* dot, const T* uw,   \
                                          T* s, T* v, int threads) {                                                \
    if (v)                                                                                                          \
      apply<T, false>(atoms, features, gates, dot, uw, s, v, threads);                                              \
    else                                                                                                            \
      apply<T, true>(atoms, features, gates, dot, uw, s, v, threads);                                               \
  }                                                                                                                 \
  extern "C" void gfmpot_update_apply_backward_##S(Index atoms, Index features, const T* gs, const T* gv,           \
                                                   const T* dot, const T* uw, T* g_gates, int threads) {            \
    if (gv)                                                                                                         \
      apply_backward<T, false>(atoms, features, gs, gv, dot, uw, g_gates, threads);                                 \
    else                                                                                                            \
      apply_backward<T, true>(atoms, features, gs, gv, dot, uw, g_gates, threads);                                  \
  }                                                                                                                 \
  extern "C" void gfmpot_update_products_backward_##S(Index atoms, Index features, const T* g_mixed, const T* gv,   \
                                                      const T* gates, const T* mixed, const T* uw, T* gs, T* g_uw,  \
                                                      int threads) {                                                \
    if (gv)                                                                                                         \
      products_backward<T, false>(atoms, features, g_mixed, gv, gates, mixed, uw, gs, g_uw, threads);               \
    else                                                                                                            \
      products_backward<T, true>(atoms, features, g_mixed, gv, gates, mixed, uw, gs, g_uw, threads);                \
  }

GFMPOT_INSTANCES(float, f32)
GFMPOT_INSTANCES(double, f64)
