// SPDX-License-Identifier: GPL-2.0-or-later
#include "neighborhood_writer.hpp"

#include "uncertainty_adaptor.hpp"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "update.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

using namespace LAMMPS_NS;

namespace {

/// Room between the last atoms and their images across a face that was cut, Å: two atoms never coincide there.
constexpr double gap = 1.0;
/// Numbers sent per atom: three coordinates, type, id, u.
constexpr int record = 6;

/// Distances between opposite faces of the box, Å.
std::array<double, 3> box_heights(const Domain& domain)
{
    const double* h = domain.h_inv;
    const bool tilted = domain.triclinic;
    return {1 / std::sqrt(h[0] * h[0] + (tilted ? h[5] * h[5] + h[4] * h[4] : 0)),
            1 / std::sqrt(h[1] * h[1] + (tilted ? h[3] * h[3] : 0)), 1 / h[2]};
}

/// Cell vectors as rows, Å.
std::array<std::array<double, 3>, 3> box_vectors(const Domain& domain)
{
    const double* h = domain.h;
    const bool tilted = domain.triclinic;
    return {{{h[0], 0, 0}, {tilted ? h[5] : 0, h[1], 0}, {tilted ? h[4] : 0, tilted ? h[3] : 0, h[2]}}};
}

/// Coordinates along the cell vectors, relative to the corner of the box.
void to_fractions(const Domain& domain, const double* x, double* lambda)
{
    const double* h = domain.h_inv;
    const double d[3] = {x[0] - domain.boxlo[0], x[1] - domain.boxlo[1], x[2] - domain.boxlo[2]};
    lambda[0] = h[0] * d[0];
    lambda[1] = h[1] * d[1];
    lambda[2] = h[2] * d[2];
    if (!domain.triclinic) return;
    lambda[0] += h[5] * d[1] + h[4] * d[2];
    lambda[1] += h[3] * d[2];
}

/// The nearest image of a difference of fractions.
void wrap(const Domain& domain, double* difference)
{
    for (int k = 0; k < 3; ++k)
        if (domain.periodicity[k]) difference[k] -= std::round(difference[k]);
}

} // namespace

std::vector<Neighborhood> NeighborhoodWriter::collect(const double* u, int groupbit, double threshold)
{
    // Which part of the box a frame takes along each axis; 1: all of it.
    const auto heights = box_heights(*domain);
    double share[3];
    for (int k = 0; k < 3; ++k) {
        share[k] = 2 * settings_.radius / heights[k];
        if (heights[k] < 2 * settings_.radius + 2 * gap) share[k] = 1;
    }
    const int n_local = atom->nlocal;
    std::vector<char> open(static_cast<std::size_t>(n_local));
    for (int i = 0; i < n_local; ++i) open[i] = (atom->mask[i] & groupbit) && u[i] > threshold;
    const auto vectors = box_vectors(*domain);
    std::vector<Neighborhood> found;
    for (int n = 0; n < settings_.most; ++n) {
        const Center center = next_center(u, open);
        if (center.id == 0) break;
        for (int i = 0; i < n_local; ++i) {
            if (!open[i]) continue;
            double d[3], r2 = 0;
            to_fractions(*domain, atom->x[i], d);
            for (int k = 0; k < 3; ++k) d[k] -= center.lambda[k];
            wrap(*domain, d);
            for (int k = 0; k < 3; ++k) {
                const double c = d[0] * vectors[0][k] + d[1] * vectors[1][k] + d[2] * vectors[2][k];
                r2 += c * c;
            }
            open[i] = r2 > settings_.apart * settings_.apart;
        }
        const std::vector<double> atoms = gather(center, u, groupbit, share);
        found.emplace_back();
        if (comm->me == 0) found.back() = neighborhood(center, atoms, share);
    }
    return found;
}

void NeighborhoodWriter::append(const std::vector<Neighborhood>& neighborhoods, const std::string& path,
                                const UncertaintyAdaptor& adaptor)
{
    // One call for all frames, so that a reader never meets half of one unless the disk is full.
    int failed = 0;
    if (comm->me == 0 && !neighborhoods.empty()) {
        std::string text;
        for (const Neighborhood& one : neighborhoods) text += frame(one, adaptor);
        std::FILE* file = std::fopen(path.c_str(), "a");
        failed = file == nullptr || std::fwrite(text.data(), 1, text.size(), file) != text.size();
        if (file != nullptr && std::fclose(file) != 0) failed = 1;
    }
    MPI_Bcast(&failed, 1, MPI_INT, 0, world);
    if (failed) error->all(FLERR, "fix ideal: cannot write '{}'; make room or name another file", path);
}

