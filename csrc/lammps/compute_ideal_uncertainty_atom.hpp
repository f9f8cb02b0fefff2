// SPDX-License-Identifier: GPL-2.0-or-later
// compute ID group ideal/uncertainty/atom state.safetensors El1 El2 ...
// u of each atom when a dump or another command asks for it (doc/compute_ideal_uncertainty_atom.rst).
#pragma once

#include "compute.h"

#include <memory>

namespace LAMMPS_NS {

class ComputeIdealUncertaintyAtom : public Compute {
public:
    ComputeIdealUncertaintyAtom(class LAMMPS* lmp, int narg, char** arg);
    ~ComputeIdealUncertaintyAtom() override;
    void init() override;
    void compute_peratom() override;
    double memory_usage() override;

private:
    std::unique_ptr<class UncertaintyAdaptor> adaptor_;
    int capacity_ = 0;
};

} // namespace LAMMPS_NS
