#include "ideal/mahalanobis.hpp"

#include "ideal/errors.hpp"
#include "kernel.hpp"
#include "pipeline.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <sstream>
#include <utility>

namespace ideal {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// W (n, n) lower -> panels for rows * W^T (lower) or rows * W (upper); see kernel.hpp.
AlignedVector<double> pack(const std::vector<double>& W, int n, bool lower) {
    const int width = detail::panel_width, n_panels = (n + width - 1) / width;
    AlignedVector<double> packed;
    packed.reserve(static_cast<std::size_t>(n) * (n + 2 * width) / 2 + detail::overrun);
    for (int panel = 0; panel < n_panels; ++panel) {
        const int begin = lower ? 0 : panel * width;
        const int end = begin + static_cast<int>(detail::packed_panel_rows(n, panel, lower));
        for (int term = begin; term < end; ++term)
            for (int column = panel * width; column < (panel + 1) * width; ++column) {
                const std::size_t row = lower ? column : term, at = lower ? term : column;
                packed.push_back(column < n ? W[row * n + at] : 0.0);
            }
    }
    packed.resize(packed.size() + detail::overrun, 0.0);
    return packed;
}

} // namespace

MahalanobisMetric::MahalanobisMetric(const Distribution& distribution, double relative_ridge)
    : dimension_(distribution.dimension), mean_(distribution.mean) {
    const std::size_t n = dimension_;
    if (distribution.count < 2) return;
    const double scale = 1.0 / static_cast<double>(distribution.count - 1);
    double trace = 0, mean_square = 0;
    for (std::size_t i = 0; i < n; ++i) {
        trace += distribution.scatter[i * n + i] * scale;
        mean_square += mean_[i] * mean_[i];
    }
    if (!std::isfinite(trace) || !std::isfinite(mean_square))
        throw UncertaintyError("the distribution of descriptors is not finite; it was built from a broken state");
    if (trace <= 1e-24 * mean_square) return; // all environments equal to rounding
    ridge_ = relative_ridge * trace;
    std::vector<double> L(n * n, 0.0), W(n * n);
    for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j <= i; ++j) L[i * n + j] = distribution.scatter[i * n + j] * scale;
        L[i * n + i] += ridge_;
    }
    const auto& kernels = detail::kernels();
    if (!kernels.metric.cholesky(L.data(), static_cast<int>(n))) {
        std::ostringstream message;
        message << "the covariance of " << distribution.count << " environments with ridge = " << relative_ridge
                << " times its trace is not positive definite; use a larger ridge (1e-8 is the default)";
        throw UncertaintyError(message.str());
    }
    kernels.metric.invert_lower(L.data(), W.data(), static_cast<int>(n));
    const double inverse_trace = std::inner_product(W.begin(), W.end(), W.begin(), 0.0); // trace (Sigma + ridge I)^-1
    effective_dimension_ = static_cast<double>(n) - ridge_ * inverse_trace;
    forward_ = pack(W, static_cast<int>(n), true);
    backward_ = pack(W, static_cast<int>(n), false);
    defined_ = true;
}

/// Unc of a chunk, and the adjoint of whatever objective is asked for.
struct MahalanobisHead : detail::Head {
    enum class Objective { none, weighted, hinge };

    std::vector<std::shared_ptr<const MahalanobisMetric>> metrics;
    std::vector<int> numbers;
    Objective objective = Objective::none;
    const double* weights = nullptr; // per center; objectives weighted and hinge
    const double* floor = nullptr;   // per center, in u^2; objective hinge
    double* unc = nullptr;           // per center, may be null
    double* u = nullptr;             // per center, may be null
    double* value = nullptr;         // per center; objective hinge

    [[noreturn]] void refuse_infinite(const detail::Chunk& chunk, int b) const {
        std::ostringstream message;
        message << "atom " << chunk.atoms[b] << " (atomic number " << numbers[chunk.species]
                << ") has infinite uncertainty, which has no gradient: its species has fewer than two distinct "
                   "training environments. Call update()"
                   " with structures that contain the species, or give its atoms weight 0";
        throw UncertaintyError(message.str());
    }

