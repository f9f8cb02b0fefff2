// SPDX-License-Identifier: GPL-2.0-or-later
#include "learner.hpp"

#include "learner_client.hpp"
#include "learner_message.hpp"
#include "pair_ideal.hpp"
#include "uncertainty_adaptor.hpp"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "update.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <thread>

using namespace LAMMPS_NS;

namespace {

/// Attempts to find the learner at the start of the first run, and the pause between them, s.
constexpr int first_attempts = 4;
constexpr double first_pause = 0.5;
/// Longest time for an attempt to connect and to be welcomed, s; shorter within a run that goes on.
constexpr double greeting_seconds = 10, passing_seconds = 2;
/// Longest pause between two attempts to find a lost learner, s.
constexpr double longest_backoff = 30;
/// Between two checks that the learner is told of, s.
constexpr double told_seconds = 2;
/// Tag of the message that wakes the other ranks.
constexpr int wake = 7301;

double seconds_since(std::chrono::steady_clock::time_point when)
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - when).count();
}

void pause(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

/// The first line of a file; empty if there is none.
std::string first_line(const std::string& path)
{
    char line[256] = {};
    std::FILE* file = std::fopen(path.c_str(), "r");
    if (file == nullptr) return {};
    if (std::fgets(line, sizeof line, file) == nullptr) line[0] = 0;
    std::fclose(file);
    return std::string(line, std::strcspn(line, " \t\r\n"));
}

/// Text from rank 0 on all ranks.
void broadcast(std::string& text, MPI_Comm world)
{
    int size = static_cast<int>(text.size());
    MPI_Bcast(&size, 1, MPI_INT, 0, world);
    text.resize(static_cast<std::size_t>(size));
    if (size > 0) MPI_Bcast(text.data(), size, MPI_CHAR, 0, world);
}

void broadcast(std::vector<char>& bytes, MPI_Comm world)
{
    long long size = static_cast<long long>(bytes.size());
    MPI_Bcast(&size, 1, MPI_LONG_LONG, 0, world);
    bytes.resize(static_cast<std::size_t>(size));
    constexpr long long most = 1 << 30; // counts of MPI are ints
    for (long long begin = 0; begin < size; begin += most)
        MPI_Bcast(bytes.data() + begin, static_cast<int>(std::min(most, size - begin)), MPI_CHAR, 0, world);
}

} // namespace

Learner::Learner(LAMMPS* lmp, std::string name, LearnerSettings settings) :
    Pointers(lmp), name_(std::move(name)), settings_(std::move(settings))
{
    int readable = 1;
    unsigned long long client = 0;
    if (comm->me == 0) {
        token_ = first_line(settings_.token_file);
        readable = !token_.empty();
        std::random_device device;
        client = static_cast<unsigned long long>(device()) << 32 | device();
        link_ = std::make_unique<LearnerClient>(settings_.host, settings_.port);
    }
    MPI_Bcast(&readable, 1, MPI_INT, 0, world);
    MPI_Bcast(&client, 1, MPI_UNSIGNED_LONG_LONG, 0, world);
    client_ = client;
    if (!readable)
        error->all(FLERR, "fix ideal: cannot read a token in '{}'; name with token-file the file that ideal-run serve made, "
                   "serve.token of its run directory", settings_.token_file);
}

Learner::~Learner() = default;

std::string Learner::address() const { return settings_.host + ":" + settings_.port; }

// ---- rank 0 ------------------------------------------------------------------------------------------------------------

/// Connect, say who we are, and take the welcome. Rank 0.
bool Learner::greet(double seconds)
{
    const auto begin = Clock::now();
    refusal_.clear();
    if (!link_->connect(seconds)) return false;
    MessageWriter hello("hello");
    hello.integer("protocol", learner_protocol);
    hello.text("token", token_);
    hello.text("client", fmt::format("{:016x}", client_));
    hello.text("name", name_);
    hello.raw("elements", elements_);
    hello.integer("last_step", std::max<bigint>(0, update->laststep));
    hello.text("version", version_);
    hello.flag("model", model_wanted_);
    if (!link_->send(hello.bytes())) return false;
    const std::optional<Message> answer = link_->receive(seconds - seconds_since(begin));
    if (!answer) {
        if (link_->connected()) link_->close();
        return false;
    }
    if (answer->kind != "welcome") {
        refusal_ = "refused: " + answer->text;
        link_->close();
        return false;
    }
    run_ = answer->run;
    heard_ = Clock::now();
    backoff_ = 1;
    return true;
}

/// Connect again, and send the request that is in flight. Rank 0.
bool Learner::find_again(double seconds)
{
    tried_ = Clock::now();
    if (!greet(seconds)) {
        backoff_ = std::min(2 * backoff_, longest_backoff);
        return false;
    }
    return pending_.empty() || link_->send(pending_);
}

