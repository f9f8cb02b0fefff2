// Vector types for the kernels, as wide as the instruction set's own registers. Included by kernel_impl.hpp only.
//
// Vector types are never wider than that: GCC 12 lowers those to catastrophically slow code.
#pragma once

#include "kernel.hpp"

namespace ideal::detail {
namespace {

#define IDEAL_INLINE inline __attribute__((always_inline))
/// Before loops over accumulators: GCC keeps an array in registers only if its loops are unrolled early.
#define IDEAL_UNROLL _Pragma("GCC unroll 32")

constexpr int lanes = IDEAL_LANES;
constexpr int registers = IDEAL_VECTOR_REGISTERS;

template <int W>
struct VectorOf {
    typedef double type __attribute__((vector_size(8 * W)));
    typedef double memory __attribute__((vector_size(8 * W), aligned(8), may_alias));
};
template <int W>
using Vector = typename VectorOf<W>::type;
using Lanes = Vector<lanes>;

template <int W>
IDEAL_INLINE Vector<W> load(const double* p) {
    return *reinterpret_cast<const typename VectorOf<W>::memory*>(p);
}
template <int W>
IDEAL_INLINE void store(double* p, Vector<W> v) {
    *reinterpret_cast<typename VectorOf<W>::memory*>(p) = v;
}
template <int W>
IDEAL_INLINE Vector<W> zero() {
    return Vector<W>{};
}
IDEAL_INLINE Lanes load_lanes(const double* p) { return load<lanes>(p); }

constexpr int smaller(int a, int b) { return a < b ? a : b; }
constexpr int larger(int a, int b) { return a > b ? a : b; }
constexpr int divided_up(int a, int b) { return (a + b - 1) / b; }

/// NP doubles in native vectors.
template <int NP>
struct Row {
    static constexpr int width = NP % lanes == 0 ? lanes : 4;
    static constexpr int n_vectors = NP / width;
    Vector<width> q[n_vectors];

    IDEAL_INLINE void clear() {
        IDEAL_UNROLL
        for (int i = 0; i < n_vectors; ++i) q[i] = zero<width>();
    }
    IDEAL_INLINE void load(const double* p) {
        IDEAL_UNROLL
        for (int i = 0; i < n_vectors; ++i) q[i] = detail::load<width>(p + i * width);
    }
    IDEAL_INLINE void store(double* p) const {
        IDEAL_UNROLL
        for (int i = 0; i < n_vectors; ++i) detail::store<width>(p + i * width, q[i]);
    }
    IDEAL_INLINE void add(double a, const Row& b) {
        IDEAL_UNROLL
        for (int i = 0; i < n_vectors; ++i) q[i] += a * b.q[i];
    }
    IDEAL_INLINE void add(double a, const double* p) {
        IDEAL_UNROLL
        for (int i = 0; i < n_vectors; ++i) q[i] += a * detail::load<width>(p + i * width);
    }
};

/// Accumulators of `per_item` vectors that fit the register file beside a few operands.
constexpr int blocked_items(int n_items, int per_item) {
    const int room = larger(1, (registers - (registers > 16 ? 6 : 4)) / per_item);
    return divided_up(n_items, divided_up(n_items, room)); // equal blocks
}

} // namespace
} // namespace ideal::detail
