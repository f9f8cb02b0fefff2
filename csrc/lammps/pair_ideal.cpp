// SPDX-License-Identifier: GPL-2.0-or-later
#include "pair_ideal.hpp"

#include "broadcast.hpp"

#include "ideal/elements.hpp"
#include "ideal/errors.hpp"
#include "ideal/m3gnet.hpp"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <optional>

using namespace LAMMPS_NS;

namespace {

/// Atoms nearer than this have no direction between them, Å.
constexpr double coincident = 1e-8;

} // namespace

struct PairIdeal::Model {
    std::optional<ideal::M3GNet> model;
    ideal::M3GNetEvaluator evaluator;
};

PairIdeal::PairIdeal(LAMMPS* lmp) : Pair(lmp), model_(std::make_unique<Model>())
{
    single_enable = 0;
    restartinfo = 0;
    one_coeff = 1;
    manybody_flag = 1;
    no_virial_fdotr_compute = 1; // features, not only forces, live on ghosts
    centroidstressflag = CENTROID_NOTAVAIL;
    unit_convert_flag = 0;
}

PairIdeal::~PairIdeal()
{
    if (!allocated) return;
    memory->destroy(setflag);
    memory->destroy(cutsq);
}

void PairIdeal::allocate()
{
    allocated = 1;
    const int n = atom->ntypes + 1;
    memory->create(setflag, n, n, "pair:setflag");
    memory->create(cutsq, n, n, "pair:cutsq");
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) setflag[i][j] = 0;
}

void PairIdeal::settings(int narg, char** arg)
{
    if (narg > 0) error->all(FLERR, "pair_style ideal: unknown word '{}'; it takes none", arg[0]);
    if (std::strcmp(update->unit_style, "metal") == 0) energy_unit_ = 1;
    else if (std::strcmp(update->unit_style, "real") == 0) energy_unit_ = 23.060549; // LAMMPS' metal to real
    else error->all(FLERR, "pair_style ideal works in units metal or real, not in units {}", update->unit_style);
}

/// Also on a second call, between runs: the new weights replace the old ones.
void PairIdeal::coeff(int narg, char** arg)
{
    const int n_types = atom->ntypes;
    if (!allocated) allocate();
    if (narg != 3 + n_types || std::strcmp(arg[0], "*") != 0 || std::strcmp(arg[1], "*") != 0)
        error->all(FLERR, "pair_style ideal needs: pair_coeff * * model.safetensors and one element (or NULL) for each of "
                   "the {} atom types", n_types);
    const std::string path = arg[2];
    bool readable = false;
    const std::vector<char> bytes = broadcast_file(path, world, comm->me, readable);
    if (!readable) error->all(FLERR, "pair_style ideal: cannot read '{}'; name a model.safetensors", path);
    symbols_.assign(arg + 3, arg + narg);
    take(bytes, path);
}

/// Later in the same run: weights of the same architecture, which act from the next forces on.
void PairIdeal::reload(const std::vector<char>& bytes, const std::string& name)
{
    const ideal::M3GNet before = *model_->model;
    take(bytes, name);
    const ideal::M3GNet& now = *model_->model;
    if (now.row() != before.row() || now.n_blocks() != before.n_blocks() || now.cutoff() != before.cutoff())
        error->all(FLERR, "pair_style ideal: {} has {} blocks, rows of {} and a cutoff of {}, the present model {}, {} and "
                   "{}; name the model of that run in pair_coeff", name, now.n_blocks(), now.row(), now.cutoff(),
                   before.n_blocks(), before.row(), before.cutoff());
}

/// A model from the same bytes on all ranks. LAMMPS error where it is none, or lacks an element.
void PairIdeal::take(const std::vector<char>& bytes, const std::string& path)
{
    const int n_types = atom->ntypes;
    std::string problem;
    std::optional<ideal::M3GNet> fresh;
    try {
        fresh = ideal::M3GNet::parse(bytes.data(), bytes.size(), path);
    } catch (const ideal::Error& e) {
        problem = e.what();
    }
    if (!problem.empty()) error->all(FLERR, "pair_style ideal: {}", problem);
    const std::vector<int>& known = fresh->numbers();
    std::string elements;
    for (const int number : known) elements += std::string(elements.empty() ? "" : " ") + ideal::chemical_symbol(number);
    element_of_type_.assign(static_cast<std::size_t>(n_types) + 1, -1);
    for (int type = 1; type <= n_types; ++type) {
        const std::string& symbol = symbols_[static_cast<std::size_t>(type) - 1];
        if (symbol == "NULL") continue;
        const auto found = std::find(known.begin(), known.end(), ideal::atomic_number(symbol));
        if (found == known.end())
            error->all(FLERR, "pair_style ideal: '{}' (atom type {}) is no element of '{}', which knows {}", symbol, type,
                       path, elements);
        element_of_type_[static_cast<std::size_t>(type)] = static_cast<int>(found - known.begin());
    }
    for (int i = 1; i <= n_types; ++i)
        for (int j = i; j <= n_types; ++j)
            setflag[i][j] = element_of_type_[static_cast<std::size_t>(i)] >= 0 &&
                            element_of_type_[static_cast<std::size_t>(j)] >= 0;
    model_->model = std::move(fresh);
}

