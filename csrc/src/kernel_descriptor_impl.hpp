// The kernels of the descriptor: neighbors -> c_nlm -> power spectrum, and back. Included by kernel_impl.hpp only.
#pragma once

#include "kernel_vector.hpp"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace ideal::detail {
namespace {

// ---- neighbors -----------------------------------------------------------------------------------------------------

int select(const SearchView& in, const HitsView& hits, double* nearest_squared) {
    const double cx = in.x[in.slot], cy = in.y[in.slot], cz = in.z[in.slot];
    int count = 0;
#ifdef __AVX512F__
    const __m512d center_x = _mm512_set1_pd(cx), center_y = _mm512_set1_pd(cy), center_z = _mm512_set1_pd(cz);
    const __m512d limit = _mm512_set1_pd(in.cutoff_squared), scale = _mm512_set1_pd(in.shells_per_square);
    const __m256i own = _mm256_set1_epi32(in.slot), n_shells = _mm256_set1_epi32(in.n_shells);
    const __m256i last_shell = _mm256_set1_epi32(in.n_shells - 1), eight = _mm256_set1_epi32(8);
    __m512d nearest = _mm512_set1_pd(__builtin_inf());
    for (int range = 0; range < in.n_ranges; ++range) {
        const int begin = in.ranges[2 * range], end = in.ranges[2 * range + 1];
        __m256i slots = _mm256_add_epi32(_mm256_set1_epi32(begin), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
        for (int i = begin; i < end; i += 8, slots = _mm256_add_epi32(slots, eight)) {
            const __m512d dx = _mm512_sub_pd(_mm512_loadu_pd(in.x + i), center_x);
            const __m512d dy = _mm512_sub_pd(_mm512_loadu_pd(in.y + i), center_y);
            const __m512d dz = _mm512_sub_pd(_mm512_loadu_pd(in.z + i), center_z);
            const __m512d squared = _mm512_fmadd_pd(dx, dx, _mm512_fmadd_pd(dy, dy, _mm512_mul_pd(dz, dz)));
            __mmask8 within = _mm512_cmp_pd_mask(squared, limit, _CMP_LE_OQ) & _mm256_cmpneq_epi32_mask(slots, own);
            if (end - i < 8) within &= static_cast<__mmask8>((1u << (end - i)) - 1);
            nearest = _mm512_mask_mov_pd(nearest, within & _mm512_cmp_pd_mask(squared, nearest, _CMP_LT_OQ), squared);
            const __m256i species = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in.species + i));
            const __m256i shell = _mm256_min_epi32(_mm512_maskz_cvttpd_epi32(0xff, _mm512_mul_pd(squared, scale)), last_shell);
            const __m256i key = _mm256_add_epi32(_mm256_mullo_epi32(species, n_shells), shell);
            // Compressed in registers and stored whole: compressing stores are slow on some processors.
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(hits.slot + count),
                                _mm256_maskz_compress_epi32(within, slots));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(hits.shell + count),
                                _mm256_maskz_compress_epi32(within, key));
            _mm512_storeu_pd(hits.x + count, _mm512_maskz_compress_pd(within, dx));
            _mm512_storeu_pd(hits.y + count, _mm512_maskz_compress_pd(within, dy));
            _mm512_storeu_pd(hits.z + count, _mm512_maskz_compress_pd(within, dz));
            count += __builtin_popcount(within);
        }
    }
    alignas(64) double least[8];
    _mm512_store_pd(least, nearest);
    *nearest_squared = least[0];
    for (int i = 1; i < 8; ++i)
        if (least[i] < *nearest_squared) *nearest_squared = least[i];
