// The kernels of the descriptor: neighbors -> c_nlm -> power spectrum, and back. Included by kernel_impl.hpp only.
#pragma once

#include "kernel_harmonics_impl.hpp"
#include "kernel_neighbors_impl.hpp"
#include "kernel_vector.hpp"

namespace ideal::detail {
namespace {

// ---- radial table --------------------------------------------------------------------------------------------------

/// What the neighbors of a batch take from the rows of their interval.
struct Interpolation {
    int interval[batch];
    double weight[spline_terms][batch]; // times the taper
    double slope[spline_terms][batch];  // d(weight)/dr
};

/// Always a whole batch: neighbors past the end get numbers that nobody reads.
template <bool with_slope>
IDEAL_INLINE void interpolate_weights(const BasisView& basis, const double* __restrict r, Interpolation& out) {
    const double scale = basis.inverse_spacing, last = basis.n_intervals;
    const double begin = basis.taper_begin, inverse_width = basis.inverse_taper_width;
    for (int j = 0; j < batch; ++j) {
        const double x = r[j] * scale, position = x < last ? x : last;
        const int k = static_cast<int>(position);
        out.interval[j] = k;
        double v = (r[j] - begin) * inverse_width;
        v = v > 0 ? v : 0;
        v = v < 1 ? v : 1;
        const double taper = 1 - v * v * v * (10 + v * (-15 + 6 * v));
        const double t = position - k, t2 = t * t, s = 1 - t, s2 = s * s;
        const double w[spline_terms] = {(1. / 120) * s2 * s2 * s,
                                        (1. / 120) * (1 + s * (5 + s * (10 + s * (10 + s * (5 - 5 * s))))),
                                        (1. / 120) * (66 + t2 * (-60 + t2 * (30 - 10 * t))),
                                        (1. / 120) * (66 + s2 * (-60 + s2 * (30 - 10 * s))),
                                        (1. / 120) * (1 + t * (5 + t * (10 + t * (10 + t * (5 - 5 * t))))),
                                        (1. / 120) * t2 * t2 * t};
        IDEAL_UNROLL
        for (int q = 0; q < spline_terms; ++q) out.weight[q][j] = w[q] * taper;
        if constexpr (with_slope) {
            const double fall = -30 * v * v * (1 - v) * (1 - v) * inverse_width, steep = scale * taper;
            const double d[spline_terms] = {(-1. / 24) * s2 * s2,
                                            (-1. / 24) * (1 + s * (4 + s * (6 + s * (4 - 5 * s)))),
                                            t * (-1 + t2 * (1 - (5. / 12) * t)),
                                            s * (1 - s2 * (1 - (5. / 12) * s)),
                                            (1. / 24) * (1 + t * (4 + t * (6 + t * (4 - 5 * t)))),
                                            (1. / 24) * t2 * t2};
            IDEAL_UNROLL
            for (int q = 0; q < spline_terms; ++q) out.slope[q][j] = d[q] * steep + w[q] * fall;
        }
    }
}

/// One neighbor's radial functions, all l and n.
IDEAL_INLINE void radial_row(const BasisView& basis, const Interpolation& at, int j, double* out) {
    const int stride = basis.row_stride;
    const double* row = basis.table + static_cast<std::size_t>(at.interval[j]) * stride;
    Lanes w[spline_terms];
    IDEAL_UNROLL
    for (int q = 0; q < spline_terms; ++q) w[q] = zero<lanes>() + at.weight[q][j];
    for (int i = 0; i < stride; i += lanes) {
        Lanes value = w[0] * load_lanes(row + i);
        IDEAL_UNROLL
        for (int q = 1; q < spline_terms; ++q) value += w[q] * load_lanes(row + q * stride + i);
        store<lanes>(out + i, value);
    }
}

IDEAL_INLINE void radial_row_and_slope(const BasisView& basis, const Interpolation& at, int j, double* out,
                                       double* out_slope) {
    const int stride = basis.row_stride;
    const double* row = basis.table + static_cast<std::size_t>(at.interval[j]) * stride;
    Lanes w[spline_terms], e[spline_terms];
    IDEAL_UNROLL
    for (int q = 0; q < spline_terms; ++q) {
        w[q] = zero<lanes>() + at.weight[q][j];
        e[q] = zero<lanes>() + at.slope[q][j];
    }
    for (int i = 0; i < stride; i += lanes) {
        const Lanes first = load_lanes(row + i);
        Lanes value = w[0] * first, slope = e[0] * first;
        IDEAL_UNROLL
        for (int q = 1; q < spline_terms; ++q) {
            const Lanes f = load_lanes(row + q * stride + i);
            value += w[q] * f;
            slope += e[q] * f;
        }
        store<lanes>(out + i, value);
        store<lanes>(out_slope + i, slope);
    }
}

// ---- expansion coefficients ----------------------------------------------------------------------------------------

/// Call function<0> ... function<max_l> for a degree known at run time.
#define IDEAL_FOR_DEGREE(l, CALL)                                                                                      \
    switch (l) {                                                                                                       \
    case 0: CALL(0); break;                                                                                            \
    case 1: CALL(1); break;                                                                                            \
    case 2: CALL(2); break;                                                                                            \
    case 3: CALL(3); break;                                                                                            \
    case 4: CALL(4); break;                                                                                            \
    case 5: CALL(5); break;                                                                                            \
    case 6: CALL(6); break;                                                                                            \
    case 7: CALL(7); break;                                                                                            \
    case 8: CALL(8); break;                                                                                            \
    case 9: CALL(9); break;                                                                                            \
    case 10: CALL(10); break;                                                                                          \
    case 11: CALL(11); break;                                                                                          \
    case 12: CALL(12); break;                                                                                          \
    }

/// c_lm += sum_j Y_lm(j) R_l(j) for one l and m in [M0, 2l + 1): lanes are radial functions.
template <int NP, int L, int M0 = 0>
IDEAL_INLINE void accumulate(const double* Y, const double* R, int stride, int begin, int end, double* c) {
    constexpr int M = 2 * L + 1;
    constexpr int block = smaller(blocked_items(M, Row<NP>::n_vectors), M - M0);
    Row<NP> sum[block];
    IDEAL_UNROLL
    for (int m = 0; m < block; ++m) sum[m].load(c + (M0 + m) * NP);
    for (int j = begin; j < end; ++j) {
        Row<NP> radial;
        radial.load(R + j * stride);
        IDEAL_UNROLL
        for (int m = 0; m < block; ++m) sum[m].add(Y[(M0 + m) * batch + j], radial);
    }
    IDEAL_UNROLL
    for (int m = 0; m < block; ++m) sum[m].store(c + (M0 + m) * NP);
    if constexpr (M0 + block < M) accumulate<NP, L, M0 + block>(Y, R, stride, begin, end, c);
}

template <int NP, int L>
__attribute__((noinline)) void accumulate_degree(const double* Y, const double* R, int stride, int begin, int end,
                                                 double* c) {
    accumulate<NP, L>(Y + L * L * batch, R + L * NP, stride, begin, end, c + L * L * NP);
}

/// One neighbor's share of the degrees l ... L, unrolled: loops with bounds in l would keep the sums in memory.
template <int NP, int L, int l = 0>
IDEAL_INLINE void add_low_degrees(const double* Y, const double* R, Row<NP>* sum) {
    Row<NP> radial;
    radial.load(R + l * NP);
    IDEAL_UNROLL
    for (int m = 0; m < 2 * l + 1; ++m) sum[l * l + m].add(Y[(l * l + m) * batch], radial);
    if constexpr (l < L) add_low_degrees<NP, L, l + 1>(Y, R, sum);
}

/// The degrees 0 ... L in one pass: one degree alone would wait for its few sums.
template <int NP, int L>
__attribute__((noinline)) void accumulate_low_degrees(const double* Y, const double* R, int stride, int begin, int end,
                                                      double* c) {
    constexpr int M = (L + 1) * (L + 1);
    Row<NP> sum[M];
    IDEAL_UNROLL
    for (int m = 0; m < M; ++m) sum[m].load(c + m * NP);
    for (int j = begin; j < end; ++j) add_low_degrees<NP, L>(Y + j, R + j * stride, sum);
    IDEAL_UNROLL
    for (int m = 0; m < M; ++m) sum[m].store(c + m * NP);
}

/// Degrees that one pass can take.
template <int NP>
constexpr int low_degrees() {
    int l = 0;
    while (l < 3 && (l + 2) * (l + 2) <= (registers - 4) / Row<NP>::n_vectors) ++l;
    return l;
}

template <int NP>
void expand(const BasisView& basis, const NeighborView& neighbors, double* c) {
    const int stride = basis.row_stride, l_max = basis.l_max;
    const HarmonicsFunction evaluate_harmonics = harmonics_for(l_max);
    alignas(64) double Y[max_harmonics * batch];
    alignas(64) double R[batch * ((max_l + 1) * NP + 8)];
    alignas(64) Interpolation at;
    int species = 0;
    for (int start = 0; start < neighbors.count; start += batch) {
        const int n = smaller(batch, neighbors.count - start);
        for (int i = 0; i < n; i += lanes)
            evaluate_harmonics(basis, neighbors.x + start + i, neighbors.y + start + i, neighbors.z + start + i, Y + i);
        interpolate_weights<false>(basis, neighbors.r + start, at);
        for (int j = 0; j < n; ++j) radial_row(basis, at, j, R + j * stride);
        for (int begin = 0; begin < n;) { // the runs of one species in this batch
            while (neighbors.first[species + 1] <= start + begin) ++species;
            const int end = smaller(n, neighbors.first[species + 1] - start);
            double* c_species = c + static_cast<std::size_t>(species) * basis.n_harmonics * NP;
            constexpr int low = low_degrees<NP>();
            const bool together = l_max >= low;
            if (together) accumulate_low_degrees<NP, low>(Y, R, stride, begin, end, c_species);
            for (int l = together ? low + 1 : 0; l <= l_max; ++l) {
#define IDEAL_CALL(L) accumulate_degree<NP, L>(Y, R, stride, begin, end, c_species)
                IDEAL_FOR_DEGREE(l, IDEAL_CALL)
#undef IDEAL_CALL
            }
            begin = end;
        }
    }
}

/// W rows of W doubles, transposed in registers.
template <int W>
IDEAL_INLINE void transpose(const double* in, int in_stride, double* out) {
    Vector<W> v[W];
    IDEAL_UNROLL
    for (int i = 0; i < W; ++i) v[i] = load<W>(in + i * in_stride);
    if constexpr (W == 2) {
        store<2>(out, __builtin_shufflevector(v[0], v[1], 0, 2));
        store<2>(out + 2, __builtin_shufflevector(v[0], v[1], 1, 3));
    } else if constexpr (W == 4) {
        const Vector<4> a = __builtin_shufflevector(v[0], v[1], 0, 4, 2, 6),
                        b = __builtin_shufflevector(v[0], v[1], 1, 5, 3, 7);
        const Vector<4> c = __builtin_shufflevector(v[2], v[3], 0, 4, 2, 6),
                        d = __builtin_shufflevector(v[2], v[3], 1, 5, 3, 7);
        store<4>(out, __builtin_shufflevector(a, c, 0, 1, 4, 5));
        store<4>(out + 4, __builtin_shufflevector(b, d, 0, 1, 4, 5));
        store<4>(out + 8, __builtin_shufflevector(a, c, 2, 3, 6, 7));
        store<4>(out + 12, __builtin_shufflevector(b, d, 2, 3, 6, 7));
    } else {
        static_assert(W == 8);
        Vector<8> a[8], b[8];
        for (int i = 0; i < 8; i += 2) {
            a[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
            a[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
        }
        for (int i = 0; i < 8; i += 4)
            for (int k = 0; k < 2; ++k) {
                b[i + k] = __builtin_shufflevector(a[i + k], a[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
                b[i + k + 2] = __builtin_shufflevector(a[i + k], a[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
            }
        for (int k = 0; k < 4; ++k) {
            store<8>(out + k * 8, __builtin_shufflevector(b[k], b[k + 4], 0, 1, 2, 3, 8, 9, 10, 11));
            store<8>(out + (k + 4) * 8, __builtin_shufflevector(b[k], b[k + 4], 4, 5, 6, 7, 12, 13, 14, 15));
        }
    }
}

/// a_m = sum_n c_mn R_n and b_m = sum_n c_mn dR_n for one l: lanes are neighbors.
template <int NP, int L, int M0 = 0>
IDEAL_INLINE void contract(const double* c, int n_max, const double* R, const double* D, double* a, double* b) {
    constexpr int M = 2 * L + 1;
    constexpr int block = smaller(blocked_items(M, 2), M - M0);
    Lanes value[block], slope[block];
    IDEAL_UNROLL
    for (int m = 0; m < block; ++m) value[m] = slope[m] = zero<lanes>();
    for (int n = 0; n < n_max; ++n) {
        const Lanes r = load_lanes(R + n * lanes), d = load_lanes(D + n * lanes);
        IDEAL_UNROLL
        for (int m = 0; m < block; ++m) {
            const double factor = c[(M0 + m) * NP + n];
            value[m] += factor * r;
            slope[m] += factor * d;
        }
    }
    IDEAL_UNROLL
    for (int m = 0; m < block; ++m) {
        store<lanes>(a + (M0 + m) * lanes, value[m]);
        store<lanes>(b + (M0 + m) * lanes, slope[m]);
    }
    if constexpr (M0 + block < M) contract<NP, L, M0 + block>(c, n_max, R, D, a, b);
}

template <int NP, int L>
__attribute__((noinline)) void contract_degree(const double* c, int n_max, const double* R, const double* D, double* a,
                                               double* b) {
    contract<NP, L>(c + L * L * NP, n_max, R + L * NP * lanes, D + L * NP * lanes, a + L * L * lanes,
                b + L * L * lanes);
}

template <int NP>
void expand_adjoint(const BasisView& basis, const NeighborView& neighbors, const double* c_adjoint, double* gx,
                    double* gy, double* gz) {
    constexpr int row_size = (max_l + 1) * NP + 8;
    const int stride = basis.row_stride, l_max = basis.l_max;
    const HarmonicsAdjointFunction finish = harmonics_adjoint_for(l_max);
    alignas(64) double rows[lanes * row_size], slopes[lanes * row_size];
    alignas(64) double R[lanes * row_size], D[lanes * row_size];
    alignas(64) double a[max_harmonics * lanes], b[max_harmonics * lanes];
    alignas(64) Interpolation at;
    for (int species = 0; species < basis.n_species; ++species) {
        const double* c = c_adjoint + static_cast<std::size_t>(species) * basis.n_harmonics * NP;
        const int end = neighbors.first[species + 1];
        // The last group of a species runs over into the next one, whose own group then overwrites what was written
        // there.
        for (int start = neighbors.first[species]; start < end; start += lanes) {
            const int n = smaller(lanes, end - start), offset = (start - neighbors.first[species]) % batch;
            if (offset == 0) interpolate_weights<true>(basis, neighbors.r + start, at);
            for (int j = 0; j < n; ++j)
                radial_row_and_slope(basis, at, offset + j, rows + j * stride, slopes + j * stride);
            for (int i = n * stride; i < lanes * stride; ++i) rows[i] = slopes[i] = 0;
            for (int i = 0; i < stride; i += lanes) {
                transpose<lanes>(rows + i, stride, R + i * lanes);
                transpose<lanes>(slopes + i, stride, D + i * lanes);
            }
            for (int l = 0; l <= l_max; ++l) {
#define IDEAL_CALL(L) contract_degree<NP, L>(c, basis.n_max, R, D, a, b)
                IDEAL_FOR_DEGREE(l, IDEAL_CALL)
#undef IDEAL_CALL
            }
            finish(basis, neighbors.x + start, neighbors.y + start, neighbors.z + start, neighbors.inverse_r + start, a,
                   b, gx + start, gy + start, gz + start);
        }
    }
}

// ---- power spectrum ------------------------------------------------------------------------------------------------

constexpr int divisor_block(int np, int vectors) {
    int block = np;
    while (block > 1 && block * vectors > registers - 6) block = block % 2 == 0 ? block / 2 : 1;
    return block;
}

void combine(const BasisView& basis, const unsigned char* present, double* c) {
    const std::size_t size = static_cast<std::size_t>(basis.n_harmonics) * basis.n_padded;
    if (basis.weights)
        for (int s = 0; s < basis.n_species; ++s)
            for (std::size_t i = 0; i < size && present[s]; ++i) c[s * size + i] *= basis.weights[s];
    if (basis.n_channels == basis.n_species) return;
    double* sum = c + basis.n_species * size;
    for (std::size_t i = 0; i < size; ++i) sum[i] = 0;
    for (int s = 0; s < basis.n_species; ++s)
        for (std::size_t i = 0; i < size && present[s]; ++i) sum[i] += c[s * size + i];
}

void combine_adjoint(const BasisView& basis, const unsigned char* present, double* c_adjoint) {
    const std::size_t size = static_cast<std::size_t>(basis.n_harmonics) * basis.n_padded;
    const double* sum = c_adjoint + basis.n_species * size;
    if (basis.n_channels > basis.n_species)
        for (int s = 0; s < basis.n_species; ++s)
            for (std::size_t i = 0; i < size && present[s]; ++i) c_adjoint[s * size + i] += sum[i];
    if (basis.weights)
        for (int s = 0; s < basis.n_species; ++s)
            for (std::size_t i = 0; i < size && present[s]; ++i) c_adjoint[s * size + i] *= basis.weights[s];
}

/// Features of one pair of channels.
int pair_features(const BasisView& basis, int a, int b) {
    return (a == b ? basis.n_max * (basis.n_max + 1) / 2 : basis.n_max * basis.n_max) * (basis.l_max + 1);
}

template <int NP>
void power_spectrum(const BasisView& basis, const unsigned char* present, const double* c, double* features) {
    constexpr int W = Row<NP>::width;
    constexpr int block = divisor_block(NP, Row<NP>::n_vectors);
    const int n_max = basis.n_max;
    const std::size_t size = static_cast<std::size_t>(basis.n_harmonics) * NP;
    alignas(64) double product[(NP + 1) * NP];
    double* out = features;
    for (int pair = 0; pair < basis.n_pairs; ++pair) {
        const int s = basis.pairs[2 * pair], t = basis.pairs[2 * pair + 1];
        if (!present[s] || !present[t]) {
            const int n = pair_features(basis, s, t);
            for (int i = 0; i < n; ++i) out[i] = 0;
            out += n;
            continue;
        }
        for (int l = 0; l <= basis.l_max; ++l) {
            const double* a = c + s * size + l * l * NP;
            const double* b = c + t * size + l * l * NP;
            for (int i0 = 0; i0 < n_max; i0 += block) {
                Row<NP> sum[block];
                IDEAL_UNROLL
                for (int i = 0; i < block; ++i) sum[i].clear();
                for (int m = 0; m < 2 * l + 1; ++m) {
                    Row<NP> right;
                    right.load(b + m * NP);
                    IDEAL_UNROLL
                    for (int i = 0; i < block; ++i) sum[i].add(a[m * NP + i0 + i], right);
                }
                IDEAL_UNROLL
                for (int i = 0; i < block; ++i) sum[i].store(product + (i0 + i) * NP);
            }
            for (int i = 0; i < n_max; ++i) { // whole vectors: each row overwrites the last one's excess
                const int j0 = s == t ? i : 0;
                for (int j = 0; j < NP; j += W) store<W>(out + j, load<W>(product + i * NP + j0 + j));
                out += n_max - j0;
            }
        }
    }
}

template <int NP>
void power_spectrum_adjoint(const BasisView& basis, const unsigned char* present, const double* c,
                            const double* adjoint, double* c_adjoint) {
    const int n_max = basis.n_max;
    const std::size_t size = static_cast<std::size_t>(basis.n_harmonics) * NP;
    alignas(64) double G[NP * NP] = {}, transposed[NP * NP] = {};
    const double* in = adjoint;
    for (int channel = 0; channel < basis.n_channels; ++channel)
        for (std::size_t i = 0; i < size && present[channel]; ++i) c_adjoint[channel * size + i] = 0;
    for (int pair = 0; pair < basis.n_pairs; ++pair) {
        const int s = basis.pairs[2 * pair], t = basis.pairs[2 * pair + 1];
        if (!present[s] || !present[t]) {
            in += pair_features(basis, s, t);
            continue;
        }
        for (int l = 0; l <= basis.l_max; ++l) {
            const std::size_t at_s = s * size + l * l * NP, at_t = t * size + l * l * NP;
            if (s == t) {
                for (int i = 0; i < n_max; ++i) {
                    G[i * NP + i] = 2 * *in++;
                    for (int j = i + 1; j < n_max; ++j) G[i * NP + j] = G[j * NP + i] = *in++;
                }
                for (int m = 0; m < 2 * l + 1; ++m) {
                    Row<NP> sum;
                    sum.load(c_adjoint + at_s + m * NP);
                    for (int i = 0; i < n_max; ++i) sum.add(c[at_s + m * NP + i], G + i * NP);
                    sum.store(c_adjoint + at_s + m * NP);
                }
            } else {
                for (int i = 0; i < n_max; ++i)
                    for (int j = 0; j < n_max; ++j) G[i * NP + j] = transposed[j * NP + i] = *in++;
                for (int m = 0; m < 2 * l + 1; ++m) {
                    Row<NP> sum_s, sum_t;
                    sum_s.load(c_adjoint + at_s + m * NP);
                    sum_t.load(c_adjoint + at_t + m * NP);
                    for (int i = 0; i < n_max; ++i) {
                        sum_s.add(c[at_t + m * NP + i], transposed + i * NP);
                        sum_t.add(c[at_s + m * NP + i], G + i * NP);
                    }
                    sum_s.store(c_adjoint + at_s + m * NP);
                    sum_t.store(c_adjoint + at_t + m * NP);
                }
            }
        }
    }
    combine_adjoint(basis, present, c_adjoint);
}

template <int NP>
const BasisKernels* kernels_of_width() {
    static const BasisKernels table{expand<NP>, combine, power_spectrum<NP>, power_spectrum_adjoint<NP>,
                                    expand_adjoint<NP>};
    return &table;
}

const BasisKernels* basis_kernels(int n_padded) {
    switch (n_padded) {
    case 4: return kernels_of_width<4>();
    case 8: return kernels_of_width<8>();
    case 12: return kernels_of_width<12>();
    case 16: return kernels_of_width<16>();
    default: return nullptr;
    }
}

} // namespace
} // namespace ideal::detail
