// SPDX-License-Identifier: GPL-2.0-or-later
// The most uncertain atoms of all ranks with their surroundings, and their frames in an extended XYZ file.
//
// A frame is a hexahedron along the axes of the box around one atom, which comes first. Axes along which the box is too
// short to be cut stay whole, so that periodic images remain what they are. `ideal-run embed FILE --frame K --atom 0`
// makes a small cell of it.
#pragma once

#include "pointers.h"

#include <array>
#include <string>
#include <utility>
#include <vector>

namespace LAMMPS_NS {

struct NeighborhoodSettings {
    /// Half the width of a frame, Å.
    double radius = 20.0;
    /// Frames per trigger.
    int most = 5;
    /// Least distance between the centers of one trigger, Å.
    double apart = 8.0;
};

/// A part of the box around one atom; on rank 0, empty on the others.
struct Neighborhood {
    bigint step = 0;
    double center_u = 0;
    /// Cell vectors as rows, Å; a gap included along axes that were cut.
    std::array<std::array<double, 3>, 3> cell{};
    /// Per axis: not cut; periodic.
    std::array<bool, 3> whole{}, periodic{};
    /// Per atom, the center first; positions (n, 3) in Å.
    std::vector<int> types;
    std::vector<double> positions, u;
    std::vector<long long> ids;
};

class NeighborhoodWriter : protected Pointers {
public:
    NeighborhoodWriter(class LAMMPS* lmp, NeighborhoodSettings settings) : Pointers(lmp), settings_(settings) {}

    const NeighborhoodSettings& settings() const { return settings_; }

    /// The neighborhoods of the atoms with the largest u above the threshold, most uncertain first; collective. u: of the
    /// local atoms, those outside the group are not looked at. As many on every rank, filled on rank 0.
    std::vector<Neighborhood> collect(const double* u, int groupbit, double threshold);

    /// Append them to a file; collective.
    void append(const std::vector<Neighborhood>& neighborhoods, const std::string& path,
                const class UncertaintyAdaptor& adaptor);

private:
    struct Center {
        double u;
        double id;
        double lambda[3];
    };
    Center next_center(const double* u, const std::vector<char>& open) const;
    std::vector<double> gather(const Center& center, const double* u, int groupbit, const double* share);
    Neighborhood neighborhood(const Center& center, const std::vector<double>& atoms, const double* share) const;
    std::string frame(const Neighborhood& one, const class UncertaintyAdaptor& adaptor) const;

    NeighborhoodSettings settings_;
};

} // namespace LAMMPS_NS
