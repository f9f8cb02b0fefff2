// SPDX-License-Identifier: GPL-2.0-or-later
// fix ID group ideal N state.safetensors El1 El2 ... keyword value ...
// Every N steps, how far each atom of the group is from the training set; on crossing a threshold: stop, write the
// neighborhoods of the uncertain atoms, or have them learned (doc/fix_ideal.rst).
#pragma once

#include "fix.h"

#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

class FixIdeal : public Fix {
public:
    FixIdeal(class LAMMPS* lmp, int narg, char** arg);
    ~FixIdeal() override;
    int setmask() override;
    void init() override;
    void setup(int) override;
    void min_setup(int) override;
    void end_of_step() override;
    void post_run() override;

    double compute_scalar() override;
    double compute_vector(int) override;
    int modify_param(int narg, char** arg) override;

    void grow_arrays(int) override;
    void copy_arrays(int, int, int) override;
    void set_arrays(int) override;
    int pack_exchange(int, double*) override;
    int unpack_exchange(int, double*) override;
    void write_restart(FILE*) override;
    void restart(char*) override;
    double memory_usage() override;

private:
    enum class Halt { none, hard, soft, carry_on };
    int keyword(int narg, char** arg);
    int learner_keyword(const std::string& name, const char* value);
    void check_threshold();
    void check();
    void reduce();
    void trigger();
    void learn(const std::vector<struct Neighborhood>& neighborhoods);
    void take(const struct LearnerOutcome& outcome);
    void keep(const std::vector<struct Neighborhood>& neighborhoods);
    void stop(const std::string& message);
    void say(const std::string& message);
    struct CheckValues values(bool with_temperature);

    std::unique_ptr<class UncertaintyAdaptor> adaptor_;
    std::unique_ptr<class NeighborhoodWriter> writer_;
    std::unique_ptr<class Learner> learner_;
    std::unique_ptr<struct LearnerSettings> learner_settings_; // while keywords are read
    std::vector<struct Neighborhood> asked_; // in flight, with policy continue
    std::string dump_; // file that neighborhoods are appended to; empty: none
    double* u_ = nullptr;
    double threshold_;
    Halt halt_ = Halt::none;
    bigint least_steps_ = 0;

    // Of the last check, over all ranks.
    double max_ = 0, mean_ = 0, max_id_ = 0;
    bigint n_above_ = 0;
    // Since the beginning, restarts included.
    bigint n_triggers_ = 0, last_trigger_ = -1;
    bool halted_ = false;
};

} // namespace LAMMPS_NS
