// Edges: who receives and who sends what, and the radial basis of gfmpot/models/radial_choices.py with its slope.
//
// Plain C functions on raw pointers, called through ctypes. Geometry is double always.

#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

using namespace gfmpot;

namespace {

// 1 / (n (n + 1)) and 1 / (n (n - 1)), for n = 22, 20, ... 2
constexpr double INVERSE[22] = {1.0 / 506, 1.0 / 462, 1.0 / 420, 1.0 / 380, 1.0 / 342, 1.0 / 306, 1.0 / 272, 1.0 / 240,
                                1.0 / 210, 1.0 / 182, 1.0 / 156, 1.0 / 132, 1.0 / 110, 1.0 / 90,  1.0 / 72,  1.0 / 56,
                                1.0 / 42,  1.0 / 30,  1.0 / 20,  1.0 / 12,  1.0 / 6,   1.0 / 2};

// Sine and cosine of an angle between 0 and pi, by their series about pi / 2: the first terms left out are below 1e-17.
inline void sine_and_cosine(double angle, double& sine, double& cosine) {
  const double y = angle - M_PI_2, z = y * y;
  double even = 1, odd = 1;
  for (const double* c = INVERSE; c < INVERSE + 22; c += 2) {
    even = 1 - even * z * c[1];
    odd = 1 - odd * z * c[0];
  }
  sine = even;
  cosine = -y * odd;
}

// Where on the axis of the basis a pair is, and how that changes with its length.
struct Coordinate {
  double value, slope;
};

// Agnesi's curve (gfmpot/models/radial_choices.py) times the cutoff.
inline Coordinate agnesi(double d, double mean_radius, double cutoff) {
  constexpr double A = 1.0805, Q = 0.9183, P = 4.5791;
  const double s = d / mean_radius, l = std::log(s), near = std::exp(P * l), far = 1 + std::exp((P - Q) * l);
  const double curve = far / (far + A * near);  // 1 / (1 + A near / far)
  const double rising = A * near * (P + Q * (far - 1)) / (s * far * far);
  return {cutoff * curve, -cutoff * curve * curve * rising / mean_radius};
}

// Bessel functions n = 1, 2, ... of a coordinate times an envelope, and their derivatives by the length.
template <class T>
inline void bessel(Coordinate at, double cutoff, double envelope, double falling, Index size, T* b, T* db) {
  const double scale = std::sqrt(2.0 / cutoff), step = M_PI / cutoff;
  const double inverse = 1 / at.value, turning = at.slope * inverse;
  double s1, c1;
  sine_and_cosine(step * at.value, s1, c1);
  double s = s1, c = c1;  // of n times the angle, turned on by one more each time
  for (Index n = 1; n <= size; ++n) {
    const double wave = s * inverse, function = scale * wave, rising = scale * turning * (n * step * c - wave);
    b[n - 1] = T(function * envelope);
    db[n - 1] = T(rising * envelope + function * falling);
    const double turned = s * c1 + c * s1;
    c = c * c1 - s * s1;
    s = turned;
  }
}

// The polynomial envelope (p = 6), Bessel functions of the length, and the others of Agnesi's curve, for which radii of
// atoms are given; and their derivatives by the length.
template <class T>
void radial(Index edges, Index K, Index of_length, double cutoff, const double* radii, const Index* senders, const Index* receivers,
            const double* vectors, T* basis, T* slopes, T* units, int threads) {
  const double per_cutoff = 1 / cutoff;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (Index e = 0; e < edges; ++e) {
    const double *r = vectors + 3 * e, d = std::sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
    for (int c = 0; c < 3; ++c) units[3 * e + c] = T(r[c] / d);
    T *b = basis + e * K, *db = slopes + e * K;
    const double x = d * per_cutoff, x5 = x * x * x * x * x;
    if (x >= 1) {
      std::fill(b, b + K, T(0));
      std::fill(db, db + K, T(0));
      continue;
    }
    const double envelope = 1 + x5 * x * (-28 + x * (48 - 21 * x));
    const double falling = x5 * (-168 + x * (336 - 168 * x)) * per_cutoff;
    b[0] = T(envelope);
    db[0] = T(falling);
    if (of_length) bessel(Coordinate{d, 1}, cutoff, envelope, falling, of_length, b + 1, db + 1);
    if (of_length == K - 1) continue;
    const Coordinate at = agnesi(d, 0.5 * (radii[senders[e]] + radii[receivers[e]]), cutoff);
    bessel(at, cutoff, envelope, falling, K - 1 - of_length, b + 1 + of_length, db + 1 + of_length);
  }
}

template <class T>
void radial_backward(Index edges, Index K, const double* vectors, const T* slopes, const T* g_basis, const T* g_units,
                     double* gradient, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (Index e = 0; e < edges; ++e) {
    const double *r = vectors + 3 * e, d = std::sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
    double along = 0, across = 0;
    for (Index k = 0; k < K; ++k) along += double(g_basis[e * K + k]) * double(slopes[e * K + k]);
    for (int c = 0; c < 3; ++c) across += double(g_units[3 * e + c]) * r[c] / d;
    for (int c = 0; c < 3; ++c)
      gradient[3 * e + c] = along * r[c] / d + (double(g_units[3 * e + c]) - across * r[c] / d) / d;
  }
}

}  // namespace

