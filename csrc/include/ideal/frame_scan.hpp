// Passes over all atoms of a large frame: where it is empty, and which of its atoms lie in a box around a center.
//
// An atom's place is given by its fractional coordinates relative to the center, f = (r - origin) lattice^-1, wrapped to
// [start, start + 1) along periodic axes. Nothing is stored per atom of the frame.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

namespace ideal {

/// A frame seen from one point.
struct FrameScan {
    std::size_t n_atoms = 0;
    /// (n_atoms, 3) Cartesian positions, Å.
    const double* positions = nullptr;
    /// The point, Å.
    std::array<double, 3> origin{};
    /// (3, 3) rows: the vectors along the axes, Å; and its inverse.
    std::array<double, 9> lattice{}, inverse{};
    std::array<bool, 3> periodic{};
    /// Where the wrapped coordinate of a periodic axis starts.
    std::array<double, 3> starts{};

    /// Marks the equal parts of [start, start + 1) of an axis that hold an atom (periodic axes only, size 0 leaves an
    /// axis out), and finds the range of the coordinates. low > high for a frame without atoms.
    void occupancy(std::array<std::vector<unsigned char>, 3>& occupied, std::array<double, 3>& low,
                   std::array<double, 3>& high) const;

    /// Atoms with low <= f <= high on every axis; along axes with `images`, for some image f + integer.
    struct Selected {
        std::vector<std::ptrdiff_t> atoms;
        /// (3 per atom) wrapped coordinates, and Cartesian vectors from the origin to that image, Å.
        std::vector<double> fractional, vectors;
    };
    Selected select(const std::array<double, 3>& low, const std::array<double, 3>& high,
                    const std::array<bool, 3>& images) const;
};

} // namespace ideal