void PairIdeal::init_style()
{
    if (!model_->model) error->all(FLERR, "pair_style ideal has no model; add pair_coeff * * model.safetensors ...");
    if (!force->newton_pair) error->all(FLERR, "pair_style ideal needs newton pair on");
    comm_forward = comm_reverse = model_->model->row() / 2; // two floats in each number sent
    // LAMMPS sizes its buffers by the outermost style, and a hybrid style asks its own before they know their model.
    force->pair->comm_forward = std::max(force->pair->comm_forward, comm_forward);
    force->pair->comm_reverse = std::max(force->pair->comm_reverse, comm_reverse);
    neighbor->add_request(this, NeighConst::REQ_FULL);
}

double PairIdeal::init_one(int, int) { return model_->model->cutoff(); }

/// Which atoms belong to this style (all, unless in a hybrid style), where and what they are.
void PairIdeal::collect_atoms()
{
    const int n_all = atom->nlocal + atom->nghost;
    own_index_.assign(static_cast<std::size_t>(n_all), -1);
    atom_index_.clear();
    types_.clear();
    positions_.clear();
    for (int i = 0; i < n_all; ++i) {
        if (i == atom->nlocal) n_local_ = static_cast<int>(atom_index_.size());
        const int element = element_of_type_[static_cast<std::size_t>(atom->type[i])];
        if (element < 0) continue;
        own_index_[i] = static_cast<int>(atom_index_.size());
        atom_index_.push_back(i);
        types_.push_back(element);
        positions_.insert(positions_.end(), atom->x[i], atom->x[i] + 3);
    }
    if (atom->nghost == 0) n_local_ = static_cast<int>(atom_index_.size());
}

/// Edges of the local atoms, from the full neighbor list. LAMMPS error for two atoms at the same place.
void PairIdeal::collect_edges()
{
    const double cutoff = model_->model->cutoff(), limit = cutoff * cutoff;
    std::vector<int> place(static_cast<std::size_t>(atom->nlocal), -1); // in the list
    for (int k = 0; k < list->inum; ++k) place[list->ilist[k]] = k;
    first_edge_.assign(1, 0);
    target_.clear();
    for (int own = 0; own < n_local_; ++own) {
        const int i = atom_index_[own];
        if (place[i] >= 0) {
            const double* x = atom->x[i];
            const int* neighbors = list->firstneigh[i];
            for (int k = 0; k < list->numneigh[i]; ++k) {
                const int j = neighbors[k] & NEIGHMASK;
                const double dx = atom->x[j][0] - x[0], dy = atom->x[j][1] - x[1], dz = atom->x[j][2] - x[2];
                const double r2 = dx * dx + dy * dy + dz * dz;
                if (r2 > limit || own_index_[j] < 0) continue;
                if (r2 < coincident * coincident)
                    error->one(FLERR, "pair_style ideal: atoms {} and {} are at the same place; separate them",
                               atom->tag[i], atom->tag[j]);
                target_.push_back(own_index_[j]);
            }
        }
        first_edge_.push_back(static_cast<long long>(target_.size()));
    }
}