#else
    double nearest = __builtin_inf();
    for (int range = 0; range < in.n_ranges; ++range)
        for (int i = in.ranges[2 * range]; i < in.ranges[2 * range + 1]; ++i) {
            const double dx = in.x[i] - cx, dy = in.y[i] - cy, dz = in.z[i] - cz, squared = dx * dx + dy * dy + dz * dz;
            const bool within = squared <= in.cutoff_squared && i != in.slot;
            const int shell = static_cast<int>(squared * in.shells_per_square);
            hits.slot[count] = i;
            hits.shell[count] = in.species[i] * in.n_shells + (shell < in.n_shells ? shell : in.n_shells - 1);
            hits.x[count] = dx;
            hits.y[count] = dy;
            hits.z[count] = dz;
            nearest = within && squared < nearest ? squared : nearest;
            count += within; // without a branch: a third of the candidates hit, unpredictably
        }
    *nearest_squared = nearest;
#endif
    return count;
}

void normalize(int count, double* __restrict x, double* __restrict y, double* __restrict z, double* __restrict r,
               double* __restrict inverse_r) {
    for (int i = 0; i < count; ++i) r[i] = __builtin_sqrt(x[i] * x[i] + y[i] * y[i] + z[i] * z[i]);
    for (int i = 0; i < count; ++i) {
        inverse_r[i] = 1.0 / r[i];
        x[i] *= inverse_r[i];
        y[i] *= inverse_r[i];
        z[i] *= inverse_r[i];
    }
}

// ---- radial table --------------------------------------------------------------------------------------------------

/// Neighbors that go through the pipeline together; their harmonics and radial rows stay in the first-level cache.
constexpr int batch = 32;

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

// ---- spherical harmonics: lanes are neighbors ----------------------------------------------------------------------

constexpr int max_harmonics = (max_l + 1) * (max_l + 1);

/// Y[(l^2 + l + m) * batch + lane]; L < 0: degree known at run time only.
template <int L>
void harmonics(const BasisView& basis, const double* px, const double* py, const double* pz, double* Y) {
    const int l_max = L >= 0 ? L : basis.l_max;
    const HarmonicConstants& k = *basis.harmonics;
    const Lanes x = load_lanes(px), y = load_lanes(py), z = load_lanes(pz);
    Lanes cosine = zero<lanes>() + 1.0, sine = zero<lanes>(); // Re and Im of (x + iy)^m
    for (int m = 0; m <= l_max; ++m) {
        if (m > 0) {
            const Lanes next = cosine * x - sine * y;
            sine = cosine * y + sine * x;
            cosine = next;
        }
        Lanes below = zero<lanes>(), p = zero<lanes>() + k.start[m];
        for (int l = m; l <= l_max; ++l) {
            if (l > m) {
                const Lanes next = k.up[l][m] * z * p - k.back[l][m] * below;
                below = p;
                p = next;
            }
            double* center = Y + (l * l + l) * batch;
            store<lanes>(center + m * batch, p * cosine);
            if (m > 0) store<lanes>(center - m * batch, p * sine);
        }
    }
}

