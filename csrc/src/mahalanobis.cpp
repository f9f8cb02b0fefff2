#include "ideal/mahalanobis.hpp"

#include "ideal/errors.hpp"
#include "metric_form.hpp"
#include "pipeline.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <sstream>
#include <utility>

namespace ideal {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// The features of each degree l: species pairs, then l, then n and n'.
std::vector<FeatureRun> runs_by_degree(const SoapPowerSpectrum& soap) {
    const SoapParameters& p = soap.parameters();
    const std::size_t n_species = p.numbers.size(), n_max = static_cast<std::size_t>(p.n_max);
    std::vector<FeatureRun> runs;
    std::size_t begin = 0;
    for (std::size_t s = 0; s < n_species; ++s)
        for (std::size_t t = s; t < n_species; ++t)
            for (int l = 0; l <= p.l_max; ++l) {
                const std::size_t size = s == t ? n_max * (n_max + 1) / 2 : n_max * n_max;
                runs.push_back({begin, size, static_cast<std::size_t>(l)});
                begin += size;
            }
    if (begin != soap.n_features()) return {}; // another layout: equal blocks
    return runs;
}

/// Unc of a chunk, and the adjoint of whatever objective is asked for.
struct MahalanobisHead : detail::Head {
    enum class Objective { none, weighted, hinge };

    std::vector<std::shared_ptr<const MahalanobisMetric>> metrics;
    std::vector<int> numbers;
    Objective objective = Objective::none;
    const double* weights = nullptr; // per center; objectives weighted and hinge
    const double* floor = nullptr;   // per center, in u^2; objective hinge
    const double* width = nullptr;   // per center, in u^2, may be null; objective hinge
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
                AlignedVector<double>&) const override {
        static thread_local detail::MetricScratch scratch;
        const MahalanobisMetric& metric = *metrics[chunk.species];
        const double d = metric.effective_dimension();
        std::array<double, detail::chunk_size> squared, slopes;
        if (metric.defined()) metric.form().squared(features, stride, chunk.size, scratch, squared.data());
        else squared.fill(infinity);
        int n_active = 0;
        for (int b = 0; b < chunk.size; ++b) {
            const std::size_t k = chunk.order[b];
            const double u_squared = metric.defined() ? squared[b] / d : infinity;
            if (unc) unc[k] = squared[b];
            if (u) u[k] = std::sqrt(u_squared);
            double slope = 0; // dL/dUnc
            if (objective == Objective::weighted) slope = weights[k];
            if (objective == Objective::hinge) {
                value[k] = 0;
                if (weights[k] != 0 && u_squared > floor[k]) {
                    if (!metric.defined()) refuse_infinite(chunk, b);
                    const double over = u_squared - floor[k], w = width ? width[k] : 0;
                    value[k] = weights[k] * (over < w ? over * over / (2 * w) : over - 0.5 * w);
                    slope = weights[k] / d * (over < w ? over / w : 1);
                }
            }
            if (slope == 0) continue;
            if (!metric.defined()) refuse_infinite(chunk, b);
            slopes[n_active] = slope;
            active[n_active++] = b;
        }
        if (n_active > 0) metric.form().adjoint(active, slopes.data(), n_active, stride, scratch, adjoint);
        return n_active;
    }
};

/// u of a chunk: cheap where it is far from the threshold, exact near it.
struct ScreeningHead : detail::Head {
    std::vector<std::shared_ptr<const MahalanobisMetric>> metrics;
    std::vector<std::shared_ptr<const MahalanobisMetric>> screens; // of low rank; may be the metric itself, or null
    double threshold = 0;
    double* u = nullptr; // per center

