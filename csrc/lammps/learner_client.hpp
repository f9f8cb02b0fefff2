// SPDX-License-Identifier: GPL-2.0-or-later
// The connection to `ideal-run serve`: one TCP socket, used by one rank, lost and found again. Nothing here blocks longer
// than it is told to.
#pragma once

#include "learner_message.hpp"

#include <chrono>
#include <optional>
#include <string>

/// Version of what both sides say; the learner refuses another.
constexpr int learner_protocol = 1;

class LearnerClient {
public:
    LearnerClient(std::string host, std::string port) : host_(std::move(host)), port_(std::move(port)) {}
    ~LearnerClient() { close(); }
    LearnerClient(const LearnerClient&) = delete;
    LearnerClient& operator=(const LearnerClient&) = delete;

    bool connected() const { return socket_ >= 0; }
    std::string address() const { return host_ + ":" + port_; }
    /// Why the connection could not be made or was lost.
    const std::string& problem() const { return problem_; }

    /// One attempt to connect, within `seconds`.
    bool connect(double seconds);
    /// False, and the connection is lost, where it cannot be sent.
    bool send(const std::string& bytes);
    /// The next message, waited for `seconds` at most (0: what is there).
    std::optional<Message> receive(double seconds);
    /// Seconds since anything was heard.
    double silence() const;
    void close();

private:
    using Clock = std::chrono::steady_clock;
    bool lose(const std::string& why);
    bool ready(short events, double seconds) const;

    std::string host_, port_, problem_;
    int socket_ = -1;
    MessageReader reader_;
    Clock::time_point heard_ = Clock::now();
};
