// SPDX-License-Identifier: GPL-2.0-or-later
#include "fix_ideal.hpp"

#include "learner.hpp"
#include "neighborhood_writer.hpp"
#include "uncertainty_adaptor.hpp"

#include "atom.h"
#include "comm.h"
#include "compute.h"
#include "error.h"
#include "memory.h"
#include "modify.h"
#include "timer.h"
#include "update.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

using namespace LAMMPS_NS;

namespace {

constexpr const char* keywords = "threshold, halt, dump, radius, most, apart, min_steps, learn, token-file, policy, timeout";
/// Elements of the global vector.
constexpr int n_values = 5;

} // namespace

FixIdeal::FixIdeal(LAMMPS* lmp, int narg, char** arg) :
    Fix(lmp, narg, arg), threshold_(std::numeric_limits<double>::infinity())
{
    const int first = 5, n_types = atom->ntypes;
    if (narg < first + n_types)
        error->all(FLERR, "fix ideal needs N, a state file and one element for each of the {} atom types: "
                   "fix ID group ideal 10 uncertainty.safetensors Li", n_types);
    nevery = utils::inumeric(FLERR, arg[3], false, lmp);
    if (nevery < 1) error->all(FLERR, "fix ideal: N = {}; give the steps between two checks, at least 1", arg[3]);
    if (!atom->tag_enable) error->all(FLERR, "fix ideal needs atom ids; use atom_modify id yes");
    adaptor_ = std::make_unique<UncertaintyAdaptor>(lmp, "fix ideal", arg[4], n_types, arg + first);
    for (int k = first + n_types; k < narg;) k += keyword(narg - k, arg + k);
    check_threshold();
    if (learner_settings_) {
        if (learner_settings_->host.empty())
            error->all(FLERR, "fix ideal: token-file, policy and timeout belong to learn HOST:PORT, which is missing");
        const char* file = std::getenv("IDEAL_TOKEN_FILE");
        if (learner_settings_->token_file.empty() && file != nullptr) learner_settings_->token_file = file;
        if (learner_settings_->token_file.empty())
            error->all(FLERR, "fix ideal: learn needs token-file FILE; ideal-run serve prints which");
        learner_ = std::make_unique<Learner>(lmp, id, *learner_settings_);
    }

    scalar_flag = vector_flag = 1;
    size_vector = n_values;
    global_freq = 1; // the values of the last check, at any step
    extscalar = extvector = 0;
    peratom_flag = 1;
    size_peratom_cols = 0;
    peratom_freq = nevery;
    restart_global = 1;
    create_attribute = 1;
    maxexchange = 1;
    FixIdeal::grow_arrays(atom->nmax);
    atom->add_callback(Atom::GROW);
    std::fill_n(u_, atom->nlocal, 0.0);
}

FixIdeal::~FixIdeal()
{
    if (learner_) learner_->leave();
    atom->delete_callback(id, Atom::GROW);
    memory->destroy(u_);
}

