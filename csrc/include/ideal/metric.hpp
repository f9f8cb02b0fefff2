// The inverse of a regularized covariance, in the form that is cheapest to apply.
//
// Full: W = L^-1 with L L^T = Sigma + ridge I, Unc = |W (v - mean)|^2.
//
// Low rank + residual: the features fall into blocks (the degrees l of the power spectrum). Per block, the leading
// eigenvectors T_l of its own covariance are kept, and what is left of Sigma is dropped:
//   y = T (v - mean),   Unc = y^T (T Sigma T^T + ridge I)^-1 y + (|v - mean|^2 - |y|^2) / ridge
// This costs sum_l (block size x rank) + rank^2 / 2 products instead of n^2 / 2. Directions of variance s much below the
// ridge weigh 1 / ridge either way, so with B = T Sigma R^T, D = R Sigma R^T (R: the directions dropped),
//   h = |B^T (T Sigma T^T + ridge)^-1 B| / ridge,   d = |D| / ridge
// bound the error for every v, in the training set or far from it:
//   (1 - sqrt h) Unc_full <= Unc <= Unc_full / a,   a from (1 - a)(1 - a - a d) = a^2 h
// (from the Schur complements of b (Sigma + ridge) - E and of E - a (Sigma + ridge), E the inverse of the metric in use).
// The rank is chosen so that u is never off by more than MetricParameters::tolerance; typical errors are a hundredth of
// that.
#pragma once

#include "ideal/distribution.hpp"

#include <cstddef>
#include <memory>
#include <vector>

namespace ideal {

namespace detail {
class MetricForm;
class LowRankForm;
} // namespace detail

struct MetricParameters {
    enum class Kind {
        /// low_rank above `full_up_to` features where it is cheaper, else full.
        automatic,
        full,
        low_rank
    };
    Kind kind = Kind::automatic;
    /// Directions that low_rank keeps; 0: as many as the tolerance asks for.
    std::size_t rank = 0;
    /// Ridge as a multiple of trace(Sigma).
    double relative_ridge = 1e-8;
    /// Largest relative error of a low-rank u against the full one, for any environment.
    double tolerance = 0.1;
    std::size_t full_up_to = 500;
};

/// A run of features that belongs to one block.
struct FeatureRun {
    std::size_t begin, size, block;
};

/// One species' metric, factorized and packed for the kernels. Immutable.
class MahalanobisMetric {
public:
    /// Runs cover all features in order; without them the features are cut into equal blocks.
    /// Raises UncertaintyError if Sigma + ridge I is not positive definite (a ridge far too small) or not finite.
    MahalanobisMetric(const Distribution& distribution, const MetricParameters& parameters,
                      const std::vector<FeatureRun>& runs = {});

    /// false: too few or identical environments, every u is infinite.
    bool defined() const { return form_ != nullptr; }
    double ridge() const { return ridge_; }
    /// d_eff, between 0 and min(dimension, count - 1); such that u^2 of this metric averages to (count - 1) / count over
    /// the training set.
    double effective_dimension() const { return effective_dimension_; }
    /// Directions kept; the dimension itself for the full metric, 0 where undefined.
    std::size_t rank() const { return rank_; }
    /// lower * Unc_full <= Unc <= upper * Unc_full for every environment; 1 and 1 for the full metric.
    double lower() const { return lower_; }
    double upper() const { return upper_; }

    const detail::MetricForm& form() const { return *form_; }
    /// nullptr for the full metric.
    const detail::LowRankForm* low_rank() const { return low_rank_; }

private:
    double ridge_ = 0, effective_dimension_ = 0, lower_ = 1, upper_ = 1;
    std::size_t rank_ = 0;
    std::shared_ptr<const detail::MetricForm> form_;
    const detail::LowRankForm* low_rank_ = nullptr;
};

} // namespace ideal
