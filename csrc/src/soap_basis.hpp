// The tables behind a descriptor: radial functions, harmonic constants, species.
#pragma once

#include "ideal/aligned.hpp"
#include "ideal/soap.hpp"
#include "kernel.hpp"

#include <vector>

namespace ideal::detail {

class RadialFunctions;

struct SoapBasis {
    explicit SoapBasis(const SoapParameters& parameters);
    SoapBasis(const SoapBasis&) = delete;
    SoapBasis& operator=(const SoapBasis&) = delete;

    /// One species index per atom; raises UncertaintyError for a species outside the descriptor's.
    std::vector<int> species_of(const Structure& structure) const;
    /// Doubles of one center's expansion coefficients.
    std::size_t coefficients_size() const;

    SoapParameters parameters;
    double support = 0;
    double taper_width = 0;
    std::size_t n_features = 0;
    /// Y_00 f_n0(0), what the center adds to its own species' (l = 0, n) coefficients; (n_padded).
    std::vector<double> self;
    /// The kernels' view of all this; pointers lead into this object.
    BasisView view{};

private:
    void choose_pairs();
    void tabulate(const RadialFunctions& functions);

    AlignedVector<double> table_;
    HarmonicConstants harmonics_{};
    std::vector<int> pairs_;
    std::vector<double> weights_;
};

} // namespace ideal::detail
