// The kernels of M3GNet, in float32: one message-passing block on a chunk of atoms, forward and backward.
//
// Plain pointers and structs, as in kernel.hpp. Rows of features are padded to a multiple of `model_pad` floats; weights
// are padded with zeros, so that what stands in the padding never matters. A weight matrix (in, out) is kept in panels of
// `model_pad` columns, one behind the other, each (in, model_pad): rows of wide matrices, powers of two apart, would drive
// each other out of the cache. Its transpose stands beside it for the backward pass.
//
// With v_i, e_ij features of atoms and edges, b(r) radial functions, Y_m harmonics, g_q(r) radial functions of the
// three-body term times its envelope f (column q = (l, n), column (q, m) of the sum):
//   a_k = sigmoid(v_k A + a_0)                 T_i,qm = sum_k g_q(r_ik) a_kq Y_m(r_ik)
//   t_ij,q = f(r_ij) N_l [sum_m T_i,qm Y_m(r_ij) - g_q(r_ij) a_jq]           e_ij += silu(t V) sigmoid(t G)
//   e_ij += (b W_e) D_e(v_i, v_j, e_ij)        v_i += sum_j (b W_v) D_v(v_i, v_j, e_ij)
// with D = silu(z_3) sigmoid(z'_3) the gated networks of three layers, whose first one acts on v_i and v_j per atom.
#pragma once

#include <cstddef>

namespace ideal::detail {

constexpr int model_pad = 16;
constexpr int model_most_waves = 24;

/// (in, out) and its transpose (out, in).
struct Matrix {
    const float* w;
    const float* transposed;
    int in, out;
};

/// The layers of a gated network behind the first; value and gate stand side by side.
struct GatedView {
    Matrix edge;                         // (U, 2 U): e_ij in the first layer
    Matrix value2, gate2, value3, gate3; // (U, U)
    const float *bias2, *bias3;          // (2 U)
    Matrix radial;                       // (B, U): W
};

struct BlockView {
    Matrix atom;             // (U, A)
    const float* atom_bias;  // (A)
    Matrix angle;            // (A, 2 U): V and G
    Matrix source, target;   // (U, 4 U): v_i and v_j in the first layers of edge and node update
    const float* source_bias; // (4 U)
    GatedView edge_update, node_update;
};

struct ReadoutView {
    Matrix value[3], gate[3]; // (U, U)
    const float *value_bias[3], *gate_bias[3];
    const float *value_last, *gate_last; // (U)
    float value_last_bias, gate_last_bias;
};

struct ModelView {
    int units;     // U, padded
    int n_bond, n_angle, bond_width, angle_width; // true and padded numbers of radial functions (B, A)
    int l_max, n_max; // angular momenta l < l_max, radial functions per l
    double cutoff, threebody_cutoff;
    const double *bond_matrix, *angle_matrix; // (n + 1, padded n): radial functions in sin(k pi r / cutoff) / r
    Matrix embedding;             // (B, U): first features of edges
    const float* embedding_bias;  // (U)
};

/// Consecutive atoms with all their edges.
struct ModelChunk {
    int first_atom, n_atoms, n_edges;
    const long long* first_edge; // (n_atoms + 1) of all edges of the rank
    const int* target;           // (n_edges)
    const double* positions;     // (all atoms, 3)
    const float* nodes;          // (all atoms, U) before the block
    const float* atoms;          // (all atoms, A): a
    const float* from_target;    // (all atoms, 4 U)
    const float* edges;          // (n_edges, U) before the block; null: those of the embedding
};

struct ModelBackward {
    const float* nodes_gradient; // (all atoms, U) behind the block; rows of local atoms; null: from the readout
    const ReadoutView* readout;  // of the last block
    double* energies;            // (atoms of the chunk) outputs of the readout: set
    const float* edges_gradient; // (n_edges, U) behind the block; null: zero
    float* new_edges_gradient;   // (n_edges, U) before the block; null where edges come from the embedding
    float* new_nodes_gradient;   // (all atoms, U): rows of the chunk are added to; null: none of these three is wanted
    float* atoms_gradient;       // (all atoms, A): added to
    float* target_gradient;      // (all atoms, 4 U): added to
    float* vector_gradient;      // (n_edges, 3): set
    float* vectors;              // (n_edges, 3): set, target - source
};

struct ModelKernels {
    /// y = x w + bias [+ y] for n rows; bias may be null.
    void (*multiply)(int n, const float* x, int ldx, const float* w, int in, int out, const float* bias, bool add,
                     float* y, int ldy);
    void (*sigmoid)(std::size_t n, const float* x, float* y);
    /// Floats of scratch that a chunk of this size needs.
    std::size_t (*scratch_size)(const ModelView& model, int n_atoms, int n_edges);
    /// Of all blocks but the last. new_nodes: (all atoms, U), rows of the chunk; new_edges: (n_edges, U).
    void (*forward)(const ModelView& model, const BlockView& block, const ModelChunk& chunk, float* new_nodes,
                    float* new_edges, float* scratch);
    /// A block again and its derivatives; of the last block also the readout of the atoms that it makes, so that this
    /// block is evaluated once.
    void (*backward)(const ModelView& model, const BlockView& block, const ModelChunk& chunk,
                     const ModelBackward& gradients, float* scratch);
};

} // namespace ideal::detail
