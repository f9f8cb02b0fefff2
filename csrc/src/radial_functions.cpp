#include "radial_functions.hpp"

#include "extended.hpp"
#include "ideal/errors.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace ideal::detail {

const Real pi = std::acos(Real(-1));

namespace {

/// Eigenvalues and eigenvectors (columns of U) of a symmetric positive matrix (n, n), row-major, by cyclic Jacobi
/// rotations. They are accurate relative to each eigenvalue, however widely the diagonal is graded (J. Demmel,
/// K. Veselić, SIAM J. Matrix Anal. Appl. 13, 1204 (1992)).
template <class T>
void diagonalize(std::vector<T>& A, std::vector<T>& U, int n, long double tolerance) {
    using std::abs;
    using std::sqrt;
    U.assign(n * n, T(0));
    for (int i = 0; i < n; ++i) U[i * n + i] = T(1);
    for (int sweep = 0; sweep < 100; ++sweep) {
        bool done = true;
        for (int p = 0; p < n; ++p)
            for (int q = p + 1; q < n; ++q) {
                const T apq = A[p * n + q];
                if (!(abs(apq) > T(tolerance) * sqrt(abs(A[p * n + p] * A[q * n + q])))) continue;
                done = false;
                const T theta = (A[q * n + q] - A[p * n + p]) / (T(2) * apq);
                const T t = T(theta >= T(0) ? 1 : -1) / (abs(theta) + sqrt(theta * theta + T(1)));
                const T c = T(1) / sqrt(t * t + T(1)), s = t * c;
                for (int k = 0; k < n; ++k) {
                    const T akp = A[k * n + p], akq = A[k * n + q];
                    A[k * n + p] = c * akp - s * akq;
                    A[k * n + q] = s * akp + c * akq;
                }
                for (int k = 0; k < n; ++k) {
                    const T apk = A[p * n + k], aqk = A[q * n + k];
                    A[p * n + k] = c * apk - s * aqk;
                    A[q * n + k] = s * apk + c * aqk;
                }
                for (int k = 0; k < n; ++k) {
                    const T ukp = U[k * n + p], ukq = U[k * n + q];
                    U[k * n + p] = c * ukp - s * ukq;
                    U[k * n + q] = s * ukp + c * ukq;
                }
            }
        if (done) return;
    }
}

/// beta = S^(-1/2), symmetric (Löwdin). Raises ConfigError unless every eigenvalue exceeds `least` times the largest.
template <class T>
std::vector<T> orthonormalization(std::vector<T> S, int n, int l, long double tolerance, long double least) {
    using std::sqrt;
    std::vector<T> U;
    diagonalize(S, U, n, tolerance);
    T largest(0), smallest = S[0];
    for (int i = 0; i < n; ++i) {
        largest = largest < S[i * n + i] ? S[i * n + i] : largest;
        smallest = S[i * n + i] < smallest ? S[i * n + i] : smallest;
    }
    if (!(smallest > largest * T(least))) {
        std::ostringstream message;
        message << "the radial basis is linearly dependent to rounding at n_max = " << n << ", l = " << l
                << "; use a smaller n_max (8 is usual) or a larger r_cut";
        throw ConfigError(message.str());
    }
    std::vector<T> beta(n * n, T(0));
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j)
            for (int k = 0; k < n; ++k) beta[i * n + j] += U[i * n + k] * U[j * n + k] / sqrt(S[k * n + k]);
    return beta;
}

/// r^k for small k >= 0.
Real power(Real r, int k) {
    Real result = 1;
    for (; k > 0; --k) result *= r;
    return result;
}

} // namespace

GaussianOrbitals::GaussianOrbitals(const SoapParameters& p) : n_(p.n_max), l_max_(p.l_max) {
    const Real r_cut = p.r_cut, sigma = p.sigma, eta = 1 / (2 * sigma * sigma);
    const int n = n_;
    for (int l = 0; l <= p.l_max; ++l) {
        std::vector<Real> alpha(n);
        for (int k = 0; k < n; ++k) {
            const Real a = n > 1 ? 1 + (r_cut - 1) * k / (n - 1) : Real(1);
            alpha[k] = -std::log(Real(decay) / std::pow(a, Real(l))) / (a * a);
            exponent_.push_back(alpha[k] / (1 + alpha[k] / eta));
            prefactor_.push_back(std::pow(pi / eta, Real(1.5)) * std::pow(1 + alpha[k] / eta, -(l + Real(1.5))));
        }
        std::vector<Real> S(n * n);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j)
                S[i * n + j] = Real(0.5) * std::tgamma(l + Real(1.5)) * std::pow(alpha[i] + alpha[j], -(l + Real(1.5)));
        const std::vector<Real> beta = orthonormalization(std::move(S), n, l, 1e-22L, 1e-17L);
        beta_.insert(beta_.end(), beta.begin(), beta.end());
    }
}

