// M3GNet's kernels (equations: kernel_model.hpp). Included by kernel_impl.hpp.
#pragma once

#include "kernel_model.hpp"

#include <math.h>
#include <string.h>

namespace ideal::detail {
namespace {

constexpr int float_lanes = 2 * IDEAL_LANES;
typedef float FloatVector __attribute__((vector_size(4 * float_lanes), aligned(4), may_alias));

// ---- products --------------------------------------------------------------------------------------------------------

template <int rows, int columns>
inline void product_block(const float* x, int ldx, const float* w, int in, int out, const float* bias, bool add,
                          float* y, int ldy) {
    FloatVector sum[rows][columns];
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
            weight[c] = *reinterpret_cast<const FloatVector*>(w + static_cast<size_t>(k) * out + c * float_lanes);
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
inline void product_columns(int n, const float* x, int ldx, const float* w, int in, int out, const float* bias,
                            bool add, float* y, int ldy) {
    constexpr int rows = IDEAL_VECTOR_REGISTERS >= 32 ? 8 : 4;
    int i = 0;
    for (; i + rows <= n; i += rows)
        product_block<rows, columns>(x + static_cast<size_t>(i) * ldx, ldx, w, in, out, bias, add,
                                     y + static_cast<size_t>(i) * ldy, ldy);
    for (; i < n; ++i)
        product_block<1, columns>(x + static_cast<size_t>(i) * ldx, ldx, w, in, out, bias, add,
                                  y + static_cast<size_t>(i) * ldy, ldy);
}

void multiply(int n, const float* x, int ldx, const float* w, int in, int out, const float* bias, bool add, float* y,
              int ldy) {
    constexpr int wide = 2 * float_lanes;
    int column = 0;
    for (; column + wide <= out; column += wide)
        product_columns<2>(n, x, ldx, w + column, in, out, bias ? bias + column : nullptr, add, y + column, ldy);
    for (; column < out; column += float_lanes)
        product_columns<1>(n, x, ldx, w + column, in, out, bias ? bias + column : nullptr, add, y + column, ldy);
}

inline void forward_product(int n, const float* x, int ldx, const Matrix& m, const float* bias, float* y, int ldy) {
    multiply(n, x, ldx, m.w, m.in, m.out, bias, false, y, ldy);
}

inline void backward_product(int n, const float* g, int ldg, const Matrix& m, bool add, float* y, int ldy) {
    multiply(n, g, ldg, m.transposed, m.out, m.in, nullptr, add, y, ldy);
}

// ---- activations -----------------------------------------------------------------------------------------------------

/// e^x to two units in the last place, |x| < 87.
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 87.0f ? 87.0f : x;
    const float t = x * 1.44269504f;
    const int n = static_cast<int>(t + (t < 0 ? -0.5f : 0.5f));
    const float whole = static_cast<float>(n);
    const float f = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    const int bits = (n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

void sigmoid(size_t n, const float* x, float* y) {
    for (size_t i = 0; i < n; ++i) y[i] = 1.0f / (1.0f + exponential(-x[i]));
}

/// z -> s = sigmoid(z), h = z s.
void silu(size_t n, const float* z, float* s, float* h) {
    for (size_t i = 0; i < n; ++i) {
        const float value = 1.0f / (1.0f + exponential(-z[i]));
        s[i] = value;
        h[i] = z[i] * value;
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

// ---- one block ---------------------------------------------------------------------------------------------------------

/// Intermediates of a gated network on edges; z: before, s: sigmoid, h: behind the activation, all (edges, 2 U).
struct Gated {
    float *z1, *s1, *h1, *z2, *s2, *h2, *z3, *s3, *h3; // h3: value z s and gate s
    float* weight;                                      // (edges, U)
};

/// A forward pass needs no more than two arrays at a time, a backward pass all.
Gated take_gated(int u, size_t n, bool keep, Take& take) {
    Gated g{};
    const size_t size = n * 2 * u;
    g.z1 = take(size);
    g.s1 = take(size);
    g.h1 = take(size);
    g.z2 = keep ? take(size) : g.z1;
    g.s2 = keep ? take(size) : g.s1;
    g.h2 = keep ? take(size) : g.h1;
    g.z3 = keep ? take(size) : g.z1;
    g.s3 = keep ? take(size) : g.s1;
    g.h3 = keep ? take(size) : g.h1;
    g.weight = take(n * u);
    return g;
}

/// message (edges, U) = (b W) value gate.
void gated_forward(const ModelView& m, const GatedView& net, const ModelChunk& chunk, const Geometry& geometry,
                   const float* from_source, int part, const float* edges, const Gated& g, float* message) {
    const int u = m.units, n = chunk.n_edges;
    forward_product(n, edges, u, net.edge, nullptr, g.z1, 2 * u);
    int edge = 0;
    for (int i = 0; i < chunk.n_atoms; ++i) {
        const float* source = from_source + static_cast<size_t>(i) * 4 * u + part;
        const int end = static_cast<int>(chunk.first_edge[i + 1] - chunk.first_edge[0]);
        for (; edge < end; ++edge) {
            const float* target = chunk.from_target + static_cast<size_t>(chunk.target[edge]) * 4 * u + part;
            float* z = g.z1 + static_cast<size_t>(edge) * 2 * u;
            for (int k = 0; k < 2 * u; ++k) z[k] += source[k] + target[k];
        }
    }
    const size_t size = static_cast<size_t>(n) * 2 * u;
    silu(size, g.z1, g.s1, g.h1);
    forward_product(n, g.h1, 2 * u, net.value2, net.bias2, g.z2, 2 * u);
    forward_product(n, g.h1 + u, 2 * u, net.gate2, net.bias2 + u, g.z2 + u, 2 * u);
    silu(size, g.z2, g.s2, g.h2);
    forward_product(n, g.h2, 2 * u, net.value3, net.bias3, g.z3, 2 * u);
    forward_product(n, g.h2 + u, 2 * u, net.gate3, net.bias3 + u, g.z3 + u, 2 * u);
    silu(size, g.z3, g.s3, g.h3);
    forward_product(n, geometry.bond, m.bond_width, net.radial, nullptr, g.weight, u);
    for (int e = 0; e < n; ++e) {
        const float* value = g.h3 + static_cast<size_t>(e) * 2 * u;
        const float* gate = g.s3 + static_cast<size_t>(e) * 2 * u + u;
        const float* weight = g.weight + static_cast<size_t>(e) * u;
        float* out = message + static_cast<size_t>(e) * u;
        for (int k = 0; k < u; ++k) out[k] = weight[k] * value[k] * gate[k];
    }
}

/// From dL/d(message) (edges, U): adds to dL/d(edges), to those of source and target, and to dL/d(bond).
void gated_backward(const ModelView& m, const GatedView& net, const ModelChunk& chunk, const Gated& g,
                    const float* message_gradient, int part, float* edges_gradient, float* source_gradient,
                    float* target_gradient, float* bond_gradient, float* work, float* work2) {
    const int u = m.units, n = chunk.n_edges;
    const size_t size = static_cast<size_t>(n) * 2 * u;
    for (int e = 0; e < n; ++e) {
        const float* value = g.h3 + static_cast<size_t>(e) * 2 * u;
        const float* gate = g.s3 + static_cast<size_t>(e) * 2 * u + u;
        const float* z = g.z3 + static_cast<size_t>(e) * 2 * u;
        const float* s = g.s3 + static_cast<size_t>(e) * 2 * u;
        float* weight = g.weight + static_cast<size_t>(e) * u;
        const float* in = message_gradient + static_cast<size_t>(e) * u;
        float* out = work + static_cast<size_t>(e) * 2 * u;
        for (int k = 0; k < u; ++k) {
            out[k] = in[k] * weight[k] * gate[k] * s[k] * (1.0f + z[k] * (1.0f - s[k]));
            out[u + k] = in[k] * weight[k] * value[k] * gate[k] * (1.0f - gate[k]);
            weight[k] = in[k] * value[k] * gate[k]; // dL/d(weight) takes its place
        }
    }
    backward_product(n, g.weight, u, net.radial, true, bond_gradient, m.bond_width);
    backward_product(n, work, 2 * u, net.value3, false, work2, 2 * u);
    backward_product(n, work + u, 2 * u, net.gate3, false, work2 + u, 2 * u);
    silu_adjoint(size, g.z2, g.s2, work2);
    backward_product(n, work2, 2 * u, net.value2, false, work, 2 * u);
    backward_product(n, work2 + u, 2 * u, net.gate2, false, work + u, 2 * u);
    silu_adjoint(size, g.z1, g.s1, work);
    backward_product(n, work, 2 * u, net.edge, true, edges_gradient, u);
    int edge = 0;
    for (int i = 0; i < chunk.n_atoms; ++i) {
        float* source = source_gradient + static_cast<size_t>(i) * 4 * u + part;
        const int end = static_cast<int>(chunk.first_edge[i + 1] - chunk.first_edge[0]);
        for (; edge < end; ++edge) {
            float* target = target_gradient + static_cast<size_t>(chunk.target[edge]) * 4 * u + part;
            const float* z = work + static_cast<size_t>(edge) * 2 * u;
            for (int k = 0; k < 2 * u; ++k) {
                source[k] += z[k];
                target[k] += z[k];
            }
        }
    }
}

/// Everything up to the messages of a block.
struct BlockState {
    Geometry geometry;
    float* from_source;                     // (atoms, 4 U)
    float *embedding_z, *embedding_s;       // (edges, U) where edges come from the embedding
    float *edges0, *edges1, *edges2;        // (edges, U) before, behind the three-body term, behind the edge update
    float *sums;                            // (atoms, columns)
    float *weighted, *raw, *angle;          // (near, A): g a; N [sum - g a]; t
    float *angle_z, *angle_s, *angle_h;     // (near, 2 U)
    Gated edge, node;
    float* message;                         // (edges, U)
};

size_t state_size(const ModelView& m, int atoms, int edges) {
    const size_t u = m.units, n = edges;
    return geometry_size(m, atoms, edges) + atoms * (4 * u + n_columns(m)) +
           n * (2 * u + 3 * u + 3 * m.angle_width + 6 * u + 2 * 19 * u + u) + 60 * 16;
}

BlockState take_state(const ModelView& m, int atoms, int edges, bool keep, Take& take) {
    const size_t u = m.units, n = edges;
    BlockState s{};
    s.geometry = take_geometry(m, atoms, edges, take);
    s.from_source = take(atoms * 4 * u);
    s.embedding_z = take(n * u);
    s.embedding_s = take(n * u);
    s.edges0 = take(n * u);
    s.edges1 = take(n * u);
    s.edges2 = take(n * u);
    s.sums = take(static_cast<size_t>(atoms) * n_columns(m));
    s.weighted = take(n * m.angle_width);
    s.raw = take(n * m.angle_width);
    s.angle = take(n * m.angle_width);
    s.angle_z = take(n * 2 * u);
    s.angle_s = take(n * 2 * u);
    s.angle_h = take(n * 2 * u);
    s.edge = take_gated(m.units, n, keep, take);
    s.node = take_gated(m.units, n, keep, take);
    s.message = take(n * u);
    return s;
}

void three_body(const ModelView& m, const BlockView& block, const ModelChunk& chunk, BlockState& s) {
    const Geometry& g = s.geometry;
    const int u = m.units, width = m.angle_width, columns = n_columns(m);
    memset(s.sums, 0, sizeof(float) * static_cast<size_t>(chunk.n_atoms) * columns);
    for (int i = 0; i < chunk.n_atoms; ++i) {
        float* sums = s.sums + static_cast<size_t>(i) * columns;
        for (int at = g.near_first[i]; at < g.near_first[i + 1]; ++at) {
            const float* a = chunk.atoms + static_cast<size_t>(chunk.target[g.near[at]]) * width;
            const float* radial = g.radial + static_cast<size_t>(at) * width;
            const float* y = g.harmonics + static_cast<size_t>(at) * 16;
            float* weighted = s.weighted + static_cast<size_t>(at) * width;
            for (int q = 0; q < width; ++q) weighted[q] = radial[q] * a[q];
            float* out = sums;
            for (int l = 0; l < m.l_max; ++l)
                for (int n = 0; n < m.n_max; ++n) {
                    const float w = weighted[l * m.n_max + n];
                    for (int k = 0; k < 2 * l + 1; ++k) *out++ += w * y[l * l + k];
                }
        }
        for (int at = g.near_first[i]; at < g.near_first[i + 1]; ++at) {
            const float* y = g.harmonics + static_cast<size_t>(at) * 16;
            const float* weighted = s.weighted + static_cast<size_t>(at) * width;
            float* raw = s.raw + static_cast<size_t>(at) * width;
            float* angle = s.angle + static_cast<size_t>(at) * width;
            for (int q = 0; q < width; ++q) raw[q] = angle[q] = 0;
            const float* in = sums;
            for (int l = 0; l < m.l_max; ++l)
                for (int n = 0; n < m.n_max; ++n) {
                    const int q = l * m.n_max + n;
                    float sum = -weighted[q];
                    for (int k = 0; k < 2 * l + 1; ++k) sum += *in++ * y[l * l + k];
                    raw[q] = harmonic_norm(l) * sum;
                    angle[q] = raw[q] * g.envelope[at];
                }
        }
    }
    forward_product(g.n_near, s.angle, width, block.angle, nullptr, s.angle_z, 2 * u);
    silu(static_cast<size_t>(g.n_near) * 2 * u, s.angle_z, s.angle_s, s.angle_h);
    memcpy(s.edges1, s.edges0, sizeof(float) * static_cast<size_t>(chunk.n_edges) * u);
    for (int at = 0; at < g.n_near; ++at) {
        float* e = s.edges1 + static_cast<size_t>(g.near[at]) * u;
        const float* value = s.angle_h + static_cast<size_t>(at) * 2 * u;
        const float* gate = s.angle_s + static_cast<size_t>(at) * 2 * u + u;
        for (int k = 0; k < u; ++k) e[k] += value[k] * gate[k];
    }
}

void up_to_messages(const ModelView& m, const BlockView& block, const ModelChunk& chunk, BlockState& s) {
    const int u = m.units, n = chunk.n_edges;
    const size_t size = static_cast<size_t>(n) * u;
    fill_geometry(m, chunk, s.geometry);
    forward_product(chunk.n_atoms, chunk.nodes + static_cast<size_t>(chunk.first_atom) * u, u, block.source,
                    block.source_bias, s.from_source, 4 * u);
    if (chunk.edges) {
        memcpy(s.edges0, chunk.edges, sizeof(float) * size);
    } else {
        forward_product(n, s.geometry.bond, m.bond_width, m.embedding, m.embedding_bias, s.embedding_z, u);
        silu(size, s.embedding_z, s.embedding_s, s.edges0);
    }
    three_body(m, block, chunk, s);
    gated_forward(m, block.edge_update, chunk, s.geometry, s.from_source, 0, s.edges1, s.edge, s.message);
    for (size_t k = 0; k < size; ++k) s.edges2[k] = s.edges1[k] + s.message[k];
    gated_forward(m, block.node_update, chunk, s.geometry, s.from_source, 2 * u, s.edges2, s.node, s.message);
}

void forward(const ModelView& m, const BlockView& block, const ModelChunk& chunk, float* new_nodes, float* new_edges,
             float* scratch) {
    Take take{scratch};
    BlockState s = take_state(m, chunk.n_atoms, chunk.n_edges, false, take);
    up_to_messages(m, block, chunk, s);
    const int u = m.units;
    if (new_edges) memcpy(new_edges, s.edges2, sizeof(float) * static_cast<size_t>(chunk.n_edges) * u);
    int edge = 0;
    for (int i = 0; i < chunk.n_atoms; ++i) {
        const size_t row = static_cast<size_t>(chunk.first_atom + i) * u;
        float* out = new_nodes + row;
        for (int k = 0; k < u; ++k) out[k] = 0;
        const int end = static_cast<int>(chunk.first_edge[i + 1] - chunk.first_edge[0]);
        for (; edge < end; ++edge)
            for (int k = 0; k < u; ++k) out[k] += s.message[static_cast<size_t>(edge) * u + k];
        for (int k = 0; k < u; ++k) out[k] += chunk.nodes[row + k];
    }
}

// ---- backward ----------------------------------------------------------------------------------------------------------

/// From dL/d(edges behind the three-body term): adds to those of a, and to r and direction of near edges.
void three_body_backward(const ModelView& m, const BlockView& block, const ModelChunk& chunk, const BlockState& s,
                         const float* edges_gradient, float* work, float* angle_gradient, float* sums_gradient,
                         float* weighted_gradient, float* atoms_gradient, float* r_gradient, float* direction_gradient) {
    const Geometry& g = s.geometry;
    const int u = m.units, width = m.angle_width, columns = n_columns(m);
    for (int at = 0; at < g.n_near; ++at) {
        const float* in = edges_gradient + static_cast<size_t>(g.near[at]) * u;
        const float* z = s.angle_z + static_cast<size_t>(at) * 2 * u;
        const float* sg = s.angle_s + static_cast<size_t>(at) * 2 * u;
        const float* h = s.angle_h + static_cast<size_t>(at) * 2 * u;
        float* out = work + static_cast<size_t>(at) * 2 * u;
        for (int k = 0; k < u; ++k) {
            const float gate = sg[u + k];
            out[k] = in[k] * gate * sg[k] * (1.0f + z[k] * (1.0f - sg[k]));
            out[u + k] = in[k] * h[k] * gate * (1.0f - gate);
        }
    }
    backward_product(g.n_near, work, 2 * u, block.angle, false, angle_gradient, width);
    memset(sums_gradient, 0, sizeof(float) * static_cast<size_t>(chunk.n_atoms) * columns);
    float y_gradient[16];
    for (int i = 0; i < chunk.n_atoms; ++i) {
        const float* sums = s.sums + static_cast<size_t>(i) * columns;
        float* sums_out = sums_gradient + static_cast<size_t>(i) * columns;
        for (int at = g.near_first[i]; at < g.near_first[i + 1]; ++at) {
            float* gradient = angle_gradient + static_cast<size_t>(at) * width; // becomes that of sum - g a
            const float* raw = s.raw + static_cast<size_t>(at) * width;
            const float* y = g.harmonics + static_cast<size_t>(at) * 16;
            float envelope = 0;
            for (int q = 0; q < width; ++q) envelope += gradient[q] * raw[q];
            r_gradient[g.near[at]] += envelope * g.envelope_slope[at];
            float* out = sums_out;
            for (int l = 0; l < m.l_max; ++l)
                for (int n = 0; n < m.n_max; ++n) {
                    float& value = gradient[l * m.n_max + n];
                    value *= g.envelope[at] * harmonic_norm(l);
                    for (int k = 0; k < 2 * l + 1; ++k) *out++ += value * y[l * l + k];
                }
        }
        for (int at = g.near_first[i]; at < g.near_first[i + 1]; ++at) {
            const int edge = g.near[at];
            const float* gradient = angle_gradient + static_cast<size_t>(at) * width;
            const float* y = g.harmonics + static_cast<size_t>(at) * 16;
            const float* weighted = s.weighted + static_cast<size_t>(at) * width;
            float* weighted_out = weighted_gradient;
            for (int k = 0; k < 16; ++k) y_gradient[k] = 0;
            for (int q = 0; q < width; ++q) weighted_out[q] = 0;
            const float* sum = sums;
            const float* sum_gradient = sums_out;
            for (int l = 0; l < m.l_max; ++l)
                for (int n = 0; n < m.n_max; ++n) {
                    const int q = l * m.n_max + n;
                    float to_weighted = -gradient[q];
                    for (int k = 0; k < 2 * l + 1; ++k, ++sum, ++sum_gradient) {
                        y_gradient[l * l + k] += gradient[q] * *sum + weighted[q] * *sum_gradient;
                        to_weighted += *sum_gradient * y[l * l + k];
                    }
                    weighted_out[q] = to_weighted;
                }
            const size_t target = static_cast<size_t>(chunk.target[edge]) * width;
            const float* radial = g.radial + static_cast<size_t>(at) * width;
            const float* slope = g.radial_slope + static_cast<size_t>(at) * width;
            float r_sum = 0;
            for (int q = 0; q < width; ++q) {
                atoms_gradient[target + q] += weighted_out[q] * radial[q];
                r_sum += weighted_out[q] * chunk.atoms[target + q] * slope[q];
            }
            r_gradient[edge] += r_sum;
            const float* d = g.direction + 3 * static_cast<size_t>(edge);
            harmonics_adjoint(m.l_max, d[0], d[1], d[2], y_gradient, direction_gradient + 3 * static_cast<size_t>(edge));
        }
    }
}

size_t scratch_size(const ModelView& m, int atoms, int edges) {
    const size_t u = m.units, n = edges;
    return state_size(m, atoms, edges) + n * (3 * u + 4 * u + m.bond_width + m.angle_width + 4) +
           atoms * (4 * u + n_columns(m)) + m.angle_width + 20 * 16;
}

void backward(const ModelView& m, const BlockView& block, const ModelChunk& chunk, const ModelBackward& b,
              float* scratch) {
    Take take{scratch};
    BlockState s = take_state(m, chunk.n_atoms, chunk.n_edges, true, take);
    up_to_messages(m, block, chunk, s);
    const int u = m.units, n = chunk.n_edges;
    const size_t size = static_cast<size_t>(n) * u;
    float* message_gradient = take(size);
    float* edges_gradient = take(size);
    float* work = take(2 * size);
    float* work2 = take(2 * size);
    float* bond_gradient = take(static_cast<size_t>(n) * m.bond_width);
    float* angle_gradient = take(static_cast<size_t>(n) * m.angle_width);
    float* r_gradient = take(n);
    float* direction_gradient = take(3 * static_cast<size_t>(n));
    float* source_gradient = take(static_cast<size_t>(chunk.n_atoms) * 4 * u);
    float* sums_gradient = take(static_cast<size_t>(chunk.n_atoms) * n_columns(m));
    float* weighted_gradient = take(m.angle_width);
    memset(bond_gradient, 0, sizeof(float) * static_cast<size_t>(n) * m.bond_width);
    memset(r_gradient, 0, sizeof(float) * n);
    memset(direction_gradient, 0, sizeof(float) * 3 * n);
    memset(source_gradient, 0, sizeof(float) * static_cast<size_t>(chunk.n_atoms) * 4 * u);

    int edge = 0;
    for (int i = 0; i < chunk.n_atoms; ++i) {
        const float* in = b.nodes_gradient + static_cast<size_t>(chunk.first_atom + i) * u;
        const int end = static_cast<int>(chunk.first_edge[i + 1] - chunk.first_edge[0]);
        for (; edge < end; ++edge) memcpy(message_gradient + static_cast<size_t>(edge) * u, in, sizeof(float) * u);
    }
    if (b.edges_gradient) memcpy(edges_gradient, b.edges_gradient, sizeof(float) * size);
    else memset(edges_gradient, 0, sizeof(float) * size);
    gated_backward(m, block.node_update, chunk, s.node, message_gradient, 2 * u, edges_gradient, source_gradient,
                   b.target_gradient, bond_gradient, work, work2);
    memcpy(message_gradient, edges_gradient, sizeof(float) * size);
    gated_backward(m, block.edge_update, chunk, s.edge, message_gradient, 0, edges_gradient, source_gradient,
                   b.target_gradient, bond_gradient, work, work2);
    three_body_backward(m, block, chunk, s, edges_gradient, work, angle_gradient, sums_gradient, weighted_gradient,
                        b.atoms_gradient, r_gradient, direction_gradient);
    if (b.new_edges_gradient) {
        memcpy(b.new_edges_gradient, edges_gradient, sizeof(float) * size);
    } else {
        silu_adjoint(size, s.embedding_z, s.embedding_s, edges_gradient);
        backward_product(n, edges_gradient, u, m.embedding, true, bond_gradient, m.bond_width);
    }
    float* atoms_out = b.new_nodes_gradient + static_cast<size_t>(chunk.first_atom) * u;
    const float* atoms_in = b.nodes_gradient + static_cast<size_t>(chunk.first_atom) * u;
    for (size_t k = 0; k < static_cast<size_t>(chunk.n_atoms) * u; ++k) atoms_out[k] += atoms_in[k];
    backward_product(chunk.n_atoms, source_gradient, 4 * u, block.source, true, atoms_out, u);

    for (int e = 0; e < n; ++e) {
        const float* slope = s.geometry.bond_slope + static_cast<size_t>(e) * m.bond_width;
        const float* gradient = bond_gradient + static_cast<size_t>(e) * m.bond_width;
        float along = r_gradient[e];
        for (int k = 0; k < m.bond_width; ++k) along += slope[k] * gradient[k];
        const float* d = s.geometry.direction + 3 * static_cast<size_t>(e);
        const float* gd = direction_gradient + 3 * static_cast<size_t>(e);
        const float r = s.geometry.r[e], projection = d[0] * gd[0] + d[1] * gd[1] + d[2] * gd[2];
        for (int k = 0; k < 3; ++k) {
            b.vector_gradient[3 * e + k] = along * d[k] + (gd[k] - projection * d[k]) / r;
            b.vectors[3 * e + k] = r * d[k];
        }
    }
}

// ---- readout -----------------------------------------------------------------------------------------------------------

/// Scratch: 15 n U floats.
void readout(const ModelView& m, const ReadoutView& net, int n, const float* nodes, double* energies, float* gradient,
             float* scratch) {
    const int u = m.units;
    const size_t size = static_cast<size_t>(n) * u;
    Take take{scratch};
    float *z[2][3], *s[2][3];
    float last[2];
    for (auto& row : z)
        for (float*& array : row) array = take(size);
    for (auto& row : s)
        for (float*& array : row) array = take(size);
    float* h[2] = {take(size), take(size)};
    float* work = take(size);
    for (int side = 0; side < 2; ++side) {
        const Matrix* weights = side ? net.gate : net.value;
        const float* const* bias = side ? net.gate_bias : net.value_bias;
        const float* x = nodes;
        for (int k = 0; k < 3; ++k) {
            forward_product(n, x, u, weights[k], bias[k], z[side][k], u);
            float* out = k % 2 == 0 ? h[side] : work; // ends in h
            silu(size, z[side][k], s[side][k], out);
            x = out;
        }
    }
    for (int i = 0; i < n; ++i) {
        const size_t row = static_cast<size_t>(i) * u;
        last[0] = net.value_last_bias;
        last[1] = net.gate_last_bias;
        for (int k = 0; k < u; ++k) {
            last[0] += h[0][row + k] * net.value_last[k];
            last[1] += h[1][row + k] * net.gate_last[k];
        }
        const float gate = 1.0f / (1.0f + exponential(-last[1]));
        energies[i] = static_cast<double>(last[0]) * gate;
        for (int k = 0; k < u; ++k) {
            h[0][row + k] = gate * net.value_last[k];
            h[1][row + k] = last[0] * gate * (1.0f - gate) * net.gate_last[k];
        }
    }
    for (int side = 0; side < 2; ++side) {
        const Matrix* weights = side ? net.gate : net.value;
        for (int k = 2; k >= 0; --k) {
            float* g = k % 2 == 0 ? h[side] : work;
            silu_adjoint(size, z[side][k], s[side][k], g);
            if (k > 0) backward_product(n, g, u, weights[k], false, k % 2 == 0 ? work : h[side], u);
            else backward_product(n, g, u, weights[k], side == 1, gradient, u);
        }
    }
}

ModelKernels model_kernels() { return {multiply, sigmoid, scratch_size, forward, backward, readout}; }

} // namespace
} // namespace ideal::detail
