// Neighbor search without a neighbor list.
//
// Atoms and the periodic images ("ghosts") that any atom can see are sorted into bins about half a cutoff wide. The
// neighbors of a center then lie in a few contiguous runs of slots, found again whenever they are needed: nothing is
// stored per pair, so memory grows with the atoms and not with the pairs.
#pragma once

#include "ideal/structure.hpp"

#include <array>
#include <cstddef>
#include <vector>

namespace ideal {

/// A contiguous run of slots [begin, end).
struct SlotRange {
    int begin;
    int end;
};

struct NeighborBins {
    /// Extra slots at the end of x, y, z, so that vector loads may run over. They lie infinitely far away.
    static constexpr int padding = 16;

    /// Distance below which two atoms are neighbors, Å.
    double cutoff = 0;
    /// Atoms plus ghosts.
    int n_slots = 0;
    /// (n_slots + padding) Cartesian coordinates by slot, Å.
    std::vector<double> x, y, z;
    /// (n_slots) the atom behind each slot; a ghost carries its atom's index.
    std::vector<int> atom;
    /// (n_slots + padding) the species index of each slot.
    std::vector<int> species;
    /// (n_atoms) the slot of the atom itself; -1 for atoms left out.
    std::vector<int> slot_of_atom;
    /// Lower corner of the first bin, Å.
    std::array<double, 3> origin{};
    /// Edges of a bin, Å.
    std::array<double, 3> width{};
    /// Number of bins per axis; the last axis varies fastest.
    std::array<int, 3> n_bins{1, 1, 1};
    /// How many bins the cutoff reaches beyond a center's own.
    std::array<int, 3> reach{};
    /// (product of n_bins + 1) first slot of each bin.
    std::vector<int> first;

    /// Bin the structure; species holds one index per atom.
    /// Raises UncertaintyError for positions or a cell that are not finite, and for degenerate cells.
    NeighborBins(const Structure& structure, const std::vector<int>& species, double cutoff);
    /// Bin only what the centers can see: of a large structure with few centers, most atoms are left out.
    NeighborBins(const Structure& structure, const std::vector<int>& species, double cutoff, Centers centers);

    /// The runs of slots that hold every neighbor of a slot (itself included), and how many slots they span.
    int candidate_ranges(int slot, std::vector<SlotRange>& ranges) const;
};

} // namespace ideal
