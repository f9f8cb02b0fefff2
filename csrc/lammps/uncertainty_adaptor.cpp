// SPDX-License-Identifier: GPL-2.0-or-later
#include "uncertainty_adaptor.hpp"

#include "broadcast.hpp"

#include "ideal/elements.hpp"
#include "ideal/errors.hpp"
#include "ideal/mahalanobis.hpp"
#include "ideal/state_file.hpp"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "neighbor.h"
#include "update.h"

#include <algorithm>
#include <cstring>
#include <new>

using namespace LAMMPS_NS;

UncertaintyAdaptor::UncertaintyAdaptor(LAMMPS* lmp, std::string style, const std::string& path, int n_symbols,
                                       char** symbols) :
    Pointers(lmp), style_(std::move(style))
{
    if (std::strcmp(update->unit_style, "metal") != 0 && std::strcmp(update->unit_style, "real") != 0)
        error->all(FLERR, "{} works in units metal or real (lengths in Angstrom), not in units {}", style_,
                   update->unit_style);
    if (n_symbols != atom->ntypes)
        error->all(FLERR, "{} got {} element symbols for {} atom types; name one element for each type, in order",
                   style_, n_symbols, atom->ntypes);
    symbols_.emplace_back();
    number_of_type_.push_back(0);
    for (int k = 0; k < n_symbols; ++k) {
        symbols_.emplace_back(symbols[k]);
        number_of_type_.push_back(ideal::atomic_number(symbols[k]));
        if (number_of_type_.back() == 0)
            error->all(FLERR, "{}: '{}' (atom type {}) is not a chemical symbol; write Li, O, ...", style_, symbols[k],
                       k + 1);
    }
    load(path);
}

UncertaintyAdaptor::~UncertaintyAdaptor() = default;

void UncertaintyAdaptor::load(const std::string& path)
{
    bool readable = false;
    const std::vector<char> bytes = broadcast_file(path, world, comm->me, readable);
    if (!readable)
        error->all(FLERR, "{}: cannot read '{}'; name the uncertainty.safetensors that ideal-run wrote", style_, path);
    load(bytes, path);
}

void UncertaintyAdaptor::load(const std::vector<char>& bytes, const std::string& path)
{
    std::unique_ptr<ideal::SoapMahalanobis> fresh;
    std::string problem;
    try {
        fresh = ideal::parse_state(bytes.data(), bytes.size(), path);
    } catch (const ideal::Error& e) {
        problem = e.what();
    }
    if (!problem.empty()) error->all(FLERR, "{}: {}", style_, problem); // the same bytes, so on all ranks alike
    const std::vector<int>& known = fresh->soap().parameters().numbers;
    std::string elements;
    for (const int number : known) elements += std::string(elements.empty() ? "" : " ") + ideal::chemical_symbol(number);
    for (std::size_t type = 1; type < number_of_type_.size(); ++type)
        if (std::find(known.begin(), known.end(), number_of_type_[type]) == known.end())
            error->all(FLERR, "{}: {} (atom type {}) is unknown to '{}', which knows {}; learn a distribution that has it",
                       style_, symbols_[type], type, path, elements);
    uncertainty_ = std::move(fresh);
}

double UncertaintyAdaptor::support() const { return uncertainty_->soap().support(); }

void UncertaintyAdaptor::check_ghosts() const
{
    if (comm->mode != Comm::SINGLE)
        error->all(FLERR, "{} needs ghost atoms of all types alike; use comm_modify mode single", style_);
    // Until the next exchange of atoms two of them may have approached by the skin.
    const double wanted = support() + neighbor->skin, present = comm->get_comm_cutoff();
    if (present < wanted * (1 - 1e-12))
        error->all(FLERR, "{} sees atoms up to {:.4g} Angstrom away, and ghost atoms reach {:.4g} (skin {:.4g} included); "
                   "add: comm_modify cutoff {:.4g}", style_, support(), present, neighbor->skin, wanted + 5e-3);
}

void UncertaintyAdaptor::evaluate(int groupbit, double* values)
{
    const int n_local = atom->nlocal, n_all = n_local + atom->nghost;
    std::fill_n(values, n_local, 0.0);
    centers_.clear();
    for (int i = 0; i < n_local; ++i)
        if (atom->mask[i] & groupbit) centers_.push_back(i);
    if (centers_.empty()) return;
    numbers_.resize(static_cast<std::size_t>(n_all));
    for (int i = 0; i < n_all; ++i) numbers_[i] = number_of_type_[atom->type[i]];
    u_.resize(centers_.size());
    ideal::Structure structure;
    structure.n_atoms = static_cast<std::size_t>(n_all);
    structure.positions = &atom->x[0][0];
    structure.numbers = numbers_.data();
    std::string problem;
    try {
        uncertainty_->atomic(structure, {centers_.data(), centers_.size()}, u_.data(), comm->nthreads);
    } catch (const ideal::Error& e) {
        problem = e.what();
    } catch (const std::bad_alloc&) {
        problem = "out of memory";
    }
    if (!problem.empty()) error->one(FLERR, "{}: {} (atoms counted from 0 on this rank)", style_, problem);
    for (std::size_t k = 0; k < centers_.size(); ++k) values[centers_[k]] = u_[k];
}

double UncertaintyAdaptor::memory_usage() const
{
    const double n = static_cast<double>(uncertainty_->soap().n_features());
    const double matrices = 2.0 * 8 * n * n * static_cast<double>(uncertainty_->n_distributions());
    return matrices + 4.0 * numbers_.capacity() + 8.0 * centers_.capacity() + 8.0 * u_.capacity();
}
