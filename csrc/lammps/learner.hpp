// SPDX-License-Identifier: GPL-2.0-or-later
// What fix ideal does with a learner (`ideal-run serve`): rank 0 talks, all ranks take what comes.
//
// A request has a number; it is in flight from the moment it is made until an answer with its number comes, over lost
// connections too: it is sent again when the learner is back. There is never a second one.
#pragma once

#include "pointers.h"

#include "neighborhood_writer.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

class LearnerClient;
class MessageWriter;
struct Message;

namespace LAMMPS_NS {

struct LearnerSettings {
    std::string host, port, token_file;
    /// Go on while the learner works, or wait for it.
    bool go_on = false;
    /// Longest time without a sign of life before a run that waits gives up, s.
    double timeout = 600;
};

/// What a check saw, for the learner's log.
struct CheckValues {
    double max_u = 0, threshold = 0, temperature = 0;
    bigint n_above = 0;
};

/// What came of a call.
struct LearnerOutcome {
    bool updated = false;  // threshold, and maybe distribution and weights, are new
    bool answered = false; // the request is done with
    bool stop = false;     // the learner says that the run should end
    bool gave_up = false;  // nothing was heard for too long
    double threshold = 0;
    std::string text;
};

class Learner : protected Pointers {
public:
    /// name: of the trajectory. Collective; LAMMPS error if the token cannot be read.
    Learner(class LAMMPS* lmp, std::string name, LearnerSettings settings);
    ~Learner() override;

    const LearnerSettings& settings() const { return settings_; }
    std::string address() const;
    /// Whether an answer is waited for.
    bool in_flight() const { return request_ != 0; }
    /// Whether the learner was there when last tried. The same on all ranks.
    bool connected() const { return connected_; }
    /// Run directory of the learner; empty before it was there once.
    const std::string& run() const { return run_; }

    /// Identifies the simulation, over restarts; kept by the fix.
    void set_client(std::uint64_t client) { client_ = client; }
    std::uint64_t client() const { return client_; }

    using Outcome = LearnerOutcome;

    /// Connect for the first time and take over the run's present state. LAMMPS error if the learner is not there.
    Outcome start(class UncertaintyAdaptor& adaptor, double threshold);
    /// Take what has come, try to find a lost learner again now and then. Quick; call at every check.
    Outcome poll(class UncertaintyAdaptor& adaptor, const CheckValues& values);
    /// Make a request of neighborhoods (filled on rank 0) and send it, now or when the learner is back.
    void ask(const std::vector<Neighborhood>& neighborhoods, const class UncertaintyAdaptor& adaptor,
             const CheckValues& values);
    /// Wait for the answer.
    Outcome wait(class UncertaintyAdaptor& adaptor);
    /// Forget the request, and hang up: on the same connection the learner still owes its answer, and takes no other.
    void abandon();
    /// Say good-bye. Needs nothing of LAMMPS any more.
    void leave();

private:
    using Clock = std::chrono::steady_clock;
    bool greet(double seconds);
    bool find_again(double seconds);
    void note(const Message& message, Outcome& outcome);
    std::string check_message(const char* kind, const CheckValues& values) const;
    void put_check(MessageWriter& writer, const CheckValues& values) const;
    void share(Outcome& outcome, class UncertaintyAdaptor& adaptor);
    void sleep_until_called();
    void call_others();
    double volume() const;
    double time_fs() const;

    std::string name_;
    LearnerSettings settings_;
    std::uint64_t client_ = 0;
    long long request_ = 0;
    bool connected_ = false;
    std::string run_;
    // Of rank 0.
    std::unique_ptr<LearnerClient> link_;
    std::string token_, version_, elements_, pending_, bye_;
    std::string refusal_; // why the learner did not welcome us when last asked
    bool model_wanted_ = false;
    double backoff_ = 1;
    Clock::time_point tried_, told_, heard_;
    std::vector<char> distribution_, model_;
};

} // namespace LAMMPS_NS
