// How far an atom's environment lies from the environments a model was trained on.
//
// Per central species, with mean and covariance Sigma = M2 / (n - 1) of the training descriptors:
//   Unc = (v - mean)^T (Sigma + ridge I)^-1 (v - mean)       ridge = 1e-8 trace(Sigma) by default
//   u   = sqrt(Unc / d_eff)                                   d_eff = trace[Sigma (Sigma + ridge I)^-1]
// u^2 is 1 on average over the training set ((n - 1) / n, exactly), whatever n_max, l_max and ridge are.
// The paper's quantity is Unc (L. Kong et al. 2023), with one distribution over all species: per_species = false.
//
// A species with fewer than two environments, or whose environments are all the same to 12 digits, has u = infinity.
#pragma once

#include "ideal/distribution.hpp"
#include "ideal/metric.hpp"
#include "ideal/soap.hpp"
#include "ideal/structure.hpp"

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace ideal {

struct MahalanobisParameters {
    MetricParameters metric;
    /// true: one distribution per central species; false: one over all species.
    bool per_species = true;
};

/// L = sum over centers k of weight_k * phi(u_k^2 - floor_k), with width w_k
///   phi(x) = 0 for x <= 0,   x^2 / (2 w) for x < w,   x - w / 2 beyond:
/// the hinge max(0, x) with its corner rounded over w, so that the gradient has no jump; w = 0 keeps the corner.
struct Hinge {
    /// (centers.size) threshold on u^2; may be -infinity for "no hinge".
    const double* floor = nullptr;
    /// (centers.size) weight; 0 leaves an atom out of the sum (its u is still computed).
    const double* weight = nullptr;
    /// (centers.size) width of the rounded corner, in u^2, not negative; nullptr: 0.
    const double* width = nullptr;
};

/// SOAP + one Distribution per central species. Evaluations may run in several threads while another one learns: each
/// sees the state at its start.
class SoapMahalanobis {
public:
    /// Raises ConfigError for parameters outside their sets.
    SoapMahalanobis(SoapPowerSpectrum soap, const MahalanobisParameters& parameters = {});
    SoapMahalanobis(const SoapMahalanobis& other);
    SoapMahalanobis& operator=(const SoapMahalanobis&) = delete;

    const SoapPowerSpectrum& soap() const { return soap_; }
    const MahalanobisParameters& parameters() const { return parameters_; }

    /// Learn the environments of the centers.
    void update(const Structure& structure, Centers centers, int threads = 1);
    /// Learn many structures at once: cheaper than one by one where they are small. If one of them is refused, those
    /// before it have been learned and nothing of it has.
    void update(const std::vector<Structure>& structures, const std::vector<Centers>& centers, int threads = 1);
    /// Learn everything another one has learnt; both must use the same descriptor and distributions.
    void merge(const SoapMahalanobis& other);

    /// Distributions: one per species (index into soap().parameters().numbers), or a single one.
    std::size_t n_distributions() const { return slots_.size(); }
    /// The distribution that a species belongs to.
    std::size_t distribution_of(std::size_t species) const { return parameters_.per_species ? species : 0; }
    /// A distribution's state: to save it, to restore it. With a single one, its environments' species are restored by
    /// set_counts.
    Distribution distribution(std::size_t index) const;
    void set_distribution(std::size_t index, Distribution distribution);
    void set_counts(std::vector<std::size_t> counts);
    /// Environments of a species learned.
    std::size_t count(std::size_t species) const;
    /// The factorized metric of one species; built on first use after an update.
    std::shared_ptr<const MahalanobisMetric> metric(std::size_t species) const;

    /// Unc of each center -> (centers.size); infinite where the metric is undefined.
    void squared_mahalanobis(const Structure& structure, Centers centers, double* values, int threads = 1) const;
    /// u of each center -> (centers.size).
    void atomic(const Structure& structure, Centers centers, double* values, int threads = 1) const;

    /// u of each center, at lower precision except near a threshold: `u > threshold` is the answer of atomic(), atom by
    /// atom. Elsewhere u is off by at most 1e-3 where the metric is of low rank (float32), and by the metric's tolerance
    /// where a full metric of more than `full_up_to` features is screened by a low-rank one; smaller metrics are
    /// evaluated exactly, since nothing is gained.
    void screen(const Structure& structure, Centers centers, double threshold, double* values, int threads = 1) const;

    /// Add the derivative of sum_k weights_k Unc_k to the gradient. Centers of weight 0 cost nothing.
    /// Raises UncertaintyError where a weighted Unc is infinite.
    void gradient(const Structure& structure, Centers centers, const double* weights, Gradient gradient,
                  int threads = 1) const;

    /// The hinge's value; its derivative is added to the gradient and u of every center stored. Only centers above
    /// their floor cost a backward pass. Raises UncertaintyError where a weighted u is infinite.
    double hinge(const Structure& structure, Centers centers, Hinge hinge, Gradient gradient, double* u,
                 int threads = 1) const;

private:
    using MetricPointer = std::shared_ptr<const MahalanobisMetric>;
    struct Slot {
        Distribution distribution;
        mutable MetricPointer metric;
        mutable MetricPointer screen; // a low-rank metric beside a full one
        void changed() {
            metric.reset();
            screen.reset();
        }
    };
    std::vector<MetricPointer> metrics() const;
    MetricPointer build(const Slot& slot, const MetricParameters& parameters) const;

    SoapPowerSpectrum soap_;
    MahalanobisParameters parameters_;
    std::vector<Slot> slots_;
    std::vector<std::size_t> counts_; // per species
    mutable std::mutex mutex_;
};

} // namespace ideal
