// What the core reads of a structure. A view: it owns nothing and must not outlive its arrays.
#pragma once

#include <array>
#include <cstddef>

namespace ideal {

struct Structure {
    /// Number of atoms; 0 is allowed.
    std::size_t n_atoms = 0;
    /// (n_atoms, 3) Cartesian positions, Å. Atoms may lie outside the cell.
    const double* positions = nullptr;
    /// (n_atoms) atomic numbers.
    const int* numbers = nullptr;
    /// Cell vectors as rows, Å. The vector of an open axis is ignored and may be zero.
    std::array<double, 9> cell{};
    /// Which axes are periodic. A caller that brings its own periodic images (LAMMPS: local and ghost atoms) sets all
    /// of them to false and names its local atoms as centers.
    std::array<bool, 3> periodic{false, false, false};
};

/// The atoms that an evaluation is about; everybody else is only a neighbor.
struct Centers {
    /// (size) atom indices in any order, each at most once; nullptr: atoms 0 ... size-1.
    const std::ptrdiff_t* atoms = nullptr;
    /// How many.
    std::size_t size = 0;

    /// The atom behind the k-th center.
    std::ptrdiff_t operator[](std::size_t k) const { return atoms ? atoms[k] : static_cast<std::ptrdiff_t>(k); }
};

/// Where a derivative goes. Both are added to, so a caller zeroes them first.
struct Gradient {
    /// (n_atoms, 3) dL/d(positions), 1/Å.
    double* positions = nullptr;
    /// (3, 3) dL/d(strain), symmetric, for r -> (1 + strain) r of atoms and cell alike.
    double* strain = nullptr;
};

} // namespace ideal
