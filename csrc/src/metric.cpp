#include "ideal/metric.hpp"

#include "ideal/errors.hpp"
#include "linear_algebra.hpp"
#include "metric_form.hpp"

#include <cmath>
#include <numeric>
#include <sstream>
#include <utility>

namespace ideal {
namespace detail {

FullForm::FullForm(std::vector<double> mean, std::vector<double> covariance, double ridge) : mean_(std::move(mean)) {
    const std::size_t n = mean_.size();
    for (std::size_t i = 0; i < n; ++i) covariance[i * n + i] += ridge;
    if (!cholesky(covariance, static_cast<int>(n)))
        throw UncertaintyError("a covariance with its ridge is not positive definite; use a larger ridge (1e-8 is the "
                               "default)");
    PackedInverse W = invert_lower(covariance, static_cast<int>(n));
    const double inverse_trace = std::inner_product(W.inverse.begin(), W.inverse.end(), W.inverse.begin(), 0.0);
    effective_dimension_ = static_cast<double>(n) - ridge * inverse_trace;
    forward_ = std::move(W.forward);
    backward_ = std::move(W.backward);
}

void FullForm::squared(double* features, std::size_t stride, int n_rows, MetricScratch& scratch, double* unc) const {
    const auto& kernels = detail::kernels().metric;
    const int n = static_cast<int>(mean_.size());
    scratch.z.resize(stride * n_rows + overrun);
    kernels.subtract(features, stride, n_rows, mean_.data(), n);
    kernels.multiply_triangular(features, stride, n_rows, forward_.data(), n, true, scratch.z.data(), stride);
    for (int k = 0; k < n_rows; ++k) unc[k] = kernels.sum_of_squares(scratch.z.data() + k * stride, n);
}

void FullForm::adjoint(const int* rows, const double* slope, int n_rows, std::size_t stride, MetricScratch& scratch,
                       double* adjoint) const {
    const int n = static_cast<int>(mean_.size());
    for (int k = 0; k < n_rows; ++k) { // active rows move to the front
        double* row = scratch.z.data() + k * stride;
        const double* own = scratch.z.data() + rows[k] * stride;
        for (int i = 0; i < n; ++i) row[i] = 2 * slope[k] * own[i];
    }
    kernels().metric.multiply_triangular(scratch.z.data(), stride, n_rows, backward_.data(), n, false, adjoint, stride);
}

} // namespace detail

MahalanobisMetric::MahalanobisMetric(const Distribution& distribution, const MetricParameters& parameters,
                                     const std::vector<FeatureRun>& runs) {
    const std::size_t n = distribution.dimension;
    if (distribution.count < 2) return;
    const double scale = 1.0 / static_cast<double>(distribution.count - 1);
    double trace = 0, mean_square = 0;
    for (std::size_t i = 0; i < n; ++i) {
        trace += distribution.scatter[i * n + i] * scale;
        mean_square += distribution.mean[i] * distribution.mean[i];
    }
    if (!std::isfinite(trace) || !std::isfinite(mean_square))
        throw UncertaintyError("the distribution of descriptors is not finite; it was built from a broken state");
    if (trace <= 1e-24 * mean_square) return; // all environments equal to rounding
    ridge_ = parameters.relative_ridge * trace;
    std::vector<double> covariance(n * n);
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j <= i; ++j)
            covariance[i * n + j] = covariance[j * n + i] = distribution.scatter[i * n + j] * scale;
    using Kind = MetricParameters::Kind;
    try {
        if (parameters.kind == Kind::low_rank || (parameters.kind == Kind::automatic && n > parameters.full_up_to)) {
            auto form = std::make_shared<detail::LowRankForm>(distribution.mean, covariance, ridge_, runs,
                                                              parameters.rank, parameters.tolerance);
            if (parameters.kind == Kind::low_rank || form->cost() < 0.75 * 0.5 * double(n) * double(n)) {
                effective_dimension_ = form->effective_dimension();
                rank_ = form->rank();
                lower_ = form->lower();
                upper_ = form->upper();
                low_rank_ = form.get();
                form_ = std::move(form);
                return;
            }
        }
        auto form = std::make_shared<detail::FullForm>(distribution.mean, std::move(covariance), ridge_);
        effective_dimension_ = form->effective_dimension();
        rank_ = n;
        form_ = std::move(form);
    } catch (const UncertaintyError& error) {
        std::ostringstream message;
        message << "the covariance of " << distribution.count << " environments with ridge = "
                << parameters.relative_ridge << " times its trace cannot be inverted: " << error.what();
        throw UncertaintyError(message.str());
    }
}

} // namespace ideal
