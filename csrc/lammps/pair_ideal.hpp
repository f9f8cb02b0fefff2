// SPDX-License-Identifier: GPL-2.0-or-later
// pair_style ideal
// pair_coeff * * model.safetensors El1 El2 ...
// M3GNet, block by block with one cutoff of ghost atoms (doc/pair_ideal.rst).
#pragma once

#include "pair.h"

#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

class PairIdeal : public Pair {
public:
    explicit PairIdeal(class LAMMPS* lmp);
    ~PairIdeal() override;
    void compute(int eflag, int vflag) override;
    void settings(int narg, char** arg) override;
    void coeff(int narg, char** arg) override;
    /// New weights of the same architecture within a run; the same bytes on all ranks. `name` is for messages.
    void reload(const std::vector<char>& bytes, const std::string& name);
    void init_style() override;
    double init_one(int i, int j) override;
    int pack_forward_comm(int n, int* list, double* buffer, int pbc_flag, int* pbc) override;
    void unpack_forward_comm(int n, int first, double* buffer) override;
    int pack_reverse_comm(int n, int first, double* buffer) override;
    void unpack_reverse_comm(int n, int* list, double* buffer) override;
    double memory_usage() override;

private:
    struct Model;
    void allocate();
    void take(const std::vector<char>& bytes, const std::string& path);
    void collect_atoms();
    void collect_edges();

    std::unique_ptr<Model> model_;
    std::vector<std::string> symbols_; // of the types, as pair_coeff named them
    std::vector<int> element_of_type_; // index in the model; -1: not this style's
    double energy_unit_ = 1;           // of LAMMPS per eV

    // The atoms of this style, local ones first; LAMMPS' index to ours and back.
    std::vector<int> own_index_, atom_index_, types_;
    int n_local_ = 0;
    std::vector<double> positions_;
    std::vector<long long> first_edge_;
    std::vector<int> target_;
    std::vector<double> energies_, forces_, atom_virials_;
    float* rows_ = nullptr; // what is being exchanged
};

} // namespace LAMMPS_NS
