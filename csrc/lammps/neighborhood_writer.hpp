// SPDX-License-Identifier: GPL-2.0-or-later
// The most uncertain atoms of all ranks with their surroundings, as frames of an extended XYZ file.
//
// A frame is a hexahedron along the axes of the box around one atom, which comes first. Axes along which the box is too
// short to be cut stay whole, so that periodic images remain what they are. `ideal-run embed FILE --frame K --atom 0`
// makes a small cell of it.
#pragma once

#include "pointers.h"

#include <string>
#include <vector>

namespace LAMMPS_NS {

struct NeighborhoodSettings {
    /// File that frames are appended to.
    std::string path;
    /// Half the width of a frame, Å.
    double radius = 20.0;
    /// Frames per trigger.
    int most = 5;
    /// Least distance between the centers of one trigger, Å.
    double apart = 8.0;
};

class NeighborhoodWriter : protected Pointers {
public:
    NeighborhoodWriter(class LAMMPS* lmp, NeighborhoodSettings settings) :
        Pointers(lmp), settings_(std::move(settings)) {}

    const NeighborhoodSettings& settings() const { return settings_; }

    /// Write the neighborhoods of the atoms with the largest u above the threshold; collective. u: of the local atoms,
    /// those outside the group are not looked at. Returns how many were written.
    int write(const double* u, int groupbit, double threshold, const class UncertaintyAdaptor& adaptor);

private:
    struct Center {
        double u;
        double id;
        double lambda[3];
    };
    Center next_center(const double* u, const std::vector<char>& open) const;
    std::vector<double> gather(const Center& center, const double* u, int groupbit, const double* share);
    std::string frame(const Center& center, std::vector<double>& atoms, const double* share,
                      const class UncertaintyAdaptor& adaptor) const;

    NeighborhoodSettings settings_;
};

} // namespace LAMMPS_NS
