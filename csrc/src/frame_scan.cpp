#include "ideal/frame_scan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ideal {
namespace {

/// Wrapped coordinates of one atom, and by how many periods it was moved.
struct Place {
    std::array<double, 3> fraction, moved;
};

Place place(const FrameScan& scan, std::size_t atom) {
    const double* r = scan.positions + 3 * atom;
    const double x = r[0] - scan.origin[0], y = r[1] - scan.origin[1], z = r[2] - scan.origin[2];
    Place found;
    for (int k = 0; k < 3; ++k) {
        const double f = x * scan.inverse[k] + y * scan.inverse[3 + k] + z * scan.inverse[6 + k];
        found.moved[k] = scan.periodic[k] ? -std::floor(f - scan.starts[k]) : 0.0;
        found.fraction[k] = f + found.moved[k];
    }
    return found;
}

} // namespace

void FrameScan::occupancy(std::array<std::vector<unsigned char>, 3>& occupied, std::array<double, 3>& low,
                          std::array<double, 3>& high) const {
    low.fill(std::numeric_limits<double>::infinity());
    high.fill(-std::numeric_limits<double>::infinity());
    for (std::size_t i = 0; i < n_atoms; ++i) {
        const Place here = place(*this, i);
        for (int k = 0; k < 3; ++k) {
            low[k] = std::min(low[k], here.fraction[k]);
            high[k] = std::max(high[k], here.fraction[k]);
            const std::size_t size = occupied[k].size();
            if (size == 0) continue;
            const auto bin = static_cast<std::ptrdiff_t>((here.fraction[k] - starts[k]) * static_cast<double>(size));
            occupied[k][std::clamp<std::ptrdiff_t>(bin, 0, static_cast<std::ptrdiff_t>(size) - 1)] = 1;
        }
    }
}

FrameScan::Selected FrameScan::select(const std::array<double, 3>& low, const std::array<double, 3>& high,
                                      const std::array<bool, 3>& images) const {
    Selected chosen;
    for (std::size_t i = 0; i < n_atoms; ++i) {
        const Place here = place(*this, i);
        bool inside = true;
        for (int k = 0; k < 3; ++k) {
            const double f = here.fraction[k];
            inside &= images[k] ? std::floor(high[k] - f) >= low[k] - f : f >= low[k] && f <= high[k];
        }
        if (!inside) continue;
        chosen.atoms.push_back(static_cast<std::ptrdiff_t>(i));
        for (int d = 0; d < 3; ++d) {
            chosen.fractional.push_back(here.fraction[d]);
            double vector = positions[3 * i + d] - origin[d];
            for (int k = 0; k < 3; ++k) vector += here.moved[k] * lattice[3 * k + d];
            chosen.vectors.push_back(vector);
        }
    }
    return chosen;
}

} // namespace ideal