    int process(const detail::Chunk& chunk, double* features, std::size_t stride, int*, double*,
                AlignedVector<double>&) const override {
        static thread_local detail::MetricScratch scratch;
        const MahalanobisMetric& metric = *metrics[chunk.species];
        const double d = metric.effective_dimension();
        std::array<double, detail::chunk_size> squared;
        squared.fill(infinity);
        if (const MahalanobisMetric* screen = screens[chunk.species].get())
            cheaply(metric, *screen, chunk, features, stride, scratch, squared.data());
        else if (metric.defined()) metric.form().squared(features, stride, chunk.size, scratch, squared.data());
        for (int b = 0; b < chunk.size; ++b)
            u[chunk.order[b]] = metric.defined() ? std::sqrt(squared[b] / d) : infinity;
        return 0;
    }

private:
    void cheaply(const MahalanobisMetric& metric, const MahalanobisMetric& screen, const detail::Chunk& chunk,
                 double* features, std::size_t stride, detail::MetricScratch& scratch, double* squared) const {
        const detail::LowRankForm& form = *screen.low_rank();
        std::array<double, detail::chunk_size> low, high, exact;
        std::array<int, detail::chunk_size> near;
        form.squared_single(features, stride, chunk.size, scratch, squared, low.data(), high.data());
        const double d = metric.effective_dimension();
        const bool itself = &metric == &screen;
        const double widest = itself ? 1 : 1 / screen.lower(), narrowest = itself ? 1 : 1 / screen.upper();
        int n_near = 0;
        for (int b = 0; b < chunk.size; ++b) {
            const double least = std::sqrt(low[b] * narrowest / d), most = std::sqrt(high[b] * widest / d);
            if (!(least > threshold || most <= threshold)) near[n_near++] = b; // NaN too
        }
        if (n_near == 0) return;
        if (itself) {
            form.confirm(near.data(), n_near, scratch, exact.data());
        } else {
            for (int k = 0; k < n_near; ++k) // rows ascend: none is overwritten before it moves
                std::copy_n(features + near[k] * stride, stride - detail::overrun, features + k * stride);
            metric.form().squared(features, stride, n_near, scratch, exact.data());
        }
        for (int k = 0; k < n_near; ++k) squared[near[k]] = exact[k];
    }
};

} // namespace

SoapMahalanobis::SoapMahalanobis(SoapPowerSpectrum soap, const MahalanobisParameters& parameters)
    : soap_(std::move(soap)), parameters_(parameters) {
    const double ridge = parameters.metric.relative_ridge;
    if (!(std::isfinite(ridge) && ridge > 0)) {
        std::ostringstream message;
        message << "ridge = " << ridge << " is not valid; use a positive number (1e-8 is the default)";
        throw ConfigError(message.str());
    }
    if (parameters.metric.rank > soap_.n_features())
        throw ConfigError("rank = " + std::to_string(parameters.metric.rank) + " is not valid; the descriptor has " +
                          std::to_string(soap_.n_features()) + " features");
    if (!(parameters.metric.tolerance > 0))
        throw ConfigError("the tolerance of a metric of low rank must be positive");
    counts_.resize(soap_.parameters().numbers.size());
    slots_.resize(parameters.per_species ? counts_.size() : 1);
    for (Slot& slot : slots_) slot.distribution = Distribution(soap_.n_features());
}

SoapMahalanobis::SoapMahalanobis(const SoapMahalanobis& other) : soap_(other.soap_), parameters_(other.parameters_) {
    const std::lock_guard<std::mutex> lock(other.mutex_);
    slots_ = other.slots_;
    counts_ = other.counts_;
}

void SoapMahalanobis::update(const Structure& structure, Centers centers, int threads) {
    update(std::vector<Structure>{structure}, std::vector<Centers>{centers}, threads);
}

