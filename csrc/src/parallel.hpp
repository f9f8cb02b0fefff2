// Threads over independent pieces of work, handed out one at a time.
#pragma once

#include "ideal/errors.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace ideal::detail {

/// Call work(thread, piece) for every piece; the first exception ends the loop and is thrown here.
template <class Work>
void parallel_for(std::size_t n_pieces, int threads, Work&& work) {
    if (threads < 1) throw ConfigError("threads = " + std::to_string(threads) + " is not valid; use 1 or more");
    const std::size_t n_threads = std::min<std::size_t>(threads, n_pieces);
    if (n_threads <= 1) {
        for (std::size_t piece = 0; piece < n_pieces; ++piece) work(std::size_t(0), piece);
        return;
    }
    std::atomic<std::size_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_mutex;
    auto loop = [&](std::size_t thread) {
        try {
            for (;;) {
                const std::size_t piece = next.fetch_add(1);
                if (piece >= n_pieces) return;
                work(thread, piece);
            }
        } catch (...) {
            next.store(n_pieces);
            const std::lock_guard<std::mutex> lock(failure_mutex);
            if (!failure) failure = std::current_exception();
        }
    };
    std::vector<std::thread> pool;
    pool.reserve(n_threads - 1);
    for (std::size_t thread = 1; thread < n_threads; ++thread) {
        try {
            pool.emplace_back(loop, thread);
        } catch (const std::system_error&) { // the system grants fewer threads: go on with those there are
            break;
        }
    }
    loop(0);
    for (auto& thread : pool) thread.join();
    if (failure) std::rethrow_exception(failure);
}

} // namespace ideal::detail