void GaussianOrbitals::evaluate(Real r, Real* out) const {
    std::fill_n(out, (l_max_ + 1) * n_, Real(0));
    for (int l = 0; l <= l_max_; ++l)
        for (int k = 0; k < n_; ++k) {
            const Real g = prefactor_[l * n_ + k] * std::exp(-exponent_[l * n_ + k] * r * r) * power(r, l);
            for (int i = 0; i < n_; ++i) out[l * n_ + i] += beta_[(l * n_ + i) * n_ + k] * g;
        }
}

Polynomials::Polynomials(const SoapParameters& p)
    : n_(p.n_max), l_max_(p.l_max), eta_(1 / (2 * Real(p.sigma) * Real(p.sigma))) {
    const Real r_cut = p.r_cut;
    const int n = n_;
    std::vector<Extended> S(n * n), scale(n, Extended(1)); // long double would do for n = 8 only
    for (int k = 0; k < n; ++k)
        for (int q = 0; q < k; ++q) scale[k] = scale[k] * Extended(r_cut);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j)
            S[i * n + j] = scale[i] * scale[j] * Extended(2 * power(r_cut, 9)) /
                           Extended((7 + i + j) * (8 + i + j) * (9 + i + j));
    const std::vector<Extended> beta = orthonormalization(std::move(S), n, 0, 1e-40L, 0.0L);

    // Enough points for the Gaussian, far narrower than the cutoff or not.
    const int n_nodes = 100 + static_cast<int>(std::min(Real(400), 8 * r_cut / Real(p.sigma)));
    for (int q = 0; q < n_nodes; ++q) {
        Real x = std::cos(pi * (q + Real(0.75)) / (n_nodes + Real(0.5))), slope = 0;
        for (int step = 0; step < 100; ++step) { // Newton on the Legendre polynomial
            Real below = 1, value = x;
            for (int k = 2; k <= n_nodes; ++k) {
                const Real next = ((2 * k - 1) * x * value - (k - 1) * below) / k;
                below = value;
                value = next;
            }
            slope = n_nodes * (x * value - below) / (x * x - 1);
            const Real change = value / slope;
            x -= change;
            if (std::abs(change) < Real(1e-18)) break;
        }
        const Real r = r_cut * (1 + x) / 2, weight = r_cut / ((1 - x * x) * slope * slope);
        node_.push_back(r);
        for (int i = 0; i < n; ++i) {
            Extended g, p = power(r_cut - r, 3);
            for (int k = 0; k < n; ++k, p = p * Extended(r_cut - r)) g += beta[i * n + k] * p;
            factor_.push_back(4 * pi * r * r * g.high * weight);
        }
    }
}

void Polynomials::evaluate(Real r, Real* out) const {
    std::fill_n(out, (l_max_ + 1) * n_, Real(0));
    const Real distance = std::abs(r);
    std::vector<Real> ratio(l_max_ + 1);
    for (std::size_t q = 0; q < node_.size(); ++q) {
        const Real x = 2 * eta_ * distance * node_[q], gap = distance - node_[q];
        // exp(-x) i_0(x), then i_{l+1} / i_l by the continued fraction, which is stable downward.
        Real bessel = x > Real(1e-8) ? -std::expm1(-2 * x) / (2 * x) : 1 - x;
        bessel *= std::exp(-eta_ * gap * gap);
        Real next = 0;
        for (int l = l_max_ + 20 + static_cast<int>(std::sqrt(100 * x)); l >= 1; --l) {
            next = x / (2 * l + 1 + x * next);
            if (l <= l_max_) ratio[l - 1] = next;
        }
        for (int l = 0; l <= l_max_; ++l) {
            const Real sign = r < 0 && l % 2 == 1 ? -1 : 1;
            for (int i = 0; i < n_; ++i) out[l * n_ + i] += sign * bessel * factor_[q * n_ + i];
            bessel *= ratio[l];
        }
    }
}

} // namespace ideal::detail