/// The atom with the largest u among those still open on any rank; id 0 if there is none.
NeighborhoodWriter::Center NeighborhoodWriter::next_center(const double* u, const std::vector<char>& open) const
{
    int best = -1;
    for (int i = 0; i < static_cast<int>(open.size()); ++i)
        if (open[i] && (best < 0 || u[i] > u[best] || (u[i] == u[best] && atom->tag[i] < atom->tag[best]))) best = i;
    struct {
        double u;
        int rank;
    } mine{best < 0 ? -1.0 : u[best], comm->me}, all{};
    MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE_INT, MPI_MAXLOC, world);
    Center center{};
    if (all.u < 0) return center;
    if (comm->me == all.rank) {
        center.u = u[best];
        center.id = static_cast<double>(atom->tag[best]);
        to_fractions(*domain, atom->x[best], center.lambda);
    }
    MPI_Bcast(&center, 5, MPI_DOUBLE, all.rank, world);
    return center;
}

/// The atoms of a frame from all ranks, on rank 0.
std::vector<double> NeighborhoodWriter::gather(const Center& center, const double* u, int groupbit, const double* share)
{
    std::vector<double> own;
    for (int i = 0; i < atom->nlocal; ++i) {
        double d[3];
        to_fractions(*domain, atom->x[i], d);
        for (int k = 0; k < 3; ++k) d[k] -= center.lambda[k];
        wrap(*domain, d);
        bool inside = true;
        for (int k = 0; k < 3; ++k) inside = inside && (share[k] >= 1 || std::abs(d[k]) <= 0.5 * share[k]);
        if (!inside) continue;
        const double value = atom->mask[i] & groupbit ? u[i] : std::numeric_limits<double>::quiet_NaN();
        own.insert(own.end(), {d[0], d[1], d[2], static_cast<double>(atom->type[i]), static_cast<double>(atom->tag[i]),
                               value});
    }
    int size = static_cast<int>(own.size());
    std::vector<int> sizes(comm->me == 0 ? static_cast<std::size_t>(comm->nprocs) : 0), begins;
    MPI_Gather(&size, 1, MPI_INT, sizes.data(), 1, MPI_INT, 0, world);
    int total = 0;
    for (const int n : sizes) {
        begins.push_back(total);
        total += n;
    }
    std::vector<double> all(static_cast<std::size_t>(total));
    MPI_Gatherv(own.data(), size, MPI_DOUBLE, all.data(), sizes.data(), begins.data(), MPI_DOUBLE, 0, world);
    return all;
}

/// What the gathered atoms are: the center first, then by id, positions within the cut cell.
Neighborhood NeighborhoodWriter::neighborhood(const Center& center, const std::vector<double>& atoms,
                                              const double* share) const
{
    const std::size_t n = atoms.size() / record;
    std::vector<const double*> rows(n);
    for (std::size_t k = 0; k < n; ++k) rows[k] = atoms.data() + k * record;
    std::sort(rows.begin(), rows.end(), [&](const double* a, const double* b) {
        return std::pair(a[4] != center.id, a[4]) < std::pair(b[4] != center.id, b[4]); // the center, then by id
    });
    const auto heights = box_heights(*domain);
    const auto vectors = box_vectors(*domain);
    Neighborhood made;
    made.step = update->ntimestep;
    made.center_u = center.u;
    made.cell = vectors;
    double stretch[3];
    for (int k = 0; k < 3; ++k) {
        made.whole[k] = share[k] >= 1;
        made.periodic[k] = domain->periodicity[k] != 0;
        stretch[k] = made.whole[k] ? 1 : share[k] + gap / heights[k];
        for (double& c : made.cell[k]) c *= stretch[k];
    }
    for (const double* row : rows) {
        for (int c = 0; c < 3; ++c) {
            double x = 0;
            for (int k = 0; k < 3; ++k) x += (row[k] + 0.5 * stretch[k]) * vectors[k][c];
            made.positions.push_back(x);
        }
        made.types.push_back(static_cast<int>(row[3]));
        made.ids.push_back(static_cast<long long>(row[4]));
        made.u.push_back(row[5]);
    }
    return made;
}

std::string NeighborhoodWriter::frame(const Neighborhood& one, const UncertaintyAdaptor& adaptor) const
{
    std::string text = fmt::format("{}\nLattice=\"", one.types.size());
    for (int k = 0; k < 9; ++k) text += fmt::format("{}{:.10g}", k ? " " : "", one.cell[k / 3][k % 3]);
    text += "\" Properties=species:S:1:pos:R:3:id:I:1:u:R:1 pbc=\"";
    for (int k = 0; k < 3; ++k) text += fmt::format("{}{}", k ? " " : "", one.periodic[k] ? "T" : "F");
    text += fmt::format("\" step={} center=0 center_id={} center_u={:.10g}\n", one.step, one.ids[0], one.center_u);
    for (std::size_t k = 0; k < one.types.size(); ++k) {
        const double* x = one.positions.data() + 3 * k;
        text += fmt::format("{} {:.12g} {:.12g} {:.12g} {} {:.10g}\n", adaptor.symbol(one.types[k]), x[0], x[1], x[2],
                            one.ids[k], one.u[k]);
    }
    return text;
}
