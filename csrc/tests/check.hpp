// Checks for plain test executables: a failed one prints its place and makes the program return 1.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>

namespace check {

inline int failures = 0;

inline void that(bool holds, const char* expression, const char* file, int line) {
    if (holds) return;
    ++failures;
    std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, expression);
}

inline void near(double a, double b, double tolerance, const char* expression, const char* file, int line) {
    if (std::abs(a - b) <= tolerance) return;
    ++failures;
    std::fprintf(stderr, "%s:%d: failed: %s (%.17g and %.17g, tolerance %g)\n", file, line, expression, a, b,
                 tolerance);
}

/// The message of the Error that the call throws; empty if it throws none.
template <class Error, class Call>
std::string message_of(Call&& call) {
    try {
        call();
    } catch (const Error& error) {
        return error.what();
    }
    return {};
}

inline int result() {
    if (failures == 0) std::puts("ok");
    return failures == 0 ? 0 : 1;
}

} // namespace check

#define CHECK(expression) check::that(static_cast<bool>(expression), #expression, __FILE__, __LINE__)
#define CHECK_NEAR(a, b, tolerance) check::near(a, b, tolerance, #a " == " #b, __FILE__, __LINE__)