/// Take over what a message says. Rank 0.
void Learner::note(const Message& message, Outcome& outcome)
{
    heard_ = Clock::now();
    if (message.kind == "refused") {
        outcome.stop = true;
        outcome.text = message.text;
        link_->close();
    }
    if (message.kind != "update") return;
    outcome.updated = true;
    outcome.threshold = message.threshold;
    version_ = message.version;
    if (const auto found = message.arrays.find("distribution"); found != message.arrays.end()) distribution_ = found->second;
    if (const auto found = message.arrays.find("model"); found != message.arrays.end()) model_ = found->second;
    if (message.request != 0 && message.request == request_) {
        outcome.answered = true;
        outcome.stop = message.stop;
        outcome.text = message.text.empty() ? fmt::format("{} labels learned", message.labels) : message.text;
        pending_.clear();
    }
}

void Learner::put_check(MessageWriter& writer, const CheckValues& values) const
{
    writer.integer("step", update->ntimestep);
    writer.number("time_fs", time_fs());
    writer.number("temperature", values.temperature);
    writer.number("max_u", values.max_u);
    writer.integer("n_above", values.n_above);
    writer.number("threshold", values.threshold);
    writer.number("volume", volume());
}

std::string Learner::check_message(const char* kind, const CheckValues& values) const
{
    MessageWriter writer(kind);
    put_check(writer, values);
    return writer.bytes();
}

double Learner::time_fs() const
{
    const double fs = std::strcmp(update->unit_style, "metal") == 0 ? 1000 : 1;
    return fs * (update->atime + static_cast<double>(update->ntimestep - update->atimestep) * update->dt);
}

/// Of a box that is periodic along all axes, Å³; else not known.
double Learner::volume() const
{
    if (!domain->xperiodic || !domain->yperiodic || !domain->zperiodic) return std::numeric_limits<double>::quiet_NaN();
    return domain->xprd * domain->yprd * domain->zprd;
}

// ---- all ranks -----------------------------------------------------------------------------------------------------------

Learner::Outcome Learner::start(UncertaintyAdaptor& adaptor, double threshold)
{
    Outcome outcome;
    outcome.threshold = threshold;
    std::string problem;
    if (comm->me == 0) {
        elements_ = "[";
        for (int type = 1; type <= atom->ntypes; ++type)
            elements_ += fmt::format("{}\"{}\"", type > 1 ? ", " : "", adaptor.symbol(type));
        elements_ += "]";
        model_wanted_ = dynamic_cast<PairIdeal*>(force->pair_match("ideal", 1)) != nullptr;
        bool there = greet(greeting_seconds);
        for (int k = 1; k < first_attempts && !there && refusal_.empty(); ++k) {
            pause(first_pause);
            there = greet(greeting_seconds);
        }
        if (!refusal_.empty()) problem = refusal_;
        else if (!there) problem = "not there (" + link_->problem() + "); start `ideal-run serve CONFIG.yaml` first, it prints "
                                   "the words for this fix when it is ready";
        else if (version_.empty()) {
            const std::optional<Message> first = link_->receive(greeting_seconds);
            if (first) note(*first, outcome);
            if (!outcome.updated) problem = "silent (" + link_->problem() + "); look at what ideal-run serve printed";
        }
    }
    broadcast(problem, world);
    if (!problem.empty()) error->all(FLERR, "fix ideal: the learner at {} is {}", address(), problem);
    share(outcome, adaptor);
    return outcome;
}

Learner::Outcome Learner::poll(UncertaintyAdaptor& adaptor, const CheckValues& values)
{
    Outcome outcome;
    if (comm->me == 0) {
        if (!link_->connected() && seconds_since(tried_) > backoff_) find_again(passing_seconds);
        while (const std::optional<Message> message = link_->receive(0)) note(*message, outcome);
        bye_ = check_message("bye", values);
        if (link_->connected() && request_ == 0 && seconds_since(told_) > told_seconds) {
            told_ = Clock::now();
            link_->send(check_message("check", values));
        }
    }
    share(outcome, adaptor);
    return outcome;
}

