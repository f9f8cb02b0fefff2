// What M3GNet's blocks are made of: products, activations, what edges look like (equations: kernel_model.hpp).
#pragma once

#include "kernel_model.hpp"

#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include <math.h>
#include <string.h>

namespace ideal::detail {
namespace {

constexpr int float_lanes = 2 * IDEAL_LANES;
typedef float FloatVector __attribute__((vector_size(4 * float_lanes), aligned(4), may_alias));

// ---- products --------------------------------------------------------------------------------------------------------

/// `rows` rows of y, `columns` vectors of them from column `first` on. Weights lie in panels (kernel_model.hpp).
template <int rows, int columns>
inline void product_block(const float* x, int ldx, const float* w, int in, int first, const float* bias, bool add,
                          float* y, int ldy) {
    FloatVector sum[rows][columns];
    const float* panel[columns];
#pragma GCC unroll 4
    for (int c = 0; c < columns; ++c) {
        const int column = first + c * float_lanes;
        panel[c] = w + static_cast<size_t>(column / model_pad) * in * model_pad + column % model_pad;
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < columns; ++c) {
            sum[r][c] = FloatVector{};
            if (bias) sum[r][c] += *reinterpret_cast<const FloatVector*>(bias + c * float_lanes);
            if (add) sum[r][c] += *reinterpret_cast<const FloatVector*>(y + r * ldy + c * float_lanes);
        }
    for (int k = 0; k < in; ++k) {
        FloatVector weight[columns];
#pragma GCC unroll 4
        for (int c = 0; c < columns; ++c)
            weight[c] = *reinterpret_cast<const FloatVector*>(panel[c] + static_cast<size_t>(k) * model_pad);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
            for (int c = 0; c < columns; ++c) sum[r][c] += x[r * ldx + k] * weight[c];
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < columns; ++c) *reinterpret_cast<FloatVector*>(y + r * ldy + c * float_lanes) = sum[r][c];
}

template <int columns>
inline void product_columns(int n, const float* x, int ldx, const float* w, int in, int first, const float* bias,
                            bool add, float* y, int ldy) {
    constexpr int rows = IDEAL_VECTOR_REGISTERS >= 32 ? 8 : 4;
    if (bias) bias += first;
    y += first;
    int i = 0;
    for (; i + rows <= n; i += rows)
        product_block<rows, columns>(x + static_cast<size_t>(i) * ldx, ldx, w, in, first, bias, add,
                                     y + static_cast<size_t>(i) * ldy, ldy);
    for (; i < n; ++i)
        product_block<1, columns>(x + static_cast<size_t>(i) * ldx, ldx, w, in, first, bias, add,
                                  y + static_cast<size_t>(i) * ldy, ldy);
}

void multiply(int n, const float* x, int ldx, const float* w, int in, int out, const float* bias, bool add, float* y,
              int ldy) {
    constexpr int wide = 2 * float_lanes;
    int column = 0;
    for (; column + wide <= out; column += wide) product_columns<2>(n, x, ldx, w, in, column, bias, add, y, ldy);
    for (; column < out; column += float_lanes) product_columns<1>(n, x, ldx, w, in, column, bias, add, y, ldy);
}

inline void forward_product(int n, const float* x, int ldx, const Matrix& m, const float* bias, float* y, int ldy) {
    multiply(n, x, ldx, m.w, m.in, m.out, bias, false, y, ldy);
}

inline void backward_product(int n, const float* g, int ldg, const Matrix& m, bool add, float* y, int ldy) {
    multiply(n, g, ldg, m.transposed, m.out, m.in, nullptr, add, y, ldy);
}

// ---- activations -----------------------------------------------------------------------------------------------------

typedef int IntVector __attribute__((vector_size(4 * float_lanes)));

inline FloatVector at_vector(const float* p) { return *reinterpret_cast<const FloatVector*>(p); }
inline void set_vector(float* p, FloatVector v) { *reinterpret_cast<FloatVector*>(p) = v; }

// Intrinsics with a mask of ones: GCC 12 warns of uninitialized values in those without.

/// e^x to two units in the last place, |x| < 87 (beyond that as if it were 87).
inline FloatVector exponential(FloatVector x) {
    const FloatVector most = FloatVector{} + 87.0f;
    x = x < -most ? -most : x > most ? most : x;
    const FloatVector t = x * 1.44269504f;
#ifdef __AVX512F__
    const FloatVector whole = _mm512_maskz_roundscale_ps(0xFFFF, t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    const FloatVector half = FloatVector{} + 0.5f;
    const IntVector n = __builtin_convertvector(t + (t < 0.0f ? -half : half), IntVector);
    const FloatVector whole = __builtin_convertvector(n, FloatVector);
#endif
    const FloatVector f = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    FloatVector p = FloatVector{} + 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
#ifdef __AVX512F__
    return _mm512_maskz_scalef_ps(0xFFFF, p, whole);
#else
    const IntVector bits = (n + 127) << 23;
    FloatVector scale;
    memcpy(&scale, &bits, sizeof(scale));
    return p * scale;
#endif
}

/// 1 / x to a unit in the last place; a division takes as long as an exponential.
inline FloatVector reciprocal(FloatVector x) {
#ifdef __AVX512F__
    const FloatVector r = _mm512_maskz_rcp14_ps(0xFFFF, x);
    return r * (2.0f - x * r);
#else
    return 1.0f / x;
#endif
}

inline FloatVector sigmoid_of(FloatVector x) { return reciprocal(1.0f + exponential(-x)); }
inline float sigmoid_of(float x) { return sigmoid_of(FloatVector{} + x)[0]; }

/// n is a multiple of model_pad, here and below.
void sigmoid(size_t n, const float* x, float* y) {
    for (size_t i = 0; i < n; i += float_lanes) set_vector(y + i, sigmoid_of(at_vector(x + i)));
}

/// z -> s = sigmoid(z), h = z s.
void silu(size_t n, const float* z, float* s, float* h) {
    for (size_t i = 0; i < n; i += float_lanes) {
        const FloatVector x = at_vector(z + i), value = sigmoid_of(x);
        set_vector(s + i, value);
        set_vector(h + i, x * value);
    }
}

/// g *= silu'(z).
void silu_adjoint(size_t n, const float* z, const float* s, float* g) {
    for (size_t i = 0; i < n; ++i) g[i] *= s[i] * (1.0f + z[i] * (1.0f - s[i]));
}

// ---- radial functions and harmonics ------------------------------------------------------------------------------------

struct Take {
    float* at;
    float* operator()(size_t n) {
        float* found = at;
        at += (n + 15) / 16 * 16;
        return found;
    }
};

/// What a chunk's edges look like; near: those within the three-body cutoff.
struct Geometry {
    float *r, *direction;                // (edges), (edges, 3)
    float *bond, *bond_slope;            // (edges, B)
    int n_near;
    int *near, *near_first;              // (near), (atoms + 1)
    float *envelope, *envelope_slope;    // (near)
    float *radial, *radial_slope;        // (near, A), envelope included
    float* harmonics;                    // (near, 16)
};

size_t geometry_size(const ModelView& m, int atoms, int edges) {
    return static_cast<size_t>(edges) * (4 + 2 * m.bond_width + 3 + 2 * m.angle_width + 16) + atoms + 1 + 10 * 16;
}

Geometry take_geometry(const ModelView& m, int atoms, int edges, Take& take) {
    const size_t n = edges;
    Geometry g{};
    g.r = take(n);
    g.direction = take(3 * n);
    g.bond = take(n * m.bond_width);
    g.bond_slope = take(n * m.bond_width);
    g.near = reinterpret_cast<int*>(take(n));
    g.near_first = reinterpret_cast<int*>(take(atoms + 1));
    g.envelope = take(n);
    g.envelope_slope = take(n);
    g.radial = take(n * m.angle_width);
    g.radial_slope = take(n * m.angle_width);
    g.harmonics = take(n * 16);
    return g;
}

constexpr double a2 = 1.7320508075688772, a3 = 0.7905694150420949, b3 = 3.872983346207417, c3 = 0.6123724356957945;

/// Real harmonics in Racah's normalization, l < l_max <= 4, of a unit vector.
inline void harmonics(int l_max, float x, float y, float z, float* out) {
    out[0] = 1;
    if (l_max > 1) {
        out[1] = x;
        out[2] = y;
        out[3] = z;
    }
    const float s3 = static_cast<float>(a2);
    if (l_max > 2) {
        out[4] = s3 * x * y;
        out[5] = s3 * y * z;
        out[6] = 1.5f * z * z - 0.5f;
        out[7] = s3 * x * z;
        out[8] = 0.5f * s3 * (x * x - y * y);
    }
    if (l_max > 3) {
        const float a = static_cast<float>(a3), b = static_cast<float>(b3), c = static_cast<float>(c3);
        out[9] = a * y * (3 * x * x - y * y);
        out[10] = b * x * y * z;
        out[11] = c * y * (5 * z * z - 1);
        out[12] = 0.5f * z * (5 * z * z - 3);
        out[13] = c * x * (5 * z * z - 1);
        out[14] = 0.5f * b * z * (x * x - y * y);
        out[15] = a * x * (x * x - 3 * y * y);
    }
}

/// sum_m g_m grad Y_m as functions of x, y, z taken independent.
inline void harmonics_adjoint(int l_max, float x, float y, float z, const float* g, float* out) {
    float gx = 0, gy = 0, gz = 0;
    if (l_max > 1) {
        gx += g[1];
        gy += g[2];
        gz += g[3];
    }
    const float s3 = static_cast<float>(a2);
    if (l_max > 2) {
        gx += s3 * (y * g[4] + z * g[7] + x * g[8]);
        gy += s3 * (x * g[4] + z * g[5] - y * g[8]);
        gz += s3 * (y * g[5] + x * g[7]) + 3 * z * g[6];
    }
    if (l_max > 3) {
        const float a = static_cast<float>(a3), b = static_cast<float>(b3), c = static_cast<float>(c3);
        gx += a * 6 * x * y * g[9] + b * y * z * g[10] + c * (5 * z * z - 1) * g[13] + b * z * x * g[14] +
              a * (3 * x * x - 3 * y * y) * g[15];
        gy += a * (3 * x * x - 3 * y * y) * g[9] + b * x * z * g[10] + c * (5 * z * z - 1) * g[11] - b * z * y * g[14] -
              a * 6 * x * y * g[15];
        gz += b * x * y * g[10] + c * 10 * y * z * g[11] + 0.5f * (15 * z * z - 3) * g[12] + c * 10 * x * z * g[13] +
              0.5f * b * (x * x - y * y) * g[14];
    }
    out[0] = gx;
    out[1] = gy;
    out[2] = gz;
}

/// Rows of a constant matrix times waves and their slopes.
inline void radial_row(int n_waves, int width, const double* matrix, const double* wave, const double* slope,
                       float* value, float* derivative) {
    double sum[32], sum_slope[32];
    for (int n = 0; n < width; ++n) sum[n] = sum_slope[n] = 0;
    for (int k = 0; k < n_waves; ++k)
        for (int n = 0; n < width; ++n) {
            sum[n] += wave[k] * matrix[k * width + n];
            sum_slope[n] += slope[k] * matrix[k * width + n];
        }
    for (int n = 0; n < width; ++n) {
        value[n] = static_cast<float>(sum[n]);
        derivative[n] = static_cast<float>(sum_slope[n]);
    }
}

void fill_geometry(const ModelView& m, const ModelChunk& chunk, Geometry& g) {
    const int n_waves = m.n_angle + 1;
    const double unit = 3.14159265358979323846 / m.cutoff;
    g.n_near = 0;
    int edge = 0;
    for (int i = 0; i < chunk.n_atoms; ++i) {
        const double* center = chunk.positions + 3 * static_cast<size_t>(chunk.first_atom + i);
        const int end = static_cast<int>(chunk.first_edge[i + 1] - chunk.first_edge[0]);
        g.near_first[i] = g.n_near;
        for (; edge < end; ++edge) {
            const double* other = chunk.positions + 3 * static_cast<size_t>(chunk.target[edge]);
            const double d[3] = {other[0] - center[0], other[1] - center[1], other[2] - center[2]};
            const double r = sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]), inverse = 1 / r;
            g.r[edge] = static_cast<float>(r);
            for (int k = 0; k < 3; ++k) g.direction[3 * edge + k] = static_cast<float>(d[k] * inverse);
            const double s1 = sin(unit * r), c1 = cos(unit * r);
            double wave[model_most_waves], slope[model_most_waves];
            double s = s1, c = c1;
            for (int k = 0; k < n_waves; ++k) {
                wave[k] = s * inverse;
                slope[k] = ((k + 1) * unit * c - wave[k]) * inverse;
                const double next = s * c1 + c * s1;
                c = c * c1 - s * s1;
                s = next;
            }
            radial_row(m.n_bond + 1, m.bond_width, m.bond_matrix, wave, slope, g.bond + static_cast<size_t>(edge) * m.bond_width,
                       g.bond_slope + static_cast<size_t>(edge) * m.bond_width);
            if (r > m.threebody_cutoff) continue;
            const int at = g.n_near++;
            g.near[at] = edge;
            const double q = r / m.threebody_cutoff;
            const double f = 1 + q * q * q * (-10 + q * (15 - 6 * q));
            const double f_slope = -30 * q * q * (1 - q) * (1 - q) / m.threebody_cutoff;
            g.envelope[at] = static_cast<float>(f);
            g.envelope_slope[at] = static_cast<float>(f_slope);
            float* value = g.radial + static_cast<size_t>(at) * m.angle_width;
            float* derivative = g.radial_slope + static_cast<size_t>(at) * m.angle_width;
            radial_row(n_waves, m.angle_width, m.angle_matrix, wave, slope, value, derivative);
            for (int n = 0; n < m.angle_width; ++n) {
                derivative[n] = static_cast<float>(derivative[n] * f + value[n] * f_slope);
                value[n] = static_cast<float>(value[n] * f);
            }
            const float* u = g.direction + 3 * static_cast<size_t>(edge);
            harmonics(m.l_max, u[0], u[1], u[2], g.harmonics + static_cast<size_t>(at) * 16);
        }
    }
    g.near_first[chunk.n_atoms] = g.n_near;
}

inline float harmonic_norm(int l) { return static_cast<float>(sqrt((2 * l + 1) / (4 * 3.14159265358979323846))); }

/// Columns (l, n, m) of the three-body sum.
inline int n_columns(const ModelView& m) { return m.n_max * m.l_max * m.l_max; }

} // namespace
} // namespace ideal::detail