/// Reads one keyword and its values; returns how many words they took.
int FixIdeal::keyword(int narg, char** arg)
{
    const std::string name = arg[0];
    const auto positive = [&](double value) {
        if (!(value > 0)) error->all(FLERR, "fix ideal: {} {}; give a positive number", name, arg[1]);
        return value;
    };
    const auto settings = [&]() -> NeighborhoodSettings { return writer_ ? writer_->settings() : NeighborhoodSettings(); };
    const std::array<const char*, 11> known{"threshold", "halt",      "dump",  "radius",     "most",   "apart",
                                            "min_steps", "learn",     "token-file", "policy", "timeout"};
    if (std::find(known.begin(), known.end(), name) == known.end())
        error->all(FLERR, "fix ideal: unknown keyword '{}'; known: {}", name, keywords);
    if (narg < 2) error->all(FLERR, "fix ideal: keyword '{}' needs a value", name);
    if (name == "threshold") {
        threshold_ = positive(utils::numeric(FLERR, arg[1], false, lmp));
    } else if (name == "halt") {
        const std::string mode = arg[1];
        if (mode == "none") halt_ = Halt::none;
        else if (mode == "hard") halt_ = Halt::hard;
        else if (mode == "soft") halt_ = Halt::soft;
        else if (mode == "continue") halt_ = Halt::carry_on;
        else error->all(FLERR, "fix ideal: halt '{}' is none of none, hard, soft, continue", mode);
    } else if (name == "min_steps") {
        least_steps_ = utils::bnumeric(FLERR, arg[1], false, lmp);
        if (least_steps_ < 0) error->all(FLERR, "fix ideal: min_steps {}; give 0 or more", arg[1]);
    } else if (name == "learn" || name == "token-file" || name == "policy" || name == "timeout") {
        return learner_keyword(name, arg[1]);
    } else {
        NeighborhoodSettings changed = settings();
        if (name == "dump") dump_ = arg[1];
        else if (dump_.empty() && !learner_settings_ && !learner_)
            error->all(FLERR, "fix ideal: {} needs dump FILE or learn HOST:PORT before it", name);
        if (name == "radius") changed.radius = positive(utils::numeric(FLERR, arg[1], false, lmp));
        if (name == "apart") changed.apart = positive(utils::numeric(FLERR, arg[1], false, lmp));
        if (name == "most") {
            changed.most = utils::inumeric(FLERR, arg[1], false, lmp);
            if (changed.most < 1) error->all(FLERR, "fix ideal: most {}; give at least 1", arg[1]);
        }
        writer_ = std::make_unique<NeighborhoodWriter>(lmp, changed);
    }
    return 2;
}

/// learn, token-file, policy, timeout: in the fix command only.
int FixIdeal::learner_keyword(const std::string& name, const char* value)
{
    if (learner_ || u_ != nullptr) error->all(FLERR, "fix_modify: {} can only be given in the fix command", name);
    if (!learner_settings_) learner_settings_ = std::make_unique<LearnerSettings>();
    LearnerSettings& settings = *learner_settings_;
    const std::string word = value;
    if (name == "learn") {
        const std::size_t colon = word.rfind(':');
        const bool fine = colon != std::string::npos && colon > 0 && colon + 1 < word.size();
        if (!fine) error->all(FLERR, "fix ideal: learn '{}'; give HOST:PORT, as ideal-run serve prints it", word);
        settings.host = word.substr(0, colon);
        settings.port = word.substr(colon + 1);
        if (settings.host.front() == '[' && settings.host.back() == ']')
            settings.host = settings.host.substr(1, settings.host.size() - 2);
        if (!writer_) writer_ = std::make_unique<NeighborhoodWriter>(lmp, NeighborhoodSettings());
    } else if (name == "token-file") {
        settings.token_file = word;
    } else if (name == "policy") {
        if (word != "wait" && word != "continue") error->all(FLERR, "fix ideal: policy '{}' is neither wait nor continue", word);
        settings.go_on = word == "continue";
    } else {
        settings.timeout = utils::numeric(FLERR, value, false, lmp);
        if (!(settings.timeout > 0)) error->all(FLERR, "fix ideal: timeout {}; give seconds, more than 0", word);
    }
    return 2;
}

/// fix_modify ID state FILE, or one of the fix's own keywords.
int FixIdeal::modify_param(int narg, char** arg)
{
    if (std::strcmp(arg[0], "state") != 0) return keyword(narg, arg);
    if (narg < 2) error->all(FLERR, "fix_modify: keyword 'state' needs a file");
    adaptor_->load(arg[1]);
    return 2;
}

int FixIdeal::setmask() { return FixConst::END_OF_STEP | FixConst::POST_RUN; }

void FixIdeal::check_threshold()
{
    if (!std::isfinite(threshold_) && (halt_ != Halt::none || writer_))
        error->all(FLERR, "fix ideal: halt, dump and learn need a threshold; add, for example, threshold 2.0");
}

void FixIdeal::init()
{
    check_threshold(); // fix_modify may have added them since
    halted_ = false;
    if (last_trigger_ > update->ntimestep) last_trigger_ = -1; // reset_timestep has set the clock back
    if (learner_ && learner_->run().empty()) {
        take(learner_->start(*adaptor_, threshold_));
        say(fmt::format("fix ideal: learner at {}, run directory {}; threshold {:.4g}", learner_->address(),
                        learner_->run(), threshold_));
    }
}

