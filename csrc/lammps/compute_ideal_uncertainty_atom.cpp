// SPDX-License-Identifier: GPL-2.0-or-later
#include "compute_ideal_uncertainty_atom.hpp"

#include "uncertainty_adaptor.hpp"

#include "atom.h"
#include "error.h"
#include "memory.h"
#include "update.h"

using namespace LAMMPS_NS;

ComputeIdealUncertaintyAtom::ComputeIdealUncertaintyAtom(LAMMPS* lmp, int narg, char** arg) : Compute(lmp, narg, arg)
{
    if (narg < 5)
        error->all(FLERR, "compute ideal/uncertainty/atom needs a state file and one element per atom type: "
                   "compute ID group ideal/uncertainty/atom uncertainty.safetensors Li");
    adaptor_ = std::make_unique<UncertaintyAdaptor>(lmp, "compute ideal/uncertainty/atom", arg[3], narg - 4, arg + 4);
    peratom_flag = 1;
    size_peratom_cols = 0;
}

ComputeIdealUncertaintyAtom::~ComputeIdealUncertaintyAtom()
{
    memory->destroy(vector_atom);
}

void ComputeIdealUncertaintyAtom::init() {}

void ComputeIdealUncertaintyAtom::compute_peratom()
{
    invoked_peratom = update->ntimestep;
    if (atom->nmax > capacity_) {
        capacity_ = atom->nmax;
        memory->destroy(vector_atom);
        memory->create(vector_atom, capacity_, "ideal/uncertainty/atom:u");
    }
    adaptor_->check_ghosts();
    adaptor_->evaluate(groupbit, vector_atom);
}

double ComputeIdealUncertaintyAtom::memory_usage()
{
    return 8.0 * capacity_ + adaptor_->memory_usage();
}
