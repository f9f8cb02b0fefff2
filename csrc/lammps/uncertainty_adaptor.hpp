// SPDX-License-Identifier: GPL-2.0-or-later
// u of a rank's atoms, from what LAMMPS knows: its local and ghost atoms become an open structure of the core, its local
// atoms the centers.
#pragma once

#include "pointers.h"

#include <memory>
#include <string>
#include <vector>

namespace ideal {
class SoapMahalanobis;
}

namespace LAMMPS_NS {

class UncertaintyAdaptor : protected Pointers {
public:
    /// style: what the user wrote, for messages. Collective; LAMMPS errors for a file that is no state, for symbols that
    /// it does not know, for units without Å.
    UncertaintyAdaptor(class LAMMPS* lmp, std::string style, const std::string& path, int n_symbols, char** symbols);
    ~UncertaintyAdaptor() override;

    /// Take another state (after learning) with at least the same elements. Collective.
    void load(const std::string& path);
    /// The same from bytes that all ranks hold; `name` stands for the file in messages.
    void load(const std::vector<char>& bytes, const std::string& name);

    /// LAMMPS error unless ghost atoms reach as far as the descriptor sees. Call when the ghosts exist.
    void check_ghosts() const;

    /// u of the local atoms in the group -> values[0 ... nlocal - 1]; the others' values are set to 0.
    void evaluate(int groupbit, double* values);

    /// Distance beyond which an atom has no influence, Å.
    double support() const;
    /// Chemical symbol of an atom type, from 1 on.
    const std::string& symbol(int type) const { return symbols_[static_cast<std::size_t>(type)]; }
    int number(int type) const { return number_of_type_[static_cast<std::size_t>(type)]; }
    double memory_usage() const;

private:
    std::string style_;
    std::vector<std::string> symbols_; // by type; [0] unused
    std::vector<int> number_of_type_;
    std::unique_ptr<ideal::SoapMahalanobis> uncertainty_;
    std::vector<int> numbers_;
    std::vector<std::ptrdiff_t> centers_;
    std::vector<double> u_;
};

} // namespace LAMMPS_NS
