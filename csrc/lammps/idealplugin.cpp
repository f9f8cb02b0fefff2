// SPDX-License-Identifier: GPL-2.0-or-later
// The plugin's entry: makes sure that this LAMMPS is the one it was compiled for, then registers the styles.
//
// Styles are C++ classes derived from those of LAMMPS. With another version, other integer sizes or another MPI these
// have another layout, and the first call would end in a crash; so nothing is registered then, and the log says why.

#include "compute_ideal_uncertainty_atom.hpp"
#include "fix_ideal.hpp"
#include "lammps_plugin.hpp"
#include "pair_ideal.hpp"

#include "comm.h"
#include "library.h"
#include "utils.h"

#include <cstdio>
#include <string>

using namespace LAMMPS_NS;

namespace {

/// The MPI that mpi.h belongs to, by the word that its MPI_Get_library_version contains.
#if defined(OMPI_MAJOR_VERSION)
constexpr const char* compiled_mpi = "Open MPI";
#elif defined(MPICH_VERSION) || defined(I_MPI_VERSION)
constexpr const char* compiled_mpi = "MPICH or Intel MPI";
#elif defined(MPI_STUBS)
constexpr const char* compiled_mpi = "LAMMPS MPI STUBS";
#else
constexpr const char* compiled_mpi = "";
#endif

bool mpi_fits(const std::string& running) {
    const std::string compiled = compiled_mpi;
    if (compiled.empty()) return true; // nothing is known of it
    for (const char* other : {"Open MPI", "LAMMPS MPI STUBS"})
        if (compiled == other || running.find(other) != std::string::npos)
            return compiled == other && running.find(other) != std::string::npos;
    return true;
}

/// Why the styles must not be used in this LAMMPS; empty if they may.
std::string mismatch(void* lammps) {
    const int version = lammps_version(lammps);
    if (version != IDEAL_LAMMPS_VERSION)
        return fmt::format("it was compiled for LAMMPS {}, this is LAMMPS {} (YYYYMMDD)", IDEAL_LAMMPS_VERSION, version);
    const int tag = lammps_extract_setting(lammps, "tagint"), big = lammps_extract_setting(lammps, "bigint");
    if (tag != static_cast<int>(sizeof(tagint)) || big != static_cast<int>(sizeof(bigint)))
        return fmt::format("it was compiled for atom ids of {} and counts of {} bytes, this LAMMPS has {} and {} "
                           "(LAMMPS_SIZES)", sizeof(tagint), sizeof(bigint), tag, big);
    char library[MPI_MAX_LIBRARY_VERSION_STRING] = {};
    int length = 0;
    MPI_Get_library_version(library, &length);
    if (!mpi_fits(library))
        return fmt::format("it was compiled with the mpi.h of {}, this LAMMPS runs on {}", compiled_mpi,
                           std::string(library).substr(0, std::string(library).find('\n')));
    return {};
}

void* make_fix(LAMMPS* lammps, int narg, char** arg) { return static_cast<Fix*>(new FixIdeal(lammps, narg, arg)); }

void* make_pair(LAMMPS* lammps) { return static_cast<Pair*>(new PairIdeal(lammps)); }

void* make_compute(LAMMPS* lammps, int narg, char** arg) {
    return static_cast<Compute*>(new ComputeIdealUncertaintyAtom(lammps, narg, arg));
}

} // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void* lammps, void* handle,
                                                                         void* register_function) {
    const std::string why = mismatch(lammps);
    if (!why.empty()) { // not through LAMMPS' own error handling, whose layout is unknown
        int rank = 0;
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        if (rank == 0)
            std::fprintf(stderr, "ERROR: idealplugin.so cannot be used here: %s. Build it for this LAMMPS: "
                         "ideal-run plugin build, or cmake -DIDEAL_LAMMPS=ON -DLAMMPS_INCLUDE_DIR=... .\n", why.c_str());
        return;
    }
    const auto add = reinterpret_cast<lammpsplugin_regfunc>(register_function);
    lammpsplugin_t plugin{};
    plugin.version = IDEAL_LAMMPS_VERSION_STRING;
    plugin.author = "IDEAL";
    plugin.handle = handle;

    plugin.style = "pair";
    plugin.name = "ideal";
    plugin.info = "M3GNet, block by block";
    plugin.creator.v1 = make_pair;
    add(&plugin, lammps);

    plugin.style = "fix";
    plugin.name = "ideal";
    plugin.info = "Watch how far atoms are from the training set (SOAP-Mahalanobis)";
    plugin.creator.v2 = make_fix;
    add(&plugin, lammps);

    plugin.style = "compute";
    plugin.name = "ideal/uncertainty/atom";
    plugin.info = "SOAP-Mahalanobis uncertainty of each atom";
    plugin.creator.v2 = make_compute;
    add(&plugin, lammps);
}