// What these libraries were compiled from; setup.py says it.
#ifndef GFMPOT_SOURCES
#define GFMPOT_SOURCES unknown
#endif
#define GFMPOT_QUOTED(text) #text
#define GFMPOT_TEXT(text) GFMPOT_QUOTED(text)
extern "C" const char* gfmpot_sources() { return GFMPOT_TEXT(GFMPOT_SOURCES); }

// Where the edges of each receiver begin, and the same edges ordered by sender; edges come sorted by receiver. Returns
// 1 if they do not, and 2 if an end is no atom.
extern "C" int gfmpot_topology(Index atoms, Index edges, const Index* senders, const Index* receivers, Index* offsets,
                               Index* sender_offsets, Index* by_sender) {
  for (Index e = 0; e < edges; ++e) {
    if (senders[e] < 0 || senders[e] >= atoms || receivers[e] < 0 || receivers[e] >= atoms) return 2;
    if (e > 0 && receivers[e] < receivers[e - 1]) return 1;
  }
  std::fill(offsets, offsets + atoms + 1, 0);
  std::fill(sender_offsets, sender_offsets + atoms + 1, 0);
  for (Index e = 0; e < edges; ++e) {
    ++offsets[receivers[e] + 1];
    ++sender_offsets[senders[e] + 1];
  }
  for (Index i = 0; i < atoms; ++i) {
    offsets[i + 1] += offsets[i];
    sender_offsets[i + 1] += sender_offsets[i];
  }
  std::vector<Index> next(sender_offsets, sender_offsets + atoms);
  for (Index e = 0; e < edges; ++e) by_sender[next[senders[e]]++] = e;
  return 0;
}

#if defined(__GNUC__) && !defined(__clang__)
#define GFMPOT_AS_WRITTEN __attribute__((optimize("fp-contract=off")))
#else
#define GFMPOT_AS_WRITTEN
#endif

// The edges shorter than the cutoff, in order: their number, senders and then receivers, shifts, lengths. Lengths are
// computed number by number as in gfmpot/graph/neighbours.py, without fused operations, so that lists agree to the bit.
extern "C" GFMPOT_AS_WRITTEN void gfmpot_within_f64(Index edges, const Index* senders, const Index* receivers,
                                                    const Index* shifts, const double* positions, const double* cell,
                                                    double cutoff, Index* count, Index* ends, Index* kept_shifts,
                                                    double* lengths, int) {
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif
  Index n = 0;
  for (Index e = 0; e < edges; ++e) {
    double vector[3];
    for (int c = 0; c < 3; ++c) vector[c] = positions[3 * receivers[e] + c] - positions[3 * senders[e] + c];
    for (int axis = 0; axis < 3; ++axis)
      for (int c = 0; c < 3; ++c) vector[c] += double(shifts[3 * e + axis]) * cell[3 * axis + c];
    const double length = std::sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]);
    if (!(length < cutoff)) continue;
    ends[n] = e;
    lengths[n++] = length;
  }
  *count = n;
  for (Index i = 0; i < n; ++i) {
    const Index e = ends[i];
    std::copy_n(shifts + 3 * e, 3, kept_shifts + 3 * i);
    ends[n + i] = receivers[e];
    ends[i] = senders[e];
  }
}