void PairIdeal::compute(int eflag, int vflag)
{
    ev_init(eflag, vflag);
    if (comm_forward != model_->model->row() / 2)
        error->all(FLERR, "pair_style ideal: pair_coeff was issued since the last setup; use run without pre no");
    collect_atoms();
    collect_edges();
    const std::size_t n_all = atom_index_.size();
    energies_.assign(static_cast<std::size_t>(n_local_), 0.0);
    forces_.assign(3 * n_all, 0.0);
    if (vflag_atom) atom_virials_.assign(6 * n_all, 0.0);
    double total[6] = {};

    ideal::LocalGraph graph;
    graph.n_local = n_local_;
    graph.n_all = static_cast<int>(n_all);
    graph.positions = positions_.data();
    graph.types = types_.data();
    graph.first_edge = first_edge_.data();
    graph.target = target_.data();
    ideal::LocalResults results;
    results.energies = energies_.data();
    results.forces = forces_.data();
    results.virial = vflag_global ? total : nullptr;
    results.atom_virials = vflag_atom ? atom_virials_.data() : nullptr;
    const ideal::Exchange exchange{[this](float* rows) {
                                       rows_ = rows;
                                       comm->forward_comm(this);
                                   },
                                   [this](float* rows) {
                                       rows_ = rows;
                                       comm->reverse_comm(this);
                                   }};
    try {
        model_->evaluator.evaluate(*model_->model, graph, exchange, results);
    } catch (const std::bad_alloc&) {
        error->one(FLERR, "pair_style ideal: out of memory for {} atoms and {} edges on this rank; use more ranks",
                   n_all, target_.size());
    } catch (const ideal::Error& e) {
        error->one(FLERR, "pair_style ideal: {}", e.what());
    }

    for (int own = 0; own < n_local_; ++own) {
        const double e = energy_unit_ * energies_[own];
        if (!std::isfinite(e))
            error->one(FLERR, "pair_style ideal: the energy of atom {} is not finite; look for atoms that are too close",
                       atom->tag[atom_index_[own]]);
        if (eflag_global) eng_vdwl += e;
        if (eflag_atom) eatom[atom_index_[own]] += e;
    }
    for (std::size_t own = 0; own < n_all; ++own) {
        const int i = atom_index_[own];
        for (int d = 0; d < 3; ++d) atom->f[i][d] += energy_unit_ * forces_[3 * own + d];
        if (vflag_atom)
            for (int d = 0; d < 6; ++d) vatom[i][d] += energy_unit_ * atom_virials_[6 * own + d];
    }
    if (vflag_global)
        for (int d = 0; d < 6; ++d) virial[d] += energy_unit_ * total[d];
}

// ---- rows of features between ranks; two floats in each double ---------------------------------------------------------

int PairIdeal::pack_forward_comm(int n, int* atoms, double* buffer, int, int*)
{
    const std::size_t row = static_cast<std::size_t>(model_->model->row());
    for (int k = 0; k < n; ++k, buffer += row / 2) {
        const int own = own_index_[atoms[k]];
        if (own >= 0) std::memcpy(buffer, rows_ + static_cast<std::size_t>(own) * row, sizeof(float) * row);
        else std::fill_n(buffer, row / 2, 0.0);
    }
    return n * static_cast<int>(row / 2);
}

void PairIdeal::unpack_forward_comm(int n, int first, double* buffer)
{
    const std::size_t row = static_cast<std::size_t>(model_->model->row());
    for (int k = 0; k < n; ++k, buffer += row / 2) {
        const int own = own_index_[first + k];
        if (own >= 0) std::memcpy(rows_ + static_cast<std::size_t>(own) * row, buffer, sizeof(float) * row);
    }
}

int PairIdeal::pack_reverse_comm(int n, int first, double* buffer)
{
    const std::size_t row = static_cast<std::size_t>(model_->model->row());
    for (int k = 0; k < n; ++k, buffer += row / 2) {
        const int own = own_index_[first + k];
        if (own >= 0) std::memcpy(buffer, rows_ + static_cast<std::size_t>(own) * row, sizeof(float) * row);
        else std::fill_n(buffer, row / 2, 0.0);
    }
    return n * static_cast<int>(row / 2);
}

void PairIdeal::unpack_reverse_comm(int n, int* atoms, double* buffer)
{
    const std::size_t row = static_cast<std::size_t>(model_->model->row());
    std::vector<float> incoming(row);
    for (int k = 0; k < n; ++k, buffer += row / 2) {
        const int own = own_index_[atoms[k]];
        if (own < 0) continue;
        std::memcpy(incoming.data(), buffer, sizeof(float) * row);
        float* out = rows_ + static_cast<std::size_t>(own) * row;
        for (std::size_t d = 0; d < row; ++d) out[d] += incoming[d];
    }
}

double PairIdeal::memory_usage()
{
    return Pair::memory_usage() + model_->evaluator.memory_usage() + 8.0 * first_edge_.capacity() +
           4.0 * target_.capacity() + 8.0 * (positions_.capacity() + forces_.capacity() + atom_virials_.capacity());
}
