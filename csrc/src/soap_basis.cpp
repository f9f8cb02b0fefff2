#include "soap_basis.hpp"

#include "ideal/errors.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace ideal::detail {
namespace {

// Orthonormalisation multiplies rounding errors by the condition of the overlap matrix (1e10 and more for n_max = 8),
// so the tables are made in extended precision wherever long double has it.
using Real = long double;
using Matrix = std::vector<Real>; // (n, n), row-major

const Real pi = std::acos(Real(-1));
/// DScribe's threshold: primitives have decayed to it at their radius a_n, and the Gaussian of an atom at the support.
constexpr double decay = 1e-3;

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

/// beta = S^(-1/2), symmetric (Löwdin).
Matrix inverse_square_root(Matrix S, int n, int l) {
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

/// Value, first and second derivative.
struct Jet {
    Real f = 0, d1 = 0, d2 = 0;
};

/// 1 inside, 0 at the support, a quintic smoothstep over the last `width`.
Jet taper(Real r, Real support, Real width) {
    if (width <= 0 || r <= support - width) return {1, 0, 0};
    if (r >= support) return {0, 0, 0};
    const Real t = (r - (support - width)) / width, s = 1 - t;
    return {1 - t * t * t * (10 + t * (-15 + 6 * t)), -30 * t * t * s * s / width,
            -60 * t * s * (s - t) / (width * width)};
}

void fill_harmonic_constants(HarmonicConstants& out) {
    auto norm = [](int l, int m) {
        Real ratio = 1; // (l - m)! / (l + m)!
        for (int k = l - m + 1; k <= l + m; ++k) ratio /= k;
        return std::sqrt((2 * l + 1) / (4 * pi) * ratio * (m > 0 ? 2 : 1));
    };
    Real double_factorial = 1; // (2m - 1)!!
    for (int m = 0; m <= max_l + 1; ++m) {
        if (m > 0) double_factorial *= 2 * m - 1;
        out.start[m] = static_cast<double>(norm(m, m) * double_factorial);
    }
    for (int l = 0; l <= max_l; ++l)
        for (int m = 0; m < l; ++m) {
            out.up[l][m] = static_cast<double>((2 * l - 1) / Real(l - m) * norm(l, m) / norm(l - 1, m));
            if (l > m + 1)
                out.back[l][m] = static_cast<double>((l + m - 1) / Real(l - m) * norm(l, m) / norm(l - 2, m));
            out.slope[l][m] = static_cast<double>(norm(l, m) / norm(l, m + 1));
        }
}

void check(const SoapParameters& p) {
    auto refuse = [](const auto& text, auto value, const char* valid) {
        std::ostringstream message;
        message << text << " = " << value << " is not valid; use " << valid;
        throw ConfigError(message.str());
    };
    if (p.numbers.empty()) throw ConfigError("SOAP needs at least one species");
    for (std::size_t i = 0; i < p.numbers.size(); ++i) {
        if (p.numbers[i] < 1) refuse("atomic number", p.numbers[i], "1 or more");
        if (i > 0 && p.numbers[i] <= p.numbers[i - 1])
            throw ConfigError("the species of SOAP must be sorted and unique");
    }
    if (!(std::isfinite(p.r_cut) && p.r_cut > 1.0))
        refuse("r_cut", p.r_cut, "a length above 1 Å (the first radial function's)");
    if (!(std::isfinite(p.sigma) && p.sigma > 0.0)) refuse("sigma", p.sigma, "a positive width in Å (0.5 is usual)");
    if (p.n_max < 1 || p.n_max > 16) refuse("n_max", p.n_max, "1 ... 16");
    if (p.l_max < 0 || p.l_max > max_l) refuse("l_max", p.l_max, "0 ... 12");
}

} // namespace

SoapBasis::SoapBasis(const SoapParameters& p) : parameters(p) {
    check(p);
    const double padding = p.sigma * std::sqrt(-2 * std::log(decay));
    support = p.r_cut + padding;
    fill_harmonic_constants(harmonics_);

    const int widths[] = {4, 8, 12, 16};
    view.n_species = static_cast<int>(p.numbers.size());
    view.n_max = p.n_max;
    view.n_padded = *std::find_if(std::begin(widths), std::end(widths), [&](int w) { return w >= p.n_max; });
    view.l_max = p.l_max;
    view.n_harmonics = (p.l_max + 1) * (p.l_max + 1);
    view.row_stride = ((p.l_max + 1) * view.n_padded + 7) / 8 * 8;
    view.harmonics = &harmonics_;
    const std::size_t m = p.numbers.size() * static_cast<std::size_t>(p.n_max);
    n_features = m * (m + 1) / 2 * static_cast<std::size_t>(p.l_max + 1);

    // The error of quintic Hermite interpolation grows as (spacing / shortest wavelength)^6. The shortest length is
    // that of the smeared Gaussian or of the n_max-th oscillation.
    const double length = std::min(0.05 * p.sigma, 0.04 * p.r_cut / p.n_max);
    const double spacing = std::min(0.03, length);
    view.n_intervals = static_cast<int>(std::ceil(support / spacing));
    view.inverse_spacing = view.n_intervals / support;
    if (p.taper) { // a whole number of intervals, so that the taper's kink in the third derivative is at a node
        const double intervals = std::max(1.0, std::round(0.5 * padding * view.inverse_spacing));
        taper_width = intervals / view.inverse_spacing;
    }
    tabulate_radial_functions();
}

void SoapBasis::tabulate_radial_functions() {
    const int n = parameters.n_max, stride = view.row_stride;
    const Real r_cut = parameters.r_cut, sigma = parameters.sigma, eta = 1 / (2 * sigma * sigma);
    const Real spacing = Real(support) / view.n_intervals;
    table_.assign(static_cast<std::size_t>(view.n_intervals + 1) * 3 * stride + overrun, 0.0);
    for (int l = 0; l <= parameters.l_max; ++l) {
        std::vector<Real> alpha(n), exponent(n), prefactor(n);
        for (int k = 0; k < n; ++k) {
            const Real a = n > 1 ? 1 + (r_cut - 1) * k / (n - 1) : Real(1);
            alpha[k] = -std::log(Real(decay) / std::pow(a, Real(l))) / (a * a);
            exponent[k] = alpha[k] / (1 + alpha[k] / eta);
            prefactor[k] = std::pow(pi / eta, Real(1.5)) * std::pow(1 + alpha[k] / eta, -(l + Real(1.5)));
        }
        Matrix S(n * n);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j)
                S[i * n + j] = Real(0.5) * std::tgamma(l + Real(1.5)) * std::pow(alpha[i] + alpha[j], -(l + Real(1.5)));
        const Matrix beta = inverse_square_root(S, n, l);
        const Real root = std::sqrt(pi * std::sqrt(Real(8) / (2 * l + 1))); // of the power spectrum's prefactor
        for (int node = 0; node <= view.n_intervals; ++node) {
            const Real r = node * spacing;
            auto power = [&](int exponent_of_r) {
                return exponent_of_r < 0 ? Real(0) : std::pow(r, Real(exponent_of_r));
            };
            const Jet window = taper(node == view.n_intervals ? Real(support) : r, support, taper_width);
            std::vector<Jet> primitive(n);
            for (int k = 0; k < n; ++k) {
                const Real b = exponent[k], g = root * prefactor[k] * std::exp(-b * r * r);
                primitive[k].f = g * power(l);
                primitive[k].d1 = g * (l * power(l - 1) - 2 * b * power(l + 1));
                primitive[k].d2 =
                    g * (l * (l - 1) * power(l - 2) - 2 * b * (2 * l + 1) * power(l) + 4 * b * b * power(l + 2));
            }
            double* out = table_.data() + static_cast<std::size_t>(node) * 3 * stride + l * view.n_padded;
            for (int i = 0; i < n; ++i) {
                Jet f;
                for (int k = 0; k < n; ++k) {
                    f.f += beta[i * n + k] * primitive[k].f;
                    f.d1 += beta[i * n + k] * primitive[k].d1;
                    f.d2 += beta[i * n + k] * primitive[k].d2;
                }
                out[i] = static_cast<double>(f.f * window.f);
                out[stride + i] = static_cast<double>(spacing * (f.d1 * window.f + f.f * window.d1));
                out[2 * stride + i] =
                    static_cast<double>(spacing * spacing * (f.d2 * window.f + 2 * f.d1 * window.d1 + f.f * window.d2));
            }
        }
    }
    view.table = table_.data();
    self.assign(view.n_padded, 0.0);
    for (int i = 0; i < n; ++i) self[i] = harmonics_.start[0] * table_[i];
}

std::vector<int> SoapBasis::species_of(const Structure& structure) const {
    const auto& numbers = parameters.numbers;
    std::vector<int> species(structure.n_atoms);
    for (std::size_t i = 0; i < structure.n_atoms; ++i) {
        const auto found = std::lower_bound(numbers.begin(), numbers.end(), structure.numbers[i]);
        if (found == numbers.end() || *found != structure.numbers[i]) {
            std::ostringstream message;
            message << "atom " << i << " has atomic number " << structure.numbers[i]
                    << ", which the descriptor does not know; it was made for";
            for (int z : numbers) message << ' ' << z;
            message << ". Make the descriptor with every species that may occur";
            throw UncertaintyError(message.str());
        }
        species[i] = static_cast<int>(found - numbers.begin());
    }
    return species;
}

std::size_t SoapBasis::coefficients_size() const {
    return static_cast<std::size_t>(view.n_species) * view.n_harmonics * view.n_padded;
}

} // namespace ideal::detail