void SoapMahalanobis::update(const std::vector<Structure>& structures, const std::vector<Centers>& centers,
                             int threads) {
    constexpr std::size_t most_rows = 4096; // per batch: bounds the memory of large structures
    if (structures.size() != centers.size())
        throw UncertaintyError(std::to_string(centers.size()) + " sets of centers for " +
                               std::to_string(structures.size()) + " structures; give one for each");
    const std::size_t n = soap_.n_features(), n_species = counts_.size();
    struct Batch {
        std::vector<double> rows;
        std::size_t n_rows = 0;
        std::vector<std::size_t> counts;
    };
    std::vector<Batch> batches(slots_.size());
    for (Batch& batch : batches) batch.counts.resize(n_species);
    const auto learn = [&](std::size_t s) {
        Batch& batch = batches[s];
        if (batch.n_rows == 0) return;
        const std::lock_guard<std::mutex> lock(mutex_);
        slots_[s].distribution.add_batch(batch.rows.data(), batch.n_rows, n, threads);
        slots_[s].changed();
        for (std::size_t k = 0; k < n_species; ++k) counts_[k] += batch.counts[k];
        batch.n_rows = 0;
        std::fill(batch.counts.begin(), batch.counts.end(), std::size_t(0));
    };
    const auto learn_all = [&] {
        for (std::size_t s = 0; s < batches.size(); ++s) learn(s);
    };
    for (std::size_t i = 0; i < structures.size(); ++i) {
        const Structure& structure = structures[i];
        std::vector<std::vector<std::ptrdiff_t>> own(slots_.size());
        std::vector<std::size_t> fresh(n_species);
        std::vector<Distribution> large(slots_.size());
        try {
            const std::vector<int> species = soap_.basis().species_of(structure);
            for (std::size_t k = 0; k < centers[i].size; ++k) {
                const std::ptrdiff_t atom = centers[i][k];
                if (atom < 0 || static_cast<std::size_t>(atom) >= structure.n_atoms)
                    throw UncertaintyError("center " + std::to_string(atom) + " is not an atom of the structure");
                own[distribution_of(species[atom])].push_back(atom);
                ++fresh[species[atom]];
            }
            // Nothing of a structure counts before all of it has been described.
            for (std::size_t s = 0; s < own.size(); ++s) {
                if (own[s].size() > most_rows) {
                    large[s] = Distribution(n);
                    std::vector<double> rows(most_rows * n + detail::overrun);
                    for (std::size_t begin = 0; begin < own[s].size(); begin += most_rows) {
                        const std::size_t count = std::min(most_rows, own[s].size() - begin);
                        soap_.create(structure, {own[s].data() + begin, count}, rows.data(), threads);
                        large[s].add_batch(rows.data(), count, n, threads);
                    }
                } else if (!own[s].empty()) {
                    Batch& batch = batches[s];
                    if (batch.n_rows + own[s].size() > most_rows) learn(s);
                    batch.rows.resize(std::max(batch.rows.size(), (batch.n_rows + own[s].size()) * n + detail::overrun));
                    soap_.create(structure, {own[s].data(), own[s].size()}, batch.rows.data() + batch.n_rows * n,
                                 threads);
                }
            }
        } catch (...) {
            learn_all();
            throw;
        }
        for (std::size_t s = 0; s < own.size(); ++s) {
            if (large[s].count > 0) {
                const std::lock_guard<std::mutex> lock(mutex_);
                slots_[s].distribution.merge(large[s]);
                slots_[s].changed();
                for (std::size_t k = 0; k < n_species; ++k)
                    if (distribution_of(k) == s) counts_[k] += fresh[k];
            } else {
                batches[s].n_rows += own[s].size();
                for (std::size_t k = 0; k < n_species; ++k)
                    if (distribution_of(k) == s) batches[s].counts[k] += fresh[k];
            }
        }
    }
    learn_all();
}