// Vectors (E, 3) from sender to receiver, across the cell vectors (G, 3, 3) that the shifts (E, 3) count.
extern "C" void gfmpot_edge_vectors_f64(Index edges, const Index* senders, const Index* receivers,
                                        const Index* structures, const double* positions, const double* cells,
                                        const Index* shifts, double* vectors, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (Index e = 0; e < edges; ++e) {
    const double *from = positions + 3 * senders[e], *to = positions + 3 * receivers[e];
    const double* cell = cells + 9 * structures[receivers[e]];
    const Index* n = shifts + 3 * e;
    for (int c = 0; c < 3; ++c)
      vectors[3 * e + c] =
          to[c] - from[c] + (double(n[0]) * cell[c] + double(n[1]) * cell[3 + c] + double(n[2]) * cell[6 + c]);
  }
}

// Forces (N, 3) from the gradients of edge vectors (E, 3): each edge pulls its two atoms in opposite directions.
extern "C" void gfmpot_forces_f64(Index atoms, const Index* offsets, const Index* sender_offsets,
                                  const Index* by_sender, const double* gradients, double* forces, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (Index i = 0; i < atoms; ++i) {
    double sent[3] = {}, received[3] = {};
    for (Index t = sender_offsets[i]; t < sender_offsets[i + 1]; ++t)
      for (int c = 0; c < 3; ++c) sent[c] += gradients[3 * by_sender[t] + c];
    for (Index e = offsets[i]; e < offsets[i + 1]; ++e)
      for (int c = 0; c < 3; ++c) received[c] += gradients[3 * e + c];
    for (int c = 0; c < 3; ++c) forces[3 * i + c] = sent[c] - received[c];
  }
}

// Sums (G, 6) over the edges of each structure of vector times gradient, symmetric, as xx yy zz yz xz xy.
extern "C" void gfmpot_virials_f64(Index structures, Index atoms, const Index* structure_of_atom, const Index* offsets,
                                   const double* vectors, const double* gradients, double* virials, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (Index g = 0; g < structures; ++g) {
    const Index first = std::lower_bound(structure_of_atom, structure_of_atom + atoms, g) - structure_of_atom;
    const Index last = std::upper_bound(structure_of_atom, structure_of_atom + atoms, g) - structure_of_atom;
    double sums[3][3] = {};
    for (Index e = offsets[first]; e < offsets[last]; ++e)
      for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b) sums[a][b] += vectors[3 * e + a] * gradients[3 * e + b];
    double* out = virials + 6 * g;
    for (int a = 0; a < 3; ++a) out[a] = sums[a][a];
    out[3] = (sums[1][2] + sums[2][1]) / 2;
    out[4] = (sums[0][2] + sums[2][0]) / 2;
    out[5] = (sums[0][1] + sums[1][0]) / 2;
  }
}

#define GFMPOT_INSTANCES(T, S)                                                                                     \
  extern "C" void gfmpot_radial_##S(Index edges, Index functions, Index of_length, double cutoff,                  \
                                    const double* radii, const Index* senders, const Index* receivers,             \
                                    const double* vectors, T* basis, T* slopes, T* units, int threads) {           \
    radial<T>(edges, functions, of_length, cutoff, radii, senders, receivers, vectors, basis, slopes, units,       \
              threads);                                                                                            \
  }                                                                                                                \
  extern "C" void gfmpot_radial_backward_##S(Index edges, Index functions, const double* vectors, const T* slopes, \
                                             const T* g_basis, const T* g_units, double* gradient, int threads) {  \
    radial_backward<T>(edges, functions, vectors, slopes, g_basis, g_units, gradient, threads);                    \
  }

GFMPOT_INSTANCES(float, f32)
GFMPOT_INSTANCES(double, f64)
