// SOAP power spectrum in the GTO basis, as DScribe defines it.
//
// A. P. Bartók, R. Kondor, G. Csányi, Phys. Rev. B 87, 184115 (2013), doi:10.1103/PhysRevB.87.184115
// L. Himanen et al., Comput. Phys. Commun. 247, 106949 (2020), doi:10.1016/j.cpc.2019.106949 (DScribe)
//
// With eta = 1 / (2 sigma^2) and support R = r_cut + sigma sqrt(-2 ln 1e-3), all atoms with r <= R (the center
// included) give
//
//   a_n = linspace(1, r_cut, n_max)         alpha_nl = -ln(1e-3 / a_n^l) / a_n^2
//   S^l_ij = 1/2 Gamma(l + 3/2) (alpha_i + alpha_j)^-(l + 3/2)        beta^l = (S^l)^(-1/2)
//   f_nl(r) = sum_k beta^l_nk (pi / eta)^(3/2) q_k^-(l + 3/2) r^l exp(-alpha_k r^2 / q_k),   q_k = 1 + alpha_k / eta
//   c^s_nlm = sum_{j of species s} f_nl(r_j) Y_lm(r_j)
//   p^{ss'}_{nn'l} = pi sqrt(8 / (2 l + 1)) sum_m c^s_nlm c^{s'}_n'lm
//
// ordered by species pairs s <= s' (by atomic number), then l, n, n' (n' >= n where s = s').
//
// The polynomial basis has, for every l, g_n(r) = sum_k beta_nk (r_cut - r)^(k + 2), k = 1 ... n_max, orthonormal on
// [0, r_cut] with weight r^2, and
//   f_nl(r) = 4 pi int_0^r_cut r'^2 g_n(r') exp(-eta (r^2 + r'^2)) i_l(2 eta r r') dr'
// with the modified spherical Bessel function i_l.
//
// Compression of the species (J. P. Darby, J. R. Kermode, G. Csányi, npj Comput. Mater. 8, 166 (2022),
// doi:10.1038/s41524-022-00847-y): with c = sum_s c^s, "mu2" keeps c c alone, "mu1nu1" keeps c^s c for every s (all n,
// n'), "crossover" keeps c^s c^s for every s.
#pragma once

#include "ideal/structure.hpp"

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace ideal {

enum class RadialBasis { gaussian, polynomial };
enum class Compression { off, mu2, mu1nu1, crossover };

/// From the names that configuration and state files use: "gto", "polynomial"; "off", "mu2", "mu1nu1", "crossover".
/// Raise ConfigError for other names.
RadialBasis radial_basis_named(const std::string& name);
Compression compression_named(const std::string& name);
const char* name_of(RadialBasis basis);
const char* name_of(Compression compression);

struct SoapParameters {
    /// Atomic numbers of every species that may occur; sorted and unique.
    std::vector<int> numbers;
    /// Radial cutoff of the basis, Å; above 1 for Gaussian orbitals. Gaussian densities reach further: see SoapPowerSpectrum::support.
    double r_cut = 5.0;
    /// Radial functions per l, 1 ... 16; above about 14 they are linearly dependent to rounding unless r_cut is large.
    int n_max = 8;
    /// Largest degree of the spherical harmonics, 0 ... 12.
    int l_max = 6;
    /// Width of an atom's Gaussian density, Å.
    double sigma = 0.5;
    /// true: the radial functions go to zero at the support R with two continuous derivatives (a quintic smoothstep
    /// half as wide as the padding sigma sqrt(-2 ln 1e-3)), so the descriptor is smooth when an atom enters. false:
    /// DScribe's hard cut, a jump of up to 4e-4.
    bool taper = true;
    RadialBasis radial_basis = RadialBasis::gaussian;
    Compression compression = Compression::off;
    /// true: R = r_cut + padding, as in DScribe: atoms outside r_cut count for what their Gaussians reach inside. false:
    /// R = r_cut.
    bool outer_support = true;
    /// (numbers) factor on the density of each species; empty: 1.
    std::vector<double> species_weights;

    bool operator==(const SoapParameters& other) const;
    bool operator!=(const SoapParameters& other) const { return !(*this == other); }
};

namespace detail {
struct SoapBasis;
}

/// The descriptor. Cheap to copy (copies share the tables), immutable, safe to use from several threads.
class SoapPowerSpectrum {
public:
    /// Raises ConfigError for parameters outside their sets.
    explicit SoapPowerSpectrum(const SoapParameters& parameters);

    const SoapParameters& parameters() const;
    /// Length of one descriptor.
    std::size_t n_features() const;
    /// Distance R beyond which an atom has no influence, Å.
    double support() const;
    /// Width of the taper at the end of the support, Å; 0 without taper.
    double taper_width() const;

    /// Descriptors of the centers -> (centers.size, n_features), row-major.
    /// Raises UncertaintyError for an unknown species, coincident atoms, or positions that are not finite.
    void create(const Structure& structure, Centers centers, double* features, int threads = 1) const;

    /// Add the derivative of L = sum_k adjoint_k . p(center k) to the gradient; adjoint is (centers.size, n_features).
    void pull_back(const Structure& structure, Centers centers, const double* adjoint, Gradient gradient,
                   int threads = 1) const;

    const detail::SoapBasis& basis() const { return *basis_; }

private:
    std::shared_ptr<const detail::SoapBasis> basis_;
};

} // namespace ideal
