// Vectors of numbers as wide as the machine's registers, and loops over features with them.
//
// GFMPOT_VECTOR_BYTES is the width of a register; setup.py compiles every source once per instruction set. Numbers of
// features are multiples of 16, what a cache line holds in float32, so that there are no remainders. GCC or clang.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#ifndef GFMPOT_VECTOR_BYTES
#define GFMPOT_VECTOR_BYTES 16
#endif

// Loop bodies are inlined by force: a closure that stays in memory would be read again after every store.
#define GFMPOT_INLINE __attribute__((always_inline))

namespace gfmpot {

using Index = int64_t;

// As many numbers as a register holds, anywhere in memory.
template <class T>
struct Register {
  typedef T type __attribute__((vector_size(GFMPOT_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
};
template <class T>
using Single = typename Register<T>::type;

// Two registers, which keep two chains of arithmetic busy. (Vectors twice as wide would live in memory with GCC.)
template <class T>
struct Wide {
  Single<T> a, b;
  Wide& operator+=(const Wide& o) {
    a += o.a;
    b += o.b;
    return *this;
  }
  Wide& operator*=(const Wide& o) {
    a *= o.a;
    b *= o.b;
    return *this;
  }
};
template <class T>
inline Wide<T> operator+(const Wide<T>& x, const Wide<T>& y) {
  return {x.a + y.a, x.b + y.b};
}
template <class T>
inline Wide<T> operator*(const Wide<T>& x, const Wide<T>& y) {
  return {x.a * y.a, x.b * y.b};
}
template <class T>
inline Wide<T> operator/(const Wide<T>& x, const Wide<T>& y) {
  return {x.a / y.a, x.b / y.b};
}
template <class T>
inline Wide<T> operator+(const Wide<T>& x, T y) {
  return {x.a + y, x.b + y};
}
template <class T>
inline Wide<T> operator*(const Wide<T>& x, T y) {
  return {x.a * y, x.b * y};
}
template <class T>
inline Wide<T> operator*(T x, const Wide<T>& y) {
  return {x * y.a, x * y.b};
}

// Loads and stores of one number, of a register or of two, wherever they lie.
template <class V, class T>
GFMPOT_INLINE inline V load(const T* p) {
  if constexpr (sizeof(V) > sizeof(Single<T>))
    return {load<Single<T>>(p), load<Single<T>>(p + sizeof(V) / sizeof(T) / 2)};
  else
    return *reinterpret_cast<const V*>(p);
}
template <class T>
GFMPOT_INLINE inline void store(T* p, T v) {
  *p = v;
}
template <class T>
GFMPOT_INLINE inline void store(T* p, Single<T> v) {
  *reinterpret_cast<Single<T>*>(p) = v;
}
template <class T>
GFMPOT_INLINE inline void store(T* p, const Wide<T>& v) {
  store<T>(p, v.a);
  store<T>(p + sizeof(v.a) / sizeof(T), v.b);
}

// The sum of the numbers in a register, by halves.
#if defined(__clang__) || __GNUC__ >= 12
template <class T, class V, std::size_t... Half>
inline T folded(V v, std::index_sequence<Half...>) {
  constexpr std::size_t n = sizeof...(Half);
  const auto sum = __builtin_shufflevector(v, v, Half...) + __builtin_shufflevector(v, v, (Half + n)...);
  if constexpr (n == 1)
    return sum[0];
  else
    return folded<T>(sum, std::make_index_sequence<n / 2>());
}
template <class T>
inline T total(Single<T> v) {
  return folded<T>(v, std::make_index_sequence<sizeof(v) / sizeof(T) / 2>());
}
#else
template <class T>
inline T total(Single<T> v) {
  for (int half = sizeof(v) / sizeof(T) / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}
#endif

// Room for n numbers that begins where a cache line does: loads across two lines take twice as long.
template <class T>
class Scratch {
 public:
  explicit Scratch(Index n) : room_(n + 64 / sizeof(T)) {
    const auto at = reinterpret_cast<std::uintptr_t>(room_.data());
    begin_ = room_.data() + (64 - at % 64) % 64 / sizeof(T);
  }
  T* data() { return begin_; }

 private:
  std::vector<T> room_;
  T* begin_;
};

// body(V(), f) for n features, a multiple of 16: by two registers, then by one.
template <class T, class Body>
GFMPOT_INLINE inline void over_features(Index n, Body body) {
  constexpr Index wide = sizeof(Wide<T>) / sizeof(T), single = sizeof(Single<T>) / sizeof(T);
  Index f = 0;
  for (; f + wide <= n; f += wide) body(Wide<T>{}, f);
  for (; f < n; f += single) body(Single<T>{}, f);
}

// Sums over features of unit-vector gradients, whatever the width of what is added.
template <class T>
struct Sum3 {
  Wide<T> wide[3] = {};
  Single<T> single[3] = {};
  template <class V>
  inline V* parts() {
    if constexpr (sizeof(V) == sizeof(wide[0]))
      return wide;
    else
      return single;
  }
  inline void add_to(T* out) {
    for (int c = 0; c < 3; ++c) out[c] += total<T>(wide[c].a + wide[c].b + single[c]);
  }
};

}  // namespace gfmpot
