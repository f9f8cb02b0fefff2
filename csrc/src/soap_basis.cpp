#include "soap_basis.hpp"

#include "ideal/errors.hpp"
#include "radial_functions.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace ideal::detail {
namespace {

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

/// The matrix that takes coefficients of the cardinal quintic spline to its values at the nodes,
/// (1, 26, 66, 26, 1) / 120 per row, as its factors L U without pivoting: (n_nodes, 5).
std::vector<Real> spline_bands(int n_nodes) {
    const Real row[5] = {Real(1) / 120, Real(26) / 120, Real(66) / 120, Real(26) / 120, Real(1) / 120};
    std::vector<Real> A(static_cast<std::size_t>(n_nodes) * 5);
    for (int i = 0; i < n_nodes; ++i) std::copy_n(row, 5, &A[i * 5]);
    for (int i = 0; i < n_nodes; ++i)
        for (int k = 1; k <= 2 && i + k < n_nodes; ++k) {
            Real* below = &A[(i + k) * 5];
            const Real factor = below[2 - k] / A[i * 5 + 2];
            below[2 - k] = factor;
            for (int q = 1; q <= 2; ++q) below[2 - k + q] -= factor * A[i * 5 + 2 + q];
        }
    return A;
}

/// Values at the nodes -> coefficients, n functions side by side.
void solve_bands(const std::vector<Real>& A, std::vector<Real>& c, int n) {
    const int n_nodes = static_cast<int>(A.size() / 5);
    for (int i = 0; i < n_nodes; ++i)
        for (int k = 1; k <= 2 && i >= k; ++k)
            for (int q = 0; q < n; ++q) c[i * n + q] -= A[i * 5 + 2 - k] * c[(i - k) * n + q];
    for (int i = n_nodes - 1; i >= 0; --i)
        for (int q = 0; q < n; ++q) {
            for (int k = 1; k <= 2 && i + k < n_nodes; ++k) c[i * n + q] -= A[i * 5 + 2 + k] * c[(i + k) * n + q];
            c[i * n + q] /= A[i * 5 + 2];
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
    if (p.radial_basis == RadialBasis::gaussian && !(std::isfinite(p.r_cut) && p.r_cut > 1.0))
        refuse("r_cut", p.r_cut, "a length above 1 Å (the first radial function's)");
    if (!(std::isfinite(p.r_cut) && p.r_cut > 0.0)) refuse("r_cut", p.r_cut, "a positive length in Å");
    if (!(std::isfinite(p.sigma) && p.sigma > 0.0)) refuse("sigma", p.sigma, "a positive width in Å (0.5 is usual)");
    if (!p.species_weights.empty() && p.species_weights.size() != p.numbers.size())
        refuse("the number of species weights", p.species_weights.size(), "one per species");
    for (double weight : p.species_weights)
        if (!(std::isfinite(weight) && weight > 0.0)) refuse("species weight", weight, "a positive number");
    if (p.n_max < 1 || p.n_max > 16) refuse("n_max", p.n_max, "1 ... 16");
    if (p.l_max < 0 || p.l_max > max_l) refuse("l_max", p.l_max, "0 ... 12");
}

} // namespace

SoapBasis::SoapBasis(const SoapParameters& p) : parameters(p) {
    check(p);
    const double padding = p.sigma * std::sqrt(-2 * std::log(decay));
    support = p.outer_support ? p.r_cut + padding : p.r_cut;
    fill_harmonic_constants(harmonics_);

    const int widths[] = {4, 8, 12, 16};
    view.n_species = static_cast<int>(p.numbers.size());
    view.n_max = p.n_max;
    view.n_padded = *std::find_if(std::begin(widths), std::end(widths), [&](int w) { return w >= p.n_max; });
    view.l_max = p.l_max;
    view.n_harmonics = (p.l_max + 1) * (p.l_max + 1);
    view.row_stride = ((p.l_max + 1) * view.n_padded + 7) / 8 * 8;
    view.harmonics = &harmonics_;
    choose_pairs();
    // The error of the spline grows as (spacing / shortest wavelength)^6. The shortest length is that of the smeared
    // Gaussian or of the n_max-th oscillation.
    view.spacing = std::min({0.05 * p.sigma, 0.04 * p.r_cut / p.n_max, 0.03});
    view.inverse_spacing = 1 / view.spacing;
    view.n_intervals = static_cast<int>(std::ceil(support / view.spacing));
    if (p.taper) {
        taper_width = std::min(0.5 * padding, 0.5 * support);
        view.taper_begin = support - taper_width;
        view.inverse_taper_width = 1 / taper_width;
    }
    if (p.radial_basis == RadialBasis::polynomial)
        tabulate(Polynomials(p));
    else
        tabulate(GaussianOrbitals(p));
}

void SoapBasis::choose_pairs() {
    const int n_species = view.n_species, sum = n_species;
    const Compression mode = parameters.compression;
    auto add = [&](int a, int b) {
        pairs_.push_back(a);
        pairs_.push_back(b);
        const auto n = static_cast<std::size_t>(view.n_max);
        n_features += (a == b ? n * (n + 1) / 2 : n * n) * static_cast<std::size_t>(view.l_max + 1);
    };
    if (mode == Compression::mu2) {
        add(sum, sum);
    } else {
        for (int s = 0; s < n_species; ++s) {
            if (mode == Compression::mu1nu1) add(s, sum);
            if (mode == Compression::crossover) add(s, s);
            for (int t = s; t < n_species && mode == Compression::off; ++t) add(s, t);
        }
    }
    view.n_channels = n_species + (mode == Compression::mu2 || mode == Compression::mu1nu1);
    view.pairs = pairs_.data();
    view.n_pairs = static_cast<int>(pairs_.size() / 2);
    weights_ = parameters.species_weights;
    if (std::any_of(weights_.begin(), weights_.end(), [](double w) { return w != 1; })) view.weights = weights_.data();
}

void SoapBasis::tabulate(const RadialFunctions& functions) {
    // Coefficients of the interpolating spline on nodes that run on far beyond both ends, where the functions are
    // analytic too: what happens at the ends of the nodes decays by 0.43 per node.
    constexpr int beyond = 60;
    const int n = parameters.n_max, stride = view.row_stride, n_nodes = view.n_intervals + 1 + 2 * beyond;
    const int n_rows = view.n_intervals + spline_terms;
    table_.assign(static_cast<std::size_t>(n_rows) * stride + overrun, 0.0);
    self.assign(view.n_padded, 0.0);
    const int n_functions = (parameters.l_max + 1) * n;
    std::vector<Real> c(static_cast<std::size_t>(n_nodes) * n_functions);
    for (int node = 0; node < n_nodes; ++node) {
        Real* f = &c[static_cast<std::size_t>(node) * n_functions];
        functions.evaluate((node - beyond) * Real(view.spacing), f);
        for (int i = 0; i < n_functions; ++i) // the square root of the power spectrum's prefactor
            f[i] *= std::sqrt(pi * std::sqrt(Real(8) / (2 * (i / n) + 1)));
    }
    for (int i = 0; i < n; ++i)
        self[i] = static_cast<double>(harmonics_.start[0] * c[static_cast<std::size_t>(beyond) * n_functions + i]);
    solve_bands(spline_bands(n_nodes), c, n_functions);
    for (int row = 0; row < n_rows; ++row)
        for (int i = 0; i < n_functions; ++i)
            table_[static_cast<std::size_t>(row) * stride + i / n * view.n_padded + i % n] =
                static_cast<double>(c[static_cast<std::size_t>(row + beyond - 2) * n_functions + i]);
    view.table = table_.data();
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
    return static_cast<std::size_t>(view.n_channels) * view.n_harmonics * view.n_padded;
}

} // namespace ideal::detail
