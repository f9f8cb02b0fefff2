// How far an atom's environment lies from the environments a model was trained on.
//
// Per central species, with mean and covariance Sigma = M2 / (n - 1) of the training descriptors:
//   Unc = (v - mean)^T (Sigma + ridge I)^-1 (v - mean)       ridge = 1e-8 trace(Sigma) by default
//   u   = sqrt(Unc / d_eff)                                   d_eff = trace[Sigma (Sigma + ridge I)^-1]
// u^2 is 1 on average over the training set ((n - 1) / n, exactly), whatever n_max, l_max and ridge are.
// The paper's quantity is Unc (L. Kong et al. 2023).
//
// A species with fewer than two environments, or whose environments are all the same to 12 digits, has u = infinity.
#pragma once

#include "ideal/aligned.hpp"
#include "ideal/distribution.hpp"
#include "ideal/soap.hpp"
#include "ideal/structure.hpp"

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace ideal {

/// The inverse of Sigma + ridge I of one species, factorised and packed for the kernels. Immutable.
class MahalanobisMetric {
public:
    /// Raises UncertaintyError if Sigma + ridge I is not positive definite (a ridge far too small).
    MahalanobisMetric(const Distribution& distribution, double relative_ridge);

    /// false: too few or identical environments, every u is infinite.
    bool defined() const { return defined_; }
    double ridge() const { return ridge_; }
    /// d_eff, between 0 and min(dimension, count - 1).
    double effective_dimension() const { return effective_dimension_; }

private:
    friend class SoapMahalanobis;
    friend struct MahalanobisHead;
    bool defined_ = false;
    double ridge_ = 0;
    double effective_dimension_ = 0;
    std::size_t dimension_ = 0;
    std::vector<double> mean_;
    // W = L^-1 with L L^T = Sigma + ridge I, once packed for v -> W v, once for z -> W^T z (see src/kernel.hpp).
    AlignedVector<double> forward_, backward_;
};

/// L = sum over centers k of weight_k * max(0, u_k^2 - floor_k).
struct Hinge {
    /// (centers.size) threshold on u^2; may be -infinity for "no hinge".
    const double* floor = nullptr;
    /// (centers.size) weight; 0 leaves an atom out of the sum (its u is still computed).
    const double* weight = nullptr;
};

/// SOAP + one Distribution per central species. Evaluations may run in several threads while another one learns: each
/// sees the state at its start.
class SoapMahalanobis {
public:
    SoapMahalanobis(SoapPowerSpectrum soap, double relative_ridge = 1e-8);
    SoapMahalanobis(const SoapMahalanobis& other);
    SoapMahalanobis& operator=(const SoapMahalanobis&) = delete;

    const SoapPowerSpectrum& soap() const { return soap_; }
    double relative_ridge() const { return relative_ridge_; }

    /// Learn the environments of the centers.
    void update(const Structure& structure, Centers centers, int threads = 1);
    /// Learn everything another one has learnt; both must use the same descriptor.
    void merge(const SoapMahalanobis& other);

    /// The state of one species (index into soap().parameters().numbers): to save it, to restore it.
    Distribution distribution(std::size_t species) const;
    void set_distribution(std::size_t species, Distribution distribution);
    std::size_t count(std::size_t species) const;
    /// The factorised metric of one species; built on first use after an update.
    std::shared_ptr<const MahalanobisMetric> metric(std::size_t species) const;

    /// Unc of each center -> (centers.size); infinite where the metric is undefined.
    void squared_mahalanobis(const Structure& structure, Centers centers, double* values, int threads = 1) const;
    /// u of each center -> (centers.size).
    void atomic(const Structure& structure, Centers centers, double* values, int threads = 1) const;

    /// Add the derivative of sum_k weights_k Unc_k to the gradient. Centers of weight 0 cost nothing.
    /// Raises UncertaintyError where a weighted Unc is infinite.
    void gradient(const Structure& structure, Centers centers, const double* weights, Gradient gradient,
                  int threads = 1) const;

    /// The hinge's value; its derivative is added to the gradient and u of every center stored. Only centers above
    /// their floor cost a backward pass. Raises UncertaintyError where a weighted u is infinite.
    double hinge(const Structure& structure, Centers centers, Hinge hinge, Gradient gradient, double* u,
                 int threads = 1) const;

private:
    struct Slot {
        Distribution distribution;
        mutable std::shared_ptr<const MahalanobisMetric> metric;
    };
    std::vector<std::shared_ptr<const MahalanobisMetric>> metrics() const;

    SoapPowerSpectrum soap_;
    double relative_ridge_;
    std::vector<Slot> slots_;
    mutable std::mutex mutex_;
};

} // namespace ideal
