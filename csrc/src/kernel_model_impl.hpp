// M3GNet's blocks and readout (equations: kernel_model.hpp). Included by kernel_impl.hpp.
#pragma once

#include "kernel_model_parts_impl.hpp"

namespace ideal::detail {
namespace {

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

/// From dL/d(message) (edges, U): adds to dL/d(edges), to those of source and target unless they are null, and to dL/d(bond).
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
    if (!target_gradient) return;
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

/// Features of the chunk's atoms behind the block.
void add_messages(const ModelView& m, const ModelChunk& chunk, const float* message, float* out) {
    const int u = m.units;
    int edge = 0;
    for (int i = 0; i < chunk.n_atoms; ++i, out += u) {
        memcpy(out, chunk.nodes + static_cast<size_t>(chunk.first_atom + i) * u, sizeof(float) * u);
        const int end = static_cast<int>(chunk.first_edge[i + 1] - chunk.first_edge[0]);
        for (; edge < end; ++edge)
            for (int k = 0; k < u; ++k) out[k] += message[static_cast<size_t>(edge) * u + k];
    }
}

void forward(const ModelView& m, const BlockView& block, const ModelChunk& chunk, float* new_nodes, float* new_edges,
             float* scratch) {
    Take take{scratch};
    BlockState s = take_state(m, chunk.n_atoms, chunk.n_edges, false, take);
    up_to_messages(m, block, chunk, s);
    if (chunk.n_edges > 0) memcpy(new_edges, s.edges2, sizeof(float) * static_cast<size_t>(chunk.n_edges) * m.units);
    add_messages(m, chunk, s.message, new_nodes + static_cast<size_t>(chunk.first_atom) * m.units);
}

// ---- readout -----------------------------------------------------------------------------------------------------------

size_t readout_size(const ModelView& m, int n) { return 15 * static_cast<size_t>(n) * m.units + 15 * 16; }

/// Outputs (n) of rows of nodes, and their derivatives (n, U).
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
        const float gate = sigmoid_of(last[1]);
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

// ---- backward ----------------------------------------------------------------------------------------------------------

size_t scratch_size(const ModelView& m, int atoms, int edges) {
    const size_t u = m.units, n = edges;
    return state_size(m, atoms, edges) + n * (3 * u + 4 * u + m.bond_width + m.angle_width + 4) +
           atoms * (2 * u + 4 * u + n_columns(m)) + readout_size(m, atoms) + m.angle_width + 20 * 16;
}

/// What the backward pass of a block holds beside its intermediates.
struct BackwardState {
    float *message, *edges;              // (edges, U)
    float *work, *work2;                 // (edges, 2 U)
    float *bond, *angle;                 // (edges, B), (near, A)
    float *r, *direction;                // (edges), (edges, 3)
    float *source, *sums, *weighted;     // (atoms, 4 U), (atoms, columns), (A)
};

BackwardState take_backward(const ModelView& m, const ModelChunk& chunk, Take& take) {
    const size_t u = m.units, n = chunk.n_edges, atoms = chunk.n_atoms;
    BackwardState d{};
    d.message = take(n * u);
    d.edges = take(n * u);
    d.work = take(n * 2 * u);
    d.work2 = take(n * 2 * u);
    d.bond = take(n * m.bond_width);
    d.angle = take(n * m.angle_width);
    d.r = take(n);
    d.direction = take(3 * n);
    d.source = take(atoms * 4 * u);
    d.sums = take(atoms * n_columns(m));
    d.weighted = take(m.angle_width);
    memset(d.bond, 0, sizeof(float) * n * m.bond_width);
    memset(d.r, 0, sizeof(float) * n);
    memset(d.direction, 0, sizeof(float) * 3 * n);
    memset(d.source, 0, sizeof(float) * atoms * 4 * u);
    return d;
}

/// (atoms of the chunk, U) gradients behind the last block.
const float* readout_gradient(const ModelView& m, const ModelChunk& chunk, const ModelBackward& b, const float* message,
                              Take& take) {
    const size_t size = static_cast<size_t>(chunk.n_atoms) * m.units;
    float* nodes = take(size);
    float* gradient = take(size);
    add_messages(m, chunk, message, nodes);
    readout(m, *b.readout, chunk.n_atoms, nodes, b.energies, gradient, take.at);
    return gradient;
}

/// Each edge's message has the gradient of its atom.
void spread_to_edges(const ModelView& m, const ModelChunk& chunk, const float* atoms, float* edges) {
    const size_t row = sizeof(float) * m.units;
    int edge = 0;
    for (int i = 0; i < chunk.n_atoms; ++i, atoms += m.units) {
        const int end = static_cast<int>(chunk.first_edge[i + 1] - chunk.first_edge[0]);
        for (; edge < end; ++edge) memcpy(edges + static_cast<size_t>(edge) * m.units, atoms, row);
    }
}

/// Gradients of distances and directions as those of vectors.
void vector_gradients(const ModelView& m, const ModelChunk& chunk, const Geometry& geometry, const BackwardState& d,
                      const ModelBackward& b) {
    for (int e = 0; e < chunk.n_edges; ++e) {
        const float* slope = geometry.bond_slope + static_cast<size_t>(e) * m.bond_width;
        const float* gradient = d.bond + static_cast<size_t>(e) * m.bond_width;
        float along = d.r[e];
        for (int k = 0; k < m.bond_width; ++k) along += slope[k] * gradient[k];
        const float* unit = geometry.direction + 3 * static_cast<size_t>(e);
        const float* g = d.direction + 3 * static_cast<size_t>(e);
        const float r = geometry.r[e], projection = unit[0] * g[0] + unit[1] * g[1] + unit[2] * g[2];
        for (int k = 0; k < 3; ++k) {
            b.vector_gradient[3 * e + k] = along * unit[k] + (g[k] - projection * unit[k]) / r;
            b.vectors[3 * e + k] = r * unit[k];
        }
    }
}

/// From dL/d(edges behind the three-body term): adds to those of a unless null, and to r and direction of near edges.
void three_body_backward(const ModelView& m, const BlockView& block, const ModelChunk& chunk, const BlockState& s,
                         const BackwardState& d, float* atoms_gradient) {
    const Geometry& g = s.geometry;
    const int u = m.units, width = m.angle_width, columns = n_columns(m);
    for (int at = 0; at < g.n_near; ++at) {
        const float* in = d.edges + static_cast<size_t>(g.near[at]) * u;
        const float* z = s.angle_z + static_cast<size_t>(at) * 2 * u;
        const float* sg = s.angle_s + static_cast<size_t>(at) * 2 * u;
        const float* h = s.angle_h + static_cast<size_t>(at) * 2 * u;
        float* out = d.work + static_cast<size_t>(at) * 2 * u;
        for (int k = 0; k < u; ++k) {
            const float gate = sg[u + k];
            out[k] = in[k] * gate * sg[k] * (1.0f + z[k] * (1.0f - sg[k]));
            out[u + k] = in[k] * h[k] * gate * (1.0f - gate);
        }
    }
    backward_product(g.n_near, d.work, 2 * u, block.angle, false, d.angle, width);
    memset(d.sums, 0, sizeof(float) * static_cast<size_t>(chunk.n_atoms) * columns);
    float y_gradient[16];
    for (int i = 0; i < chunk.n_atoms; ++i) {
        const float* sums = s.sums + static_cast<size_t>(i) * columns;
        float* sums_out = d.sums + static_cast<size_t>(i) * columns;
        for (int at = g.near_first[i]; at < g.near_first[i + 1]; ++at) {
            float* gradient = d.angle + static_cast<size_t>(at) * width; // becomes that of sum - g a
            const float* raw = s.raw + static_cast<size_t>(at) * width;
            const float* y = g.harmonics + static_cast<size_t>(at) * 16;
            float envelope = 0;
            for (int q = 0; q < width; ++q) envelope += gradient[q] * raw[q];
            d.r[g.near[at]] += envelope * g.envelope_slope[at];
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
            const float* gradient = d.angle + static_cast<size_t>(at) * width;
            const float* y = g.harmonics + static_cast<size_t>(at) * 16;
            const float* weighted = s.weighted + static_cast<size_t>(at) * width;
            float* weighted_out = d.weighted;
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
            for (int q = 0; q < width; ++q) r_sum += weighted_out[q] * chunk.atoms[target + q] * slope[q];
            if (atoms_gradient)
                for (int q = 0; q < width; ++q) atoms_gradient[target + q] += weighted_out[q] * radial[q];
            d.r[edge] += r_sum;
            const float* unit = g.direction + 3 * static_cast<size_t>(edge);
            harmonics_adjoint(m.l_max, unit[0], unit[1], unit[2], y_gradient, d.direction + 3 * static_cast<size_t>(edge));
        }
    }
}

void backward(const ModelView& m, const BlockView& block, const ModelChunk& chunk, const ModelBackward& b,
              float* scratch) {
    Take take{scratch};
    BlockState s = take_state(m, chunk.n_atoms, chunk.n_edges, true, take);
    up_to_messages(m, block, chunk, s);
    const BackwardState d = take_backward(m, chunk, take);
    const int u = m.units, n = chunk.n_edges;
    const size_t size = static_cast<size_t>(n) * u;
    const float* behind = b.nodes_gradient ? b.nodes_gradient + static_cast<size_t>(chunk.first_atom) * u
                                           : readout_gradient(m, chunk, b, s.message, take);

    spread_to_edges(m, chunk, behind, d.message);
    if (b.edges_gradient) memcpy(d.edges, b.edges_gradient, sizeof(float) * size);
    else memset(d.edges, 0, sizeof(float) * size);
    gated_backward(m, block.node_update, chunk, s.node, d.message, 2 * u, d.edges, d.source, b.target_gradient, d.bond,
                   d.work, d.work2);
    memcpy(d.message, d.edges, sizeof(float) * size);
    gated_backward(m, block.edge_update, chunk, s.edge, d.message, 0, d.edges, d.source, b.target_gradient, d.bond,
                   d.work, d.work2);
    three_body_backward(m, block, chunk, s, d, b.atoms_gradient);
    if (b.new_edges_gradient) {
        memcpy(b.new_edges_gradient, d.edges, sizeof(float) * size);
    } else {
        silu_adjoint(size, s.embedding_z, s.embedding_s, d.edges);
        backward_product(n, d.edges, u, m.embedding, true, d.bond, m.bond_width);
    }
    vector_gradients(m, chunk, s.geometry, d, b);
    if (!b.new_nodes_gradient) return;
    float* before = b.new_nodes_gradient + static_cast<size_t>(chunk.first_atom) * u;
    for (size_t k = 0; k < static_cast<size_t>(chunk.n_atoms) * u; ++k) before[k] += behind[k];
    backward_product(chunk.n_atoms, d.source, 4 * u, block.source, true, before, u);
}

ModelKernels model_kernels() { return {multiply, sigmoid, scratch_size, forward, backward}; }

} // namespace
} // namespace ideal::detail