/// From a = dL/dY_lm and b = dL/dr's share per harmonic (both (harmonic, lane)) to dL/d(position).
template <int L>
void harmonics_adjoint(const BasisView& basis, const double* px, const double* py, const double* pz,
                       const double* p_inverse_r, const double* a, const double* b, double* gx, double* gy,
                       double* gz) {
    const int l_max = L >= 0 ? L : basis.l_max;
    constexpr int size = (L >= 0 ? L : max_l) + 2;
    const HarmonicConstants& k = *basis.harmonics;
    const Lanes x = load_lanes(px), y = load_lanes(py), z = load_lanes(pz), inverse_r = load_lanes(p_inverse_r);
    Lanes sx = zero<lanes>(), sy = sx, sz = sx, radial = sx;
    Lanes cosine = zero<lanes>() + 1.0, sine = zero<lanes>(), cosine_below = sine, sine_below = sine;
    Lanes pi[size], pi_next[size]; // Pi_l^m and Pi_l^{m+1}, l = 0 ... l_max
    auto associated = [&](int m, Lanes* out) {
        for (int l = 0; l < m && l <= l_max; ++l) out[l] = zero<lanes>();
        if (m > l_max) return;
        out[m] = zero<lanes>() + k.start[m];
        for (int l = m + 1; l <= l_max; ++l) {
            out[l] = k.up[l][m] * z * out[l - 1];
            if (l > m + 1) out[l] -= k.back[l][m] * out[l - 2];
        }
    };
    associated(0, pi);
    for (int m = 0; m <= l_max; ++m) {
        associated(m + 1, pi_next);
        if (m > 0) {
            cosine_below = cosine;
            sine_below = sine;
            const Lanes next = cosine * x - sine * y;
            sine = cosine * y + sine * x;
            cosine = next;
        }
        Lanes tc = zero<lanes>(), ts = tc, uc = tc, us = tc, rc = tc, rs = tc;
        for (int l = m; l <= l_max; ++l) {
            const int plus = (l * l + l + m) * lanes, minus = (l * l + l - m) * lanes;
            const Lanes slope = k.slope[l][m] * pi_next[l];
            const Lanes ac = load_lanes(a + plus);
            tc += ac * pi[l];
            uc += ac * slope;
            rc += load_lanes(b + plus) * pi[l];
            if (m > 0) {
                const Lanes as = load_lanes(a + minus);
                ts += as * pi[l];
                us += as * slope;
                rs += load_lanes(b + minus) * pi[l];
            }
        }
        if (m > 0) {
            sx += double(m) * (tc * cosine_below + ts * sine_below);
            sy += double(m) * (ts * cosine_below - tc * sine_below);
        }
        sz += uc * cosine + us * sine;
        radial += rc * cosine + rs * sine;
        for (int l = 0; l <= l_max; ++l) pi[l] = pi_next[l];
    }
    const Lanes along = radial - (sx * x + sy * y + sz * z) * inverse_r;
    store<lanes>(gx, along * x + sx * inverse_r);
    store<lanes>(gy, along * y + sy * inverse_r);
    store<lanes>(gz, along * z + sz * inverse_r);
}

using HarmonicsFunction = void (*)(const BasisView&, const double*, const double*, const double*, double*);
using HarmonicsAdjointFunction = void (*)(const BasisView&, const double*, const double*, const double*, const double*,
                                          const double*, const double*, double*, double*, double*);

HarmonicsFunction harmonics_for(int l_max) {
    switch (l_max) {
    case 3: return harmonics<3>;
    case 4: return harmonics<4>;
    case 6: return harmonics<6>;
    case 8: return harmonics<8>;
    default: return harmonics<-1>;
    }
}

HarmonicsAdjointFunction harmonics_adjoint_for(int l_max) {
    switch (l_max) {
    case 3: return harmonics_adjoint<3>;
    case 4: return harmonics_adjoint<4>;
    case 6: return harmonics_adjoint<6>;
    case 8: return harmonics_adjoint<8>;
    default: return harmonics_adjoint<-1>;
    }
}

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

// ---- expansion coefficients ----------------------------------------------------------------------------------------

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

void reduce(const NeighborView& in, const double* gx, const double* gy, const double* gz, double* total,
            double* strain) {
    double x = 0, y = 0, z = 0, xx = 0, yy = 0, zz = 0, yz = 0, xz = 0, xy = 0;
    for (int j = 0; j < in.count; ++j) {
        const double r = in.r[j], dx = in.x[j] * r, dy = in.y[j] * r, dz = in.z[j] * r;
        x += gx[j];
        y += gy[j];
        z += gz[j];
        xx += dx * gx[j];
        yy += dy * gy[j];
        zz += dz * gz[j];
        yz += dy * gz[j] + dz * gy[j];
        xz += dx * gz[j] + dz * gx[j];
        xy += dx * gy[j] + dy * gx[j];
    }
    const double sums[9] = {x, y, z, xx, yy, zz, 0.5 * yz, 0.5 * xz, 0.5 * xy};
    for (int k = 0; k < 3; ++k) total[k] = sums[k];
    for (int k = 0; k < 6; ++k) strain[k] = sums[3 + k];
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
    static const BasisKernels table{expand<NP>, combine, power_spectrum<NP>, power_spectrum_adjoint<NP>, expand_adjoint<NP>};
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
