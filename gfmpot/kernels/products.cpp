// Matrix products with weights that stay the same: c (M, N) = a (M, K) b (K, N) + bias (N), with b packed beforehand.
//
// For processors whose vectors MKL, which PyTorch multiplies float64 with, does not use in full width: AVX-512 on AMD.
// b comes in panels of PANEL columns, the last one filled up with zeros: packed (ceil(N / PANEL), K, PANEL).

#include <algorithm>

#include "vectors.h"

using namespace gfmpot;

namespace {

constexpr Index REGISTERS = 3;                             // of a panel's row
constexpr Index ROWS = GFMPOT_VECTOR_BYTES == 64 ? 8 : 4;  // of c at once: as many sums as registers hold
constexpr Index DEPTH = 128;                               // of b at once: a piece of panel in the first cache
constexpr Index TILE = 24 * ROWS;                          // rows of a thread at once

template <class T>
constexpr Index lanes() {
  return sizeof(Single<T>) / sizeof(T);
}
template <class T>
constexpr Index panel() {
  return REGISTERS * lanes<T>();
}

// rows x panel numbers of c, from `depth` columns of a; `sums` are what they begin with and become.
template <class T, int rows>
GFMPOT_INLINE inline void tile(const T* a, Index stride, const T* b, Index depth, Single<T> (&sums)[rows][REGISTERS]) {
  for (Index k = 0; k < depth; ++k, b += panel<T>()) {
    Single<T> row[REGISTERS];
    for (Index r = 0; r < REGISTERS; ++r) row[r] = load<Single<T>>(b + r * lanes<T>());
    for (Index i = 0; i < rows; ++i) {
      const T factor = a[i * stride + k];
      for (Index r = 0; r < REGISTERS; ++r) sums[i][r] += factor * row[r];
    }
  }
}

// One tile of c over one piece of depth; columns beyond N are dropped.
template <class T, int rows>
void piece(const T* a, Index K, const T* b, Index depth, const T* bias, T* c, Index N, Index columns, bool first) {
  Single<T> sums[rows][REGISTERS];
  T edge[panel<T>()] = {};
  const bool whole = columns == panel<T>();
  for (Index i = 0; i < rows; ++i) {
    const T* from = first ? bias : c + i * N;
    if (from && !whole) std::copy_n(from, columns, edge);
    for (Index r = 0; r < REGISTERS; ++r)
      sums[i][r] = from ? load<Single<T>>((whole ? from : edge) + r * lanes<T>()) : Single<T>{};
  }
  tile<T, rows>(a, K, b, depth, sums);
  for (Index i = 0; i < rows; ++i) {
    T* to = whole ? c + i * N : edge;
    for (Index r = 0; r < REGISTERS; ++r) store<T>(to + r * lanes<T>(), sums[i][r]);
    if (!whole) std::copy_n(edge, columns, c + i * N);
  }
}

template <class T, int rows>
void last_rows(Index left, const T* a, Index K, const T* b, Index depth, const T* bias, T* c, Index N, Index columns,
               bool first) {
  if constexpr (rows > 0) {
    if (left == rows)
      piece<T, rows>(a, K, b, depth, bias, c, N, columns, first);
    else
      last_rows<T, rows - 1>(left, a, K, b, depth, bias, c, N, columns, first);
  }
}

template <class T>
void product(Index M, Index N, Index K, const T* a, const T* packed, const T* bias, T* c, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (Index top = 0; top < M; top += TILE) {
    const Index bottom = std::min(top + TILE, M);
    for (Index k = 0; k < K; k += DEPTH)
      for (Index column = 0; column < N; column += panel<T>()) {
        const Index depth = std::min(DEPTH, K - k), columns = std::min(panel<T>(), N - column);
        const T* b = packed + column * K + k * panel<T>();
        const T* biased = bias ? bias + column : nullptr;
        Index i = top;
        for (; i + ROWS <= bottom; i += ROWS)
          piece<T, ROWS>(a + i * K + k, K, b, depth, biased, c + i * N + column, N, columns, k == 0);
        last_rows<T, ROWS - 1>(bottom - i, a + i * K + k, K, b, depth, biased, c + i * N + column, N, columns, k == 0);
      }
  }
}

}  // namespace

// Whether these products are worth packing for: nobody else uses the whole width of this processor's vectors.
extern "C" int gfmpot_products_pay() {
#if defined(__x86_64__) && GFMPOT_VECTOR_BYTES == 64
  __builtin_cpu_init();
  return !__builtin_cpu_is("intel");
#else
  return 0;
#endif
}

extern "C" Index gfmpot_panel_f64() { return panel<double>(); }

extern "C" void gfmpot_product_f64(Index M, Index N, Index K, const double* a, const double* packed, const double* bias,
                                   double* c, int threads) {
  product<double>(M, N, K, a, packed, bias, c, threads);
}
