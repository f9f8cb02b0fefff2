#include "radial_functions.hpp"

#include "ideal/errors.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace ideal::detail {

const Real pi = std::acos(Real(-1));

namespace {

using Matrix = std::vector<Real>; // (n, n), row-major

/// Eigenvalues and eigenvectors (columns of U) of a symmetric matrix by cyclic Jacobi rotations.
void diagonalize(Matrix& A, Matrix& U, int n) {
    U.assign(n * n, 0);
    for (int i = 0; i < n; ++i) U[i * n + i] = 1;
    for (int sweep = 0; sweep < 100; ++sweep) {
        Real off = 0, all = 0;
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) {
                all += A[i * n + j] * A[i * n + j];
                if (i != j) off += A[i * n + j] * A[i * n + j];
            }
        if (off <= all * Real(1e-44)) return;
        for (int p = 0; p < n; ++p)
            for (int q = p + 1; q < n; ++q) {
                const Real apq = A[p * n + q];
                if (apq == 0) continue;
                const Real theta = (A[q * n + q] - A[p * n + p]) / (2 * apq);
                const Real t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
                const Real c = 1 / std::sqrt(t * t + 1), s = t * c;
                for (int k = 0; k < n; ++k) {
                    const Real akp = A[k * n + p], akq = A[k * n + q];
                    A[k * n + p] = c * akp - s * akq;
                    A[k * n + q] = s * akp + c * akq;
                }
                for (int k = 0; k < n; ++k) {
                    const Real apk = A[p * n + k], aqk = A[q * n + k];
                    A[p * n + k] = c * apk - s * aqk;
                    A[q * n + k] = s * apk + c * aqk;
                }
                for (int k = 0; k < n; ++k) {
                    const Real ukp = U[k * n + p], ukq = U[k * n + q];
                    U[k * n + p] = c * ukp - s * ukq;
                    U[k * n + q] = s * ukp + c * ukq;
                }
            }
    }
}

/// r^k for small k >= 0.
Real power(Real r, int k) {
    Real result = 1;
    for (; k > 0; --k) result *= r;
    return result;
}

} // namespace

/// beta = S^(-1/2), symmetric (Löwdin).
std::vector<Real> orthonormalization(std::vector<Real> S, int n, int l) {
    Matrix U;
    diagonalize(S, U, n);
    Real largest = 0, least = S[0];
    for (int i = 0; i < n; ++i) {
        largest = std::max(largest, S[i * n + i]);
        least = std::min(least, S[i * n + i]);
    }
    if (!(least > largest * Real(1e-17))) {
        std::ostringstream message;
        message << "the radial basis is linearly dependent to rounding at n_max = " << n << ", l = " << l
                << "; use a smaller n_max (8 is usual) or a larger r_cut";
        throw ConfigError(message.str());
    }
    Matrix beta(n * n, 0);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j)
            for (int k = 0; k < n; ++k) beta[i * n + j] += U[i * n + k] * U[j * n + k] / std::sqrt(S[k * n + k]);
    return beta;
}

GaussianOrbitals::GaussianOrbitals(const SoapParameters& p) : n_(p.n_max) {
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
        Matrix S(n * n);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j)
                S[i * n + j] = Real(0.5) * std::tgamma(l + Real(1.5)) * std::pow(alpha[i] + alpha[j], -(l + Real(1.5)));
        const Matrix beta = orthonormalization(std::move(S), n, l);
        beta_.insert(beta_.end(), beta.begin(), beta.end());
    }
}

void GaussianOrbitals::evaluate(int l, Real r, Real* out) const {
    std::fill_n(out, n_, Real(0));
    for (int k = 0; k < n_; ++k) {
        const Real g = prefactor_[l * n_ + k] * std::exp(-exponent_[l * n_ + k] * r * r) * power(r, l);
        for (int i = 0; i < n_; ++i) out[i] += beta_[(l * n_ + i) * n_ + k] * g;
    }
}

} // namespace ideal::detail