/// Values for the first output of a run. Nothing is triggered: the step was checked when it was reached.
void FixIdeal::setup(int)
{
    adaptor_->check_ghosts();
    check();
}

void FixIdeal::min_setup(int vflag) { setup(vflag); }

void FixIdeal::end_of_step()
{
    check();
    if (learner_) {
        const LearnerOutcome outcome = learner_->poll(*adaptor_, values(false));
        take(outcome);
        if (outcome.updated) check();
        if (outcome.answered) asked_.clear();
        if (!learner_->connected() && !asked_.empty()) { // it will be sent again, if the learner comes back in this run
            keep(asked_);
            asked_.clear();
        }
    }
    const bool rested = last_trigger_ < 0 || update->ntimestep - last_trigger_ >= least_steps_;
    if (max_ > threshold_ && rested) trigger();
}

void FixIdeal::check()
{
    adaptor_->evaluate(groupbit, u_);
    reduce();
}

void FixIdeal::reduce()
{
    double own = -1, largest = -1;
    double sums[3] = {0, 0, 0}, totals[3]; // of u, atoms, atoms above
    tagint id = MAXTAGINT, lowest = MAXTAGINT;
    for (int i = 0; i < atom->nlocal; ++i) {
        if (!(atom->mask[i] & groupbit)) continue;
        sums[0] += u_[i];
        sums[1] += 1;
        sums[2] += u_[i] > threshold_;
        if (u_[i] < own || (u_[i] == own && atom->tag[i] > id)) continue;
        own = u_[i];
        id = atom->tag[i];
    }
    MPI_Allreduce(&own, &largest, 1, MPI_DOUBLE, MPI_MAX, world);
    MPI_Allreduce(sums, totals, 3, MPI_DOUBLE, MPI_SUM, world);
    if (own < largest) id = MAXTAGINT;
    MPI_Allreduce(&id, &lowest, 1, MPI_LMP_TAGINT, MPI_MIN, world);
    max_id_ = totals[1] > 0 ? static_cast<double>(lowest) : 0;
    max_ = std::max(0.0, largest);
    mean_ = totals[1] > 0 ? totals[0] / totals[1] : 0;
    n_above_ = static_cast<bigint>(totals[2]);
}

void FixIdeal::trigger()
{
    if (learner_ && learner_->in_flight() && learner_->connected()) return; // the answer is on its way
    ++n_triggers_;
    last_trigger_ = update->ntimestep;
    std::string message = fmt::format("fix ideal: step {}: u = {:.4g} at atom {:.0f}, {} atoms above {:.4g}",
                                      update->ntimestep, max_, max_id_, n_above_, threshold_);
    std::vector<Neighborhood> neighborhoods;
    if (writer_) neighborhoods = writer_->collect(u_, groupbit, threshold_);
    if (!dump_.empty()) {
        writer_->append(neighborhoods, dump_, *adaptor_);
        message += fmt::format("; {} neighborhoods appended to {}", neighborhoods.size(), dump_);
    }
    if (halt_ == Halt::hard) error->all(FLERR, "{}", message);
    say(message);
    if (halt_ != Halt::none) stop("");
    else if (learner_) learn(neighborhoods);
}

/// Have the neighborhoods learned; with policy wait, return when that is done.
void FixIdeal::learn(const std::vector<Neighborhood>& neighborhoods)
{
    const bool go_on = learner_->settings().go_on;
    if (learner_->in_flight()) { // and the learner is gone
        keep(neighborhoods);
        return;
    }
    learner_->ask(neighborhoods, *adaptor_, values(true));
    if (go_on) {
        asked_ = neighborhoods;
        return;
    }
    const LearnerOutcome outcome = learner_->wait(*adaptor_);
    if (outcome.gave_up) {
        keep(neighborhoods);
        learner_->abandon();
        stop(fmt::format("fix ideal: nothing was heard from the learner at {} for {:.0f} s ({}); the run ends here. Start it "
                         "again with `ideal-run resume {}`, then go on from a restart file", learner_->address(),
                         learner_->settings().timeout, outcome.text, learner_->run()));
        return;
    }
    take(outcome);
    if (outcome.updated) check();
}

