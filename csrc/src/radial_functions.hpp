// The radial functions f_nl(r) of the descriptor in extended precision, from which the kernels' tables are made.
#pragma once

#include "ideal/soap.hpp"

#include <vector>

namespace ideal::detail {

// Orthonormalization multiplies rounding errors by the condition of the overlap matrix (1e10 and more for n_max = 8),
// so the tables are made in extended precision wherever long double has it.
using Real = long double;

extern const Real pi;
/// DScribe's threshold: primitives have decayed to it at their radius a_n, and the Gaussian of an atom at the support.
constexpr double decay = 1e-3;

class RadialFunctions {
public:
    virtual ~RadialFunctions() = default;

    /// f_nl(r) -> (l_max + 1, n_max), without the power spectrum's prefactor. Analytic in r on the whole axis:
    /// f_nl(-r) = (-1)^l f_nl(r), and nothing happens at the support.
    virtual void evaluate(Real r, Real* out) const = 0;
};

/// Gaussian-type orbitals; the formulas stand in ideal/soap.hpp. The constructors raise ConfigError where the basis is
/// linearly dependent to rounding.
class GaussianOrbitals : public RadialFunctions {
public:
    explicit GaussianOrbitals(const SoapParameters& parameters);
    void evaluate(Real r, Real* out) const override;

private:
    int n_, l_max_;
    std::vector<Real> exponent_, prefactor_; // (l_max + 1, n)
    std::vector<Real> beta_;                 // (l_max + 1, n, n)
};

/// Polynomials that vanish at r_cut, the same for every l; Gauss-Legendre quadrature.
class Polynomials : public RadialFunctions {
public:
    explicit Polynomials(const SoapParameters& parameters);
    void evaluate(Real r, Real* out) const override;

private:
    int n_, l_max_;
    Real eta_;
    std::vector<Real> node_;   // r' of the quadrature
    std::vector<Real> factor_; // (nodes, n) 4 pi r'^2 g_n(r') times the quadrature's weight
};

} // namespace ideal::detail