    int process(const detail::Chunk& chunk, double* features, std::size_t stride, int* active, double* adjoint,
                AlignedVector<double>& z) const override {
        const auto& kernels = detail::kernels();
        const MahalanobisMetric& metric = *metrics[chunk.species];
        const int n = static_cast<int>(metric.dimension_);
        if (metric.defined()) {
            z.resize(stride * detail::chunk_size + detail::overrun);
            kernels.metric.subtract(features, stride, chunk.size, metric.mean_.data(), n);
            kernels.metric.multiply(features, stride, chunk.size, metric.forward_.data(), n, true, z.data(), stride);
        }
        int n_active = 0;
        for (int b = 0; b < chunk.size; ++b) {
            const std::size_t k = chunk.order[b];
            const double d = metric.effective_dimension();
            const double squared = metric.defined() ? kernels.metric.sum_of_squares(z.data() + b * stride, n) : infinity;
            const double u_squared = metric.defined() ? squared / d : infinity;
            if (unc) unc[k] = squared;
            if (u) u[k] = std::sqrt(u_squared);
            double slope = 0; // dL/dUnc
            if (objective == Objective::weighted) slope = weights[k];
            if (objective == Objective::hinge) {
                value[k] = 0;
                if (weights[k] != 0 && u_squared > floor[k]) {
                    if (!metric.defined()) refuse_infinite(chunk, b);
                    value[k] = weights[k] * (u_squared - floor[k]);
                    slope = weights[k] / d;
                }
            }
            if (slope == 0) continue;
            if (!metric.defined()) refuse_infinite(chunk, b);
            double* row = z.data() + n_active * stride; // active rows move to the front
            const double* own = z.data() + b * stride;
            for (int i = 0; i < n; ++i) row[i] = 2 * slope * own[i];
            active[n_active++] = b;
        }
        if (n_active > 0)
            kernels.metric.multiply(z.data(), stride, n_active, metric.backward_.data(), n, false, adjoint, stride);
        return n_active;
    }
};

SoapMahalanobis::SoapMahalanobis(SoapPowerSpectrum soap, double relative_ridge)
    : soap_(std::move(soap)), relative_ridge_(relative_ridge) {
    if (!(std::isfinite(relative_ridge) && relative_ridge > 0)) {
        std::ostringstream message;
        message << "ridge = " << relative_ridge << " is not valid; use a positive number (1e-8 is the default)";
        throw ConfigError(message.str());
    }
    slots_.resize(soap_.parameters().numbers.size());
    for (Slot& slot : slots_) slot.distribution = Distribution(soap_.n_features());
}

SoapMahalanobis::SoapMahalanobis(const SoapMahalanobis& other)
    : soap_(other.soap_), relative_ridge_(other.relative_ridge_) {
    const std::lock_guard<std::mutex> lock(other.mutex_);
    slots_ = other.slots_;
}

void SoapMahalanobis::update(const Structure& structure, Centers centers, int threads) {
    constexpr std::size_t rows = 4096; // centers per batch: bounds the memory of large structures
    const std::vector<int> species = soap_.basis().species_of(structure);
    const std::size_t n = soap_.n_features(), n_species = soap_.parameters().numbers.size();
    for (std::size_t k = 0; k < centers.size; ++k)
        if (centers[k] < 0 || static_cast<std::size_t>(centers[k]) >= structure.n_atoms)
            throw UncertaintyError("center " + std::to_string(centers[k]) + " is not an atom of the structure");
    std::vector<Distribution> learnt(n_species);
    std::vector<double> batch;
    for (std::size_t s = 0; s < n_species; ++s) {
        std::vector<std::ptrdiff_t> own;
        for (std::size_t k = 0; k < centers.size; ++k)
            if (species[centers[k]] == static_cast<int>(s)) own.push_back(centers[k]);
        if (own.empty()) continue;
        learnt[s] = Distribution(n);
        for (std::size_t begin = 0; begin < own.size(); begin += rows) {
            const std::size_t count = std::min(rows, own.size() - begin);
            batch.resize(count * n + detail::overrun);
            soap_.create(structure, {own.data() + begin, count}, batch.data(), threads);
            learnt[s].add_batch(batch.data(), count, n, threads);
        }
    }
    // Only now, when nothing can fail any more, does the state change.
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::size_t s = 0; s < n_species; ++s) {
        if (learnt[s].count == 0) continue;
        slots_[s].distribution.merge(learnt[s]);
        slots_[s].metric.reset();
    }
}