/// Write neighborhoods that cannot be sent, unless dump has done it.
void FixIdeal::keep(const std::vector<Neighborhood>& neighborhoods)
{
    if (!dump_.empty()) return;
    const std::string path = fmt::format("{}.unlearned.extxyz", id);
    writer_->append(neighborhoods, path, *adaptor_);
    say(fmt::format("fix ideal: the learner is away; {} neighborhoods appended to {}", neighborhoods.size(), path));
}

/// Go by what the learner said.
void FixIdeal::take(const LearnerOutcome& outcome)
{
    if (outcome.updated) threshold_ = outcome.threshold;
    if (outcome.answered && !outcome.stop)
        say(fmt::format("fix ideal: step {}: answered: {}; threshold {:.4g}", update->ntimestep, outcome.text, threshold_));
    if (outcome.stop) stop(fmt::format("fix ideal: the learner says: {}; the run ends here", outcome.text));
}

/// End the run after this step.
void FixIdeal::stop(const std::string& message)
{
    if (!message.empty()) say(message);
    halted_ = true;
    timer->force_timeout();
}

void FixIdeal::say(const std::string& message)
{
    if (comm->me == 0) utils::logmesg(lmp, message + "\n");
}

/// What the learner is told. Collective with the temperature, which is not a number where no thermo_temp is there.
CheckValues FixIdeal::values(bool with_temperature)
{
    CheckValues seen;
    seen.max_u = max_;
    seen.threshold = threshold_;
    seen.n_above = n_above_;
    seen.temperature = std::numeric_limits<double>::quiet_NaN();
    Compute* temperature = with_temperature ? modify->get_compute_by_id("thermo_temp") : nullptr;
    if (temperature != nullptr && temperature->scalar_flag) seen.temperature = temperature->compute_scalar();
    return seen;
}

void FixIdeal::post_run()
{
    if (halted_ && halt_ == Halt::carry_on) timer->reset_timeout();
    halted_ = false;
}

double FixIdeal::compute_scalar() { return max_; }

double FixIdeal::compute_vector(int k)
{
    const std::array<double, n_values> values{max_, mean_, static_cast<double>(n_above_), max_id_,
                                              static_cast<double>(n_triggers_)};
    return values[static_cast<std::size_t>(k)];
}

// ---- per-atom values follow their atoms ------------------------------------------------------------------------------

void FixIdeal::grow_arrays(int n_max)
{
    memory->grow(u_, n_max, "ideal:u");
    vector_atom = u_;
}

void FixIdeal::copy_arrays(int i, int j, int) { u_[j] = u_[i]; }

void FixIdeal::set_arrays(int i) { u_[i] = 0; }

int FixIdeal::pack_exchange(int i, double* buffer)
{
    buffer[0] = u_[i];
    return 1;
}

int FixIdeal::unpack_exchange(int i, double* buffer)
{
    u_[i] = buffer[0];
    return 1;
}

// ---- restart ---------------------------------------------------------------------------------------------------------

void FixIdeal::write_restart(FILE* file)
{
    if (comm->me != 0) return;
    const std::uint64_t client = learner_ ? learner_->client() : 0; // as two numbers that a double holds exactly
    const double values[4] = {static_cast<double>(n_triggers_), static_cast<double>(last_trigger_),
                              static_cast<double>(client >> 32), static_cast<double>(client & 0xffffffffU)};
    const int size = sizeof(values);
    fwrite(&size, sizeof(int), 1, file);
    fwrite(values, sizeof(double), 4, file);
}

void FixIdeal::restart(char* buffer)
{
    double values[4];
    std::memcpy(values, buffer, sizeof(values));
    const auto client = static_cast<std::uint64_t>(values[2]) << 32 | static_cast<std::uint64_t>(values[3]);
    if (learner_ && client != 0) learner_->set_client(client);
    n_triggers_ = static_cast<bigint>(values[0]);
    last_trigger_ = static_cast<bigint>(values[1]);
}

double FixIdeal::memory_usage() { return 8.0 * atom->nmax + adaptor_->memory_usage(); }
