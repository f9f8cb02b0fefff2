// A neighbor list for machine-learned potentials: every ordered pair of neighbors, in an order that depends on the
// structure alone.
//
// A list made with a larger cutoff ("skin") gives, after `edges_within`, the same edges in the same order and with the
// same vectors as a list made for the present positions: pairs are sorted, and vectors are formed from positions and
// integer images. A trajectory therefore does not depend on when its list was made.
#pragma once

#include "ideal/structure.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ideal {

struct PairList {
    /// (n_atoms + 1) first pair of each atom.
    std::vector<std::int64_t> first;
    /// (n_pairs) the neighbor's atom.
    std::vector<std::int32_t> target;
    /// (n_pairs, 3) lattice translation of the neighbor: r_target + images * cell - r_source.
    std::vector<std::int32_t> images;
};

/// All ordered pairs (i, j, image) with distance <= cutoff, an atom's own images included, sorted by i, j, image. The
/// cell's rows must be three independent vectors, also along open axes (where images are 0).
/// Raises UncertaintyError for positions or a cell that are not finite, and for degenerate cells.
PairList list_pairs(const Structure& structure, double cutoff);

struct EdgeList {
    /// (n_atoms) edges of each atom.
    std::vector<std::int64_t> count;
    /// (n_edges) the neighbor's atom.
    std::vector<std::int32_t> target;
    /// (n_edges, 3) from source to target, Å.
    std::vector<double> vectors;
    /// The shortest edge, its source and its length in Å; -1 without edges.
    std::int64_t shortest = -1;
    std::int64_t shortest_source = -1;
    double shortest_length = 0;
};

/// The pairs of a list (three arrays as in PairList) that are within the cutoff now.
EdgeList edges_within(const Structure& structure, double cutoff, const std::int64_t* first, const std::int32_t* target,
                      const std::int32_t* images);

} // namespace ideal
