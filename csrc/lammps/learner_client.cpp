// SPDX-License-Identifier: GPL-2.0-or-later
#include "learner_client.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

/// Longest time that a message may take to be sent, s.
constexpr double send_seconds = 60;

#ifdef MSG_NOSIGNAL
constexpr int no_signal = MSG_NOSIGNAL;
#else
constexpr int no_signal = 0;
#endif

double seconds_since(std::chrono::steady_clock::time_point when)
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - when).count();
}

} // namespace

bool LearnerClient::lose(const std::string& why)
{
    close();
    problem_ = why;
    return false;
}

void LearnerClient::close()
{
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
    reader_.clear();
}

double LearnerClient::silence() const { return seconds_since(heard_); }

bool LearnerClient::ready(short events, double seconds) const
{
    pollfd what{socket_, events, 0};
    const int n = ::poll(&what, 1, static_cast<int>(1000 * std::max(0.0, seconds)));
    return n > 0;
}

bool LearnerClient::connect(double seconds)
{
    close();
    addrinfo hints{}, *found = nullptr;
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    if (const int code = ::getaddrinfo(host_.c_str(), port_.c_str(), &hints, &found); code != 0)
        return lose(::gai_strerror(code));
    std::string why = "no address";
    for (const addrinfo* place = found; place != nullptr && socket_ < 0; place = place->ai_next) {
        socket_ = ::socket(place->ai_family, place->ai_socktype, place->ai_protocol);
        if (socket_ < 0) continue;
        ::fcntl(socket_, F_SETFL, ::fcntl(socket_, F_GETFL) | O_NONBLOCK);
        ::fcntl(socket_, F_SETFD, FD_CLOEXEC);
        int code = ::connect(socket_, place->ai_addr, place->ai_addrlen) == 0 ? 0 : errno;
        if (code == EINPROGRESS) {
            socklen_t size = sizeof code;
            if (!ready(POLLOUT, seconds)) code = ETIMEDOUT;
            else if (::getsockopt(socket_, SOL_SOCKET, SO_ERROR, &code, &size) != 0) code = errno;
        }
        if (code == 0) break;
        why = std::strerror(code);
        ::close(socket_);
        socket_ = -1;
    }
    ::freeaddrinfo(found);
    if (socket_ < 0) return lose(why);
    const int on = 1;
    ::setsockopt(socket_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
#ifdef SO_NOSIGPIPE
    ::setsockopt(socket_, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    heard_ = Clock::now();
    problem_.clear();
    return true;
}

bool LearnerClient::send(const std::string& bytes)
{
    if (!connected()) return false;
    const auto begin = Clock::now();
    for (std::size_t sent = 0; sent < bytes.size();) {
        const ssize_t n = ::send(socket_, bytes.data() + sent, bytes.size() - sent, no_signal);
        if (n > 0) sent += static_cast<std::size_t>(n);
        else if (n < 0 && errno == EINTR) continue;
        else if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) return lose(std::strerror(errno));
        else if (!ready(POLLOUT, send_seconds - seconds_since(begin))) return lose("it takes nothing any more");
    }
    return true;
}

std::optional<Message> LearnerClient::receive(double seconds)
{
    const auto begin = Clock::now();
    while (connected()) {
        try {
            if (std::optional<Message> message = reader_.next()) return message;
        } catch (const std::runtime_error& error) {
            lose(std::string("it sent what is no message: ") + error.what());
            return std::nullopt;
        }
        char block[1 << 16];
        const ssize_t n = ::recv(socket_, block, sizeof block, 0);
        if (n > 0) {
            heard_ = Clock::now();
            reader_.feed(block, static_cast<std::size_t>(n));
        } else if (n == 0) {
            lose("it closed the connection");
        } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            lose(std::strerror(errno));
        } else if (const double rest = seconds - seconds_since(begin); rest <= 0 || !ready(POLLIN, rest)) {
            if (rest <= 0) return std::nullopt;
        }
    }
    return std::nullopt;
}
