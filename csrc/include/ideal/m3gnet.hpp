// M3GNet evaluated block by block, in float32, for programs that hold a part of the atoms and fetch what they need of the
// rest between two blocks (LAMMPS under MPI): one cutoff of ghost atoms, whatever the number of blocks.
//
//   E = sum_i [ E_ref(Z_i) + scale * e_i ]
//
// C. Chen, S. P. Ong, Nature Computational Science 2, 718 (2022), doi:10.1038/s43588-022-00349-3; the three-body term by
// the addition theorem of spherical harmonics, as in ideal/models/fused.py, whose numbers these are to rounding.
//
// Forward, every edge's features behind each block but the last are kept, backward they are overwritten by their
// gradients; everything within a block is computed again, but for the last block, whose two passes are one.
// Memory per atom: n_edges (n_blocks - 1) U + (n_blocks + 10) U floats and some more.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace ideal {

namespace detail {
struct ModelWeights;
}

/// A trained model; immutable, cheap to copy.
class M3GNet {
public:
    /// From the contents of a model.safetensors; `name` stands for the file in messages.
    /// Raises ConfigError for a file that is damaged, of another kind, or of an architecture that is not covered.
    static M3GNet parse(const char* data, std::size_t size, const std::string& name);

    /// Å.
    double cutoff() const;
    int n_blocks() const;
    /// Floats in a row of an atom's features, padding included.
    int row() const;
    /// Atomic numbers, in the order of the model's elements.
    const std::vector<int>& numbers() const;

    const detail::ModelWeights& weights() const { return *weights_; }

private:
    std::shared_ptr<const detail::ModelWeights> weights_;
};

/// The atoms of one rank and the edges of its local ones.
struct LocalGraph {
    /// Local atoms come first, then ghosts.
    int n_local = 0, n_all = 0;
    /// (n_all, 3) Å.
    const double* positions = nullptr;
    /// (n_all) index of each atom's element in M3GNet::numbers().
    const int* types = nullptr;
    /// (n_local + 1) first edge of each local atom.
    const long long* first_edge = nullptr;
    /// (n_edges) the neighbor: any atom within the cutoff, images of the atom itself being ghosts.
    const int* target = nullptr;
};

/// Where results go; all are added to. Null: not wanted (positions' gradient excepted).
struct LocalResults {
    /// (n_local) eV.
    double* energies = nullptr;
    /// (n_all, 3) eV/Å; those on ghosts belong to their owners.
    double* forces = nullptr;
    /// (6) -sum r dE/dr over edges, xx, yy, zz, xy, xz, yz, eV.
    double* virial = nullptr;
    /// (n_all, 6) the same per atom, half of each edge to both ends.
    double* atom_virials = nullptr;
};

/// Called between blocks with (n_all, row) features: `send` fills the ghosts' rows from their owners', `collect` adds the
/// ghosts' rows to their owners'.
struct Exchange {
    std::function<void(float* rows)> send;
    std::function<void(float* rows)> collect;
};

/// Evaluates; keeps its memory between calls.
class M3GNetEvaluator {
public:
    struct Buffers;
    M3GNetEvaluator();
    ~M3GNetEvaluator();
    void evaluate(const M3GNet& model, const LocalGraph& graph, const Exchange& exchange, const LocalResults& results);
    /// Bytes in use.
    double memory_usage() const;

private:
    std::unique_ptr<Buffers> buffers_;
};

} // namespace ideal