void Learner::ask(const std::vector<Neighborhood>& neighborhoods, const UncertaintyAdaptor& adaptor,
                  const CheckValues& values)
{
    // Microseconds: larger than any number before, after a restart from an earlier step too.
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    request_ = std::max<long long>(request_ + 1, std::chrono::duration_cast<std::chrono::microseconds>(now).count());
    MPI_Bcast(&request_, 1, MPI_LONG_LONG, 0, world);
    if (comm->me != 0) return;
    MessageWriter writer("learn");
    put_check(writer, values);
    writer.integer("request", request_);
    std::string places;
    const auto flags = [](const std::array<bool, 3>& values) {
        const auto word = [](bool value) { return value ? "true" : "false"; };
        return fmt::format("[{}, {}, {}]", word(values[0]), word(values[1]), word(values[2]));
    };
    for (std::size_t k = 0; k < neighborhoods.size(); ++k) {
        const Neighborhood& one = neighborhoods[k];
        places += fmt::format("{}{{\"atom\": {}, \"pbc\": {}, \"whole\": {}}}", k > 0 ? ", " : "", one.ids[0],
                              flags(one.periodic), flags(one.whole));
        std::vector<long long> numbers;
        for (const int type : one.types) numbers.push_back(adaptor.number(type));
        std::vector<double> cell;
        for (const auto& vector : one.cell) cell.insert(cell.end(), vector.begin(), vector.end());
        writer.array(fmt::format("{}.positions", k), one.positions, {one.types.size(), 3});
        writer.array(fmt::format("{}.numbers", k), numbers);
        writer.array(fmt::format("{}.cell", k), cell, {3, 3});
    }
    writer.raw("neighborhoods", "[" + places + "]");
    pending_ = writer.bytes();
    heard_ = Clock::now();
    if (link_->connected()) link_->send(pending_);
}

Learner::Outcome Learner::wait(UncertaintyAdaptor& adaptor)
{
    Outcome outcome;
    if (comm->me == 0) {
        while (!outcome.answered && !outcome.stop && !outcome.gave_up) {
            if (!link_->connected() && seconds_since(tried_) > backoff_)
                find_again(std::min(greeting_seconds, settings_.timeout));
            if (const std::optional<Message> message = link_->receive(0.5)) note(*message, outcome);
            else if (!link_->connected()) pause(0.1);
            outcome.gave_up = !outcome.answered && seconds_since(heard_) > settings_.timeout;
        }
        if (outcome.gave_up) outcome.text = link_->connected() ? "it is silent" : refusal_.empty() ? link_->problem() : refusal_;
        call_others();
    } else {
        sleep_until_called();
    }
    share(outcome, adaptor);
    return outcome;
}

void Learner::abandon()
{
    leave(); // a learner that works in silence need not wait for more of this run
    if (link_) link_->close();
    request_ = 0;
    connected_ = false;
    pending_.clear();
}

/// At the end of LAMMPS its clock and its forces are gone before its fixes are.
void Learner::leave()
{
    if (link_ && link_->connected() && !bye_.empty()) link_->send(bye_);
}

/// Ranks that wait hours in MPI_Bcast would keep their cores busy, which the reference code may need.
void Learner::sleep_until_called()
{
#ifndef MPI_STUBS
    int word = 0, done = 0;
    MPI_Request request;
    MPI_Irecv(&word, 1, MPI_INT, 0, wake, world, &request);
    for (MPI_Test(&request, &done, MPI_STATUS_IGNORE); !done; MPI_Test(&request, &done, MPI_STATUS_IGNORE)) pause(0.005);
#endif
}

void Learner::call_others()
{
#ifndef MPI_STUBS
    for (int rank = 1; rank < comm->nprocs; ++rank) {
        int word = 0;
        MPI_Send(&word, 1, MPI_INT, rank, wake, world);
    }
#endif
}

/// What rank 0 has taken, on all ranks: the outcome, the distribution, the weights.
void Learner::share(Outcome& outcome, UncertaintyAdaptor& adaptor)
{
    int flags[7] = {};
    if (comm->me == 0) {
        connected_ = link_->connected();
        const int values[7] = {outcome.updated,  outcome.answered,       outcome.stop,   outcome.gave_up,
                               connected_, !distribution_.empty(), !model_.empty()};
        std::copy(values, values + 7, flags);
    }
    MPI_Bcast(flags, 7, MPI_INT, 0, world);
    outcome.updated = flags[0];
    outcome.answered = flags[1];
    outcome.stop = flags[2];
    outcome.gave_up = flags[3];
    connected_ = flags[4];
    if (outcome.answered) request_ = 0;
    if (outcome.answered || outcome.stop || outcome.gave_up) broadcast(outcome.text, world);
    if (!outcome.updated) return;
    broadcast(run_, world);
    MPI_Bcast(&outcome.threshold, 1, MPI_DOUBLE, 0, world);
    if (flags[5]) {
        broadcast(distribution_, world);
        adaptor.load(distribution_, "the distribution of the learner");
        distribution_.clear();
    }
    if (flags[6]) {
        broadcast(model_, world);
        if (auto* pair = dynamic_cast<PairIdeal*>(force->pair_match("ideal", 1)))
            pair->reload(model_, "the model of the learner");
        model_.clear();
    }
}
