#include "ideal/soap.hpp"

#include "ideal/errors.hpp"
#include "pipeline.hpp"
#include "soap_basis.hpp"

#include <algorithm>

namespace ideal {
namespace {

/// Features straight to the caller.
struct CreateHead : detail::Head {
    double* features;
    std::size_t n_features;

    int process(const detail::Chunk& chunk, double* in, std::size_t stride, int*, double*,
                AlignedVector<double>&) const override {
        for (int b = 0; b < chunk.size; ++b)
            std::copy_n(in + b * stride, n_features, features + chunk.order[b] * n_features);
        return 0;
    }
};

/// The caller's adjoint straight back.
struct PullBackHead : detail::Head {
    const double* adjoint;
    std::size_t n_features;

    int process(const detail::Chunk& chunk, double*, std::size_t stride, int* active, double* out,
                AlignedVector<double>&) const override {
        for (int b = 0; b < chunk.size; ++b) {
            active[b] = b;
            std::copy_n(adjoint + chunk.order[b] * n_features, n_features, out + b * stride);
        }
        return chunk.size;
    }
};

} // namespace

const char* name_of(RadialBasis basis) { return basis == RadialBasis::polynomial ? "polynomial" : "gto"; }

const char* name_of(Compression compression) {
    switch (compression) {
    case Compression::mu2: return "mu2";
    case Compression::mu1nu1: return "mu1nu1";
    case Compression::crossover: return "crossover";
    default: return "off";
    }
}

RadialBasis radial_basis_named(const std::string& name) {
    for (const RadialBasis basis : {RadialBasis::gaussian, RadialBasis::polynomial})
        if (name == name_of(basis)) return basis;
    throw ConfigError("radial_basis = '" + name + "' is not valid; use gto or polynomial");
}

Compression compression_named(const std::string& name) {
    for (const Compression c : {Compression::off, Compression::mu2, Compression::mu1nu1, Compression::crossover})
        if (name == name_of(c)) return c;
    throw ConfigError("compression = '" + name + "' is not valid; use off, mu2, mu1nu1 or crossover");
}

bool SoapParameters::operator==(const SoapParameters& other) const {
    auto weights = [](const SoapParameters& p) {
        return p.species_weights.empty() ? std::vector<double>(p.numbers.size(), 1.0) : p.species_weights;
    };
    return numbers == other.numbers && r_cut == other.r_cut && n_max == other.n_max && l_max == other.l_max &&
           sigma == other.sigma && taper == other.taper && radial_basis == other.radial_basis &&
           compression == other.compression && outer_support == other.outer_support &&
           weights(*this) == weights(other);
}

SoapPowerSpectrum::SoapPowerSpectrum(const SoapParameters& parameters)
    : basis_(std::make_shared<const detail::SoapBasis>(parameters)) {}

const SoapParameters& SoapPowerSpectrum::parameters() const { return basis_->parameters; }
std::size_t SoapPowerSpectrum::n_features() const { return basis_->n_features; }
double SoapPowerSpectrum::support() const { return basis_->support; }
double SoapPowerSpectrum::taper_width() const { return basis_->taper_width; }

void SoapPowerSpectrum::create(const Structure& structure, Centers centers, double* features, int threads) const {
    CreateHead head;
    head.features = features;
    head.n_features = n_features();
    detail::run_pipeline(*basis_, structure, centers, head, {}, threads);
}

void SoapPowerSpectrum::pull_back(const Structure& structure, Centers centers, const double* adjoint, Gradient gradient,
                                  int threads) const {
    PullBackHead head;
    head.adjoint = adjoint;
    head.n_features = n_features();
    detail::run_pipeline(*basis_, structure, centers, head, gradient, threads);
}

} // namespace ideal
