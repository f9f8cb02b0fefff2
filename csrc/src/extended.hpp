// Numbers of twice the precision of long double: an unevaluated sum of two (T. J. Dekker, Numer. Math. 18, 224 (1971)).
// Enough arithmetic to orthonormalize a basis whose overlap matrix is nearly singular.
#pragma once

#include <cmath>

namespace ideal::detail {

struct Extended {
    long double high = 0, low = 0;

    Extended() = default;
    Extended(long double value) : high(value) {}
    Extended(int value) : high(value) {}

    /// The exact sum of two numbers, |a| >= |b|.
    static Extended ordered_sum(long double a, long double b) {
        Extended result;
        result.high = a + b;
        result.low = b - (result.high - a);
        return result;
    }
    static Extended sum(long double a, long double b) {
        Extended result;
        result.high = a + b;
        const long double part = result.high - a;
        result.low = (a - (result.high - part)) + (b - part);
        return result;
    }

    friend Extended operator+(Extended a, Extended b) {
        const Extended s = sum(a.high, b.high);
        return ordered_sum(s.high, s.low + a.low + b.low);
    }
    friend Extended operator-(Extended a) {
        a.high = -a.high;
        a.low = -a.low;
        return a;
    }
    friend Extended operator-(Extended a, Extended b) { return a + -b; }
    friend Extended operator*(Extended a, Extended b) {
        const long double product = a.high * b.high;
        return ordered_sum(product, std::fma(a.high, b.high, -product) + a.high * b.low + a.low * b.high);
    }
    friend Extended operator/(Extended a, Extended b) {
        const long double first = a.high / b.high;
        const Extended rest = a - b * first;
        return ordered_sum(first, rest.high / b.high);
    }
    Extended& operator+=(Extended b) { return *this = *this + b; }
    friend bool operator<(Extended a, Extended b) { return a.high < b.high || (a.high == b.high && a.low < b.low); }
    friend bool operator>(Extended a, Extended b) { return b < a; }
    friend bool operator>=(Extended a, Extended b) { return !(a < b); }
    friend bool operator==(Extended a, Extended b) { return a.high == b.high && a.low == b.low; }
    friend Extended sqrt(Extended a) {
        if (a.high <= 0) return Extended(std::sqrt(a.high));
        const long double root = std::sqrt(a.high);
        const Extended rest = a - Extended(root) * Extended(root);
        return ordered_sum(root, rest.high / (2 * root));
    }
    friend Extended abs(Extended a) { return a.high < 0 ? -a : a; }
};

} // namespace ideal::detail