void SoapMahalanobis::merge(const SoapMahalanobis& other) {
    const auto &a = soap_.parameters(), &b = other.soap_.parameters();
    if (a.numbers != b.numbers || a.r_cut != b.r_cut || a.n_max != b.n_max || a.l_max != b.l_max ||
        a.sigma != b.sigma || a.taper != b.taper)
        throw UncertaintyError(
            "cannot merge statistics of different descriptors; make both with the same SOAP parameters");
    for (std::size_t s = 0; s < slots_.size(); ++s) {
        const Distribution theirs = other.distribution(s);
        const std::lock_guard<std::mutex> lock(mutex_);
        slots_[s].distribution.merge(theirs);
        slots_[s].metric.reset();
    }
}

Distribution SoapMahalanobis::distribution(std::size_t species) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return slots_.at(species).distribution;
}

void SoapMahalanobis::set_distribution(std::size_t species, Distribution distribution) {
    const std::size_t n = soap_.n_features();
    if (distribution.dimension != n || distribution.mean.size() != n || distribution.scatter.size() != n * n)
        throw UncertaintyError("a distribution of dimension " + std::to_string(distribution.dimension) +
                               " does not fit a descriptor with " + std::to_string(n) + " features");
    const std::lock_guard<std::mutex> lock(mutex_);
    slots_.at(species).distribution = std::move(distribution);
    slots_.at(species).metric.reset();
}

std::size_t SoapMahalanobis::count(std::size_t species) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return slots_.at(species).distribution.count;
}

std::shared_ptr<const MahalanobisMetric> SoapMahalanobis::metric(std::size_t species) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Slot& slot = slots_.at(species);
    if (!slot.metric) slot.metric = std::make_shared<const MahalanobisMetric>(slot.distribution, relative_ridge_);
    return slot.metric;
}

std::vector<std::shared_ptr<const MahalanobisMetric>> SoapMahalanobis::metrics() const {
    std::vector<std::shared_ptr<const MahalanobisMetric>> all;
    for (std::size_t s = 0; s < slots_.size(); ++s) all.push_back(metric(s));
    return all;
}

void SoapMahalanobis::squared_mahalanobis(const Structure& structure, Centers centers, double* values,
                                          int threads) const {
    MahalanobisHead head;
    head.metrics = metrics();
    head.unc = values;
    detail::run_pipeline(soap_.basis(), structure, centers, head, {}, threads);
}

void SoapMahalanobis::atomic(const Structure& structure, Centers centers, double* values, int threads) const {
    MahalanobisHead head;
    head.metrics = metrics();
    head.u = values;
    detail::run_pipeline(soap_.basis(), structure, centers, head, {}, threads);
}

void SoapMahalanobis::gradient(const Structure& structure, Centers centers, const double* weights, Gradient gradient,
                               int threads) const {
    std::vector<std::ptrdiff_t> atoms;
    std::vector<double> own_weights;
    for (std::size_t k = 0; k < centers.size; ++k) {
        if (weights[k] == 0) continue;
        atoms.push_back(centers[k]);
        own_weights.push_back(weights[k]);
    }
    MahalanobisHead head;
    head.metrics = metrics();
    head.numbers = soap_.parameters().numbers;
    head.objective = MahalanobisHead::Objective::weighted;
    head.weights = own_weights.data();
    detail::run_pipeline(soap_.basis(), structure, {atoms.data(), atoms.size()}, head, gradient, threads);
}

double SoapMahalanobis::hinge(const Structure& structure, Centers centers, Hinge hinge, Gradient gradient, double* u,
                              int threads) const {
    std::vector<double> values(centers.size);
    MahalanobisHead head;
    head.metrics = metrics();
    head.numbers = soap_.parameters().numbers;
    head.objective = MahalanobisHead::Objective::hinge;
    head.weights = hinge.weight;
    head.floor = hinge.floor;
    head.u = u;
    head.value = values.data();
    detail::run_pipeline(soap_.basis(), structure, centers, head, gradient, threads);
    return std::accumulate(values.begin(), values.end(), 0.0);
}

} // namespace ideal