void SoapMahalanobis::merge(const SoapMahalanobis& other) {
    if (soap_.parameters() != other.soap_.parameters())
        throw UncertaintyError(
            "cannot merge statistics of different descriptors; make both with the same SOAP parameters");
    if (parameters_.per_species != other.parameters_.per_species)
        throw UncertaintyError("cannot merge statistics per species with statistics over all species; make both with "
                               "the same per_species");
    std::vector<Distribution> theirs;
    std::vector<std::size_t> their_counts;
    {
        const std::lock_guard<std::mutex> lock(other.mutex_);
        for (const Slot& slot : other.slots_) theirs.push_back(slot.distribution);
        their_counts = other.counts_;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::size_t s = 0; s < slots_.size(); ++s) {
        slots_[s].distribution.merge(theirs[s]);
        slots_[s].changed();
    }
    for (std::size_t k = 0; k < counts_.size(); ++k) counts_[k] += their_counts[k];
}

Distribution SoapMahalanobis::distribution(std::size_t index) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return slots_.at(index).distribution;
}

void SoapMahalanobis::set_distribution(std::size_t index, Distribution distribution) {
    const std::size_t n = soap_.n_features();
    if (distribution.dimension != n || distribution.mean.size() != n || distribution.scatter.size() != n * n)
        throw UncertaintyError("a distribution of dimension " + std::to_string(distribution.dimension) +
                               " does not fit a descriptor with " + std::to_string(n) + " features");
    const std::lock_guard<std::mutex> lock(mutex_);
    if (parameters_.per_species) counts_.at(index) = distribution.count;
    slots_.at(index).distribution = std::move(distribution);
    slots_.at(index).changed();
}

void SoapMahalanobis::set_counts(std::vector<std::size_t> counts) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bool fits = counts.size() == counts_.size();
    for (std::size_t s = 0; fits && s < slots_.size(); ++s) {
        std::size_t sum = 0;
        for (std::size_t k = 0; k < counts.size(); ++k) sum += distribution_of(k) == s ? counts[k] : 0;
        fits = sum == slots_[s].distribution.count;
    }
    if (!fits) throw UncertaintyError("counts per species do not add up to those of the distributions");
    counts_ = std::move(counts);
}

std::size_t SoapMahalanobis::count(std::size_t species) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return counts_.at(species);
}

SoapMahalanobis::MetricPointer SoapMahalanobis::build(const Slot& slot, const MetricParameters& parameters) const {
    return std::make_shared<const MahalanobisMetric>(slot.distribution, parameters, runs_by_degree(soap_));
}

SoapMahalanobis::MetricPointer SoapMahalanobis::metric(std::size_t species) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Slot& slot = slots_.at(distribution_of(species));
    if (!slot.metric) slot.metric = build(slot, parameters_.metric);
    return slot.metric;
}

std::vector<SoapMahalanobis::MetricPointer> SoapMahalanobis::metrics() const {
    std::vector<MetricPointer> all;
    for (std::size_t k = 0; k < counts_.size(); ++k) all.push_back(metric(k));
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

void SoapMahalanobis::screen(const Structure& structure, Centers centers, double threshold, double* values,
                             int threads) const {
    ScreeningHead head;
    head.metrics = metrics();
    head.threshold = threshold;
    head.u = values;
    MetricParameters parameters = parameters_.metric;
    parameters.kind = MetricParameters::Kind::automatic;
    parameters.rank = 0;
    for (std::size_t k = 0; k < counts_.size(); ++k) {
        MetricPointer screen = head.metrics[k];
        if (screen->defined() && !screen->low_rank() && soap_.n_features() > parameters.full_up_to) {
            const std::lock_guard<std::mutex> lock(mutex_);
            const Slot& slot = slots_[distribution_of(k)];
            // If another thread has learned meanwhile, the new metric's screen does not fit the old metric.
            if (slot.metric == screen) {
                if (!slot.screen) slot.screen = build(slot, parameters);
                screen = slot.screen;
            }
        }
        head.screens.push_back(screen->low_rank() ? screen : nullptr);
    }
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
    head.width = hinge.width;
    head.u = u;
    head.value = values.data();
    detail::run_pipeline(soap_.basis(), structure, centers, head, gradient, threads);
    return std::accumulate(values.begin(), values.end(), 0.0);
}

} // namespace ideal
