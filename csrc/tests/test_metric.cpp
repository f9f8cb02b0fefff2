// Factorization, eigenvalues, the low-rank metric and its bounds, screening.
#include "check.hpp"
#include "sample.hpp"

#include "ideal/errors.hpp"
#include "ideal/instruction_set.hpp"
#include "ideal/mahalanobis.hpp"
#include "linear_algebra.hpp"
#include "metric_form.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace {

namespace detail = ideal::detail;
using Kind = ideal::MetricParameters::Kind;

/// Symmetric positive definite (n, n) whose eigenvalues span `decades` decades.
std::vector<double> covariance(int n, double decades, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    std::vector<double> factor(static_cast<std::size_t>(n) * n), A(factor.size());
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) factor[i * n + j] = normal(generator) * std::pow(10, -0.5 * decades * j / n);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j)
            for (int k = 0; k < n; ++k) A[i * n + j] += factor[i * n + k] * factor[j * n + k];
    return A;
}

void factorization(int n) {
    auto A = covariance(n, 2, static_cast<unsigned>(n));
    for (int i = 0; i < n; ++i) A[i * n + i] += 1;
    auto L = A;
    CHECK(detail::cholesky(L, n));
    double worst = 0, largest = 0;
    for (int i = 0; i < n; ++i)
        for (int j = 0; j <= i; ++j) {
            double sum = 0;
            for (int k = 0; k <= j; ++k) sum += L[i * n + k] * L[j * n + k];
            worst = std::max(worst, std::abs(sum - A[i * n + j]));
            largest = std::max(largest, std::abs(A[i * n + j]));
        }
    CHECK(worst < 1e-13 * largest);
    const auto W = detail::invert_lower(L, n);
    worst = 0;
    for (int i = 0; i < n; ++i)
        for (int j = 0; j <= i; ++j) {
            double sum = 0;
            for (int k = j; k <= i; ++k) sum += W.inverse[i * n + k] * L[k * n + j];
            worst = std::max(worst, std::abs(sum - (i == j)));
        }
    CHECK(worst < 1e-11);
    for (int i = 0; i < n; ++i)
        for (int j = i + 1; j < n; ++j) CHECK(W.inverse[i * n + j] == 0);
    A[(n - 1) * n + n - 1] = -1;
    CHECK(!detail::cholesky(A, n));
    A[(n - 1) * n + n - 1] = std::numeric_limits<double>::quiet_NaN();
    CHECK(!detail::cholesky(A, n));
}

void eigenvalues(int n, double decades) {
    const auto A = covariance(n, decades, 3);
    const auto e = detail::eigensystem(A, n);
    double worst = 0, skew = 0;
    for (int i = 0; i < n; ++i) {
        if (i > 0) CHECK(e.values[i - 1] >= e.values[i]);
        for (int j = 0; j < n; ++j) {
            double sum = 0, product = 0;
            for (int k = 0; k < n; ++k) {
                sum += e.values[k] * e.vectors[k * n + i] * e.vectors[k * n + j];
                product += e.vectors[i * n + k] * e.vectors[j * n + k];
            }
            worst = std::max(worst, std::abs(sum - A[i * n + j]));
            skew = std::max(skew, std::abs(product - (i == j)));
        }
    }
    CHECK(worst < 1e-13 * n * e.values[0]);
    CHECK(skew < 1e-13 * n);
    const double bound = detail::largest_eigenvalue(A, n);
    CHECK(bound >= e.values[0] && bound < 1.3 * e.values[0]);
}

void special_eigenvalues() {
    for (int n : {1, 2, 5}) {
        const auto zero = detail::eigensystem(std::vector<double>(static_cast<std::size_t>(n) * n), n);
        for (double value : zero.values) CHECK(value == 0);
        std::vector<double> ones(static_cast<std::size_t>(n) * n, 1.0);
        const auto rank_one = detail::eigensystem(ones, n);
        CHECK_NEAR(rank_one.values[0], n, 1e-14 * n);
        for (int k = 1; k < n; ++k) CHECK_NEAR(rank_one.values[k], 0, 1e-14);
    }
    CHECK(detail::largest_eigenvalue(std::vector<double>(9), 3) == 0);
}

/// A distribution with the given covariance.
ideal::Distribution distribution_of(const std::vector<double>& covariance, int n) {
    ideal::Distribution d(static_cast<std::size_t>(n));
    d.count = 1001;
    for (std::size_t i = 0; i < covariance.size(); ++i) d.scatter[i] = 1000 * covariance[i];
    for (int i = 0; i < n; ++i) d.mean[i] = 0.1 * i;
    return d;
}

/// The bound holds for any vector: directions of the covariance, of its dropped part, and random ones.
void low_rank_bounds(int n) {
    const auto A = covariance(n, 14, 5);
    const auto d = distribution_of(A, n);
    ideal::MetricParameters parameters;
    parameters.kind = Kind::full;
    const ideal::MahalanobisMetric full(d, parameters);
    CHECK(full.lower() == 1 && full.upper() == 1 && full.rank() == static_cast<std::size_t>(n));
    const auto e = detail::eigensystem(A, n);
    std::mt19937 generator(1);
    std::normal_distribution<double> normal;
    const int n_rows = detail::overrun + 2 * n > 64 ? 64 : 2 * n;
    const std::size_t stride = static_cast<std::size_t>((n + 15) / 16 * 16 + detail::overrun);
    std::vector<double> rows(n_rows * stride + detail::overrun);
    for (int k = 0; k < n_rows; ++k)
        for (int j = 0; j < n; ++j) {
            const int direction = (k * 7) % n;
            const double step = k % 3 == 0   ? e.vectors[direction * n + j] * std::sqrt(e.values[direction] + 1e-12)
                                : k % 3 == 1 ? normal(generator)
                                             : 1e-3 * normal(generator) * e.vectors[(n - 1) * n + j];
            rows[k * stride + j] = d.mean[j] + step;
        }
    std::vector<double> exact(n_rows), approximate(n_rows), again(n_rows), low(n_rows), high(n_rows);
    detail::MetricScratch scratch;
    auto copy = rows;
    full.form().squared(copy.data(), stride, n_rows, scratch, exact.data());
    parameters.kind = Kind::low_rank;
    double last_width = std::numeric_limits<double>::infinity();
    for (double tolerance : {0.5, 0.1, 0.01}) {
        parameters.tolerance = tolerance;
        const ideal::MahalanobisMetric metric(d, parameters);
        CHECK(std::sqrt(metric.upper()) <= 1 + tolerance && std::sqrt(metric.lower()) >= 1 - tolerance);
        CHECK(metric.upper() - metric.lower() <= last_width);
        last_width = metric.upper() - metric.lower();
        copy = rows;
        metric.form().squared(copy.data(), stride, n_rows, scratch, approximate.data());
        for (int k = 0; k < n_rows; ++k) {
            CHECK(approximate[k] <= metric.upper() * exact[k] * (1 + 1e-6));
            CHECK(approximate[k] >= metric.lower() * exact[k] * (1 - 1e-6));
        }
        metric.low_rank()->squared_single(rows.data(), stride, n_rows, scratch, again.data(), low.data(), high.data());
        for (int k = 0; k < n_rows; ++k) {
            CHECK(low[k] <= approximate[k] && approximate[k] <= high[k]);
            CHECK_NEAR(again[k], approximate[k], 1e-4 * approximate[k]);
        }
        std::vector<int> chosen;
        for (int k = 1; k < n_rows; k += 3) chosen.push_back(k);
        metric.low_rank()->confirm(chosen.data(), static_cast<int>(chosen.size()), scratch, again.data());
        for (std::size_t k = 0; k < chosen.size(); ++k) CHECK(again[k] == approximate[chosen[k]]); // to the last bit
        // d_eff = tr[Sigma E^-1]: u^2 averages to 1 over vectors of this covariance.
        double mean = 0;
        std::vector<double> one(stride + detail::overrun);
        for (int k = 0; k < n; ++k) {
            for (int j = 0; j < n; ++j)
                one[j] = d.mean[j] + std::sqrt(std::max(0.0, e.values[k])) * e.vectors[k * n + j];
            double unc = 0;
            metric.form().squared(one.data(), stride, 1, scratch, &unc);
            mean += unc;
        }
        CHECK_NEAR(mean, metric.effective_dimension(), 1e-6 * mean);
    }
    parameters.rank = static_cast<std::size_t>(n);
    const ideal::MahalanobisMetric all(d, parameters);
    copy = rows;
    all.form().squared(copy.data(), stride, n_rows, scratch, approximate.data());
    CHECK(all.rank() == static_cast<std::size_t>(n) && all.upper() == 1);
    for (int k = 0; k < n_rows; ++k) CHECK_NEAR(approximate[k], exact[k], 1e-5 * exact[k]);
}

/// Where the ridge exceeds every variance, one direction is kept all the same.
void low_rank_under_a_huge_ridge() {
    const int n = 20;
    const auto d = distribution_of(covariance(n, 6, 5), n);
    ideal::MetricParameters parameters;
    for (double ridge : {1.0, 100.0, 1e6}) {
        parameters.relative_ridge = ridge;
        parameters.kind = Kind::full;
        const ideal::MahalanobisMetric full(d, parameters);
        parameters.kind = Kind::low_rank;
        const ideal::MahalanobisMetric metric(d, parameters);
        CHECK(metric.rank() >= 1);
        CHECK(std::sqrt(metric.upper()) <= 1.1 && std::sqrt(metric.lower()) >= 0.9);
        CHECK_NEAR(metric.effective_dimension(), full.effective_dimension(), 0.2 * full.effective_dimension());
    }
}

void screening() {
    ideal::SoapParameters soap;
    soap.numbers = {11, 17};
    soap.r_cut = 3.5;
    soap.n_max = 3;
    soap.l_max = 3;
    for (bool per_species : {true, false})
        for (Kind kind : {Kind::full, Kind::low_rank, Kind::automatic}) {
            ideal::MahalanobisParameters parameters;
            parameters.per_species = per_species;
            parameters.metric.kind = kind;
            parameters.metric.full_up_to = 10; // screening pays from here on
            ideal::SoapMahalanobis uncertainty(ideal::SoapPowerSpectrum(soap), parameters);
            std::vector<Sample> training;
            std::vector<ideal::Structure> views;
            std::vector<ideal::Centers> centers;
            for (unsigned seed = 0; seed < 40; ++seed) training.push_back(random_sample(12, seed, {true, true, true}));
            for (const Sample& sample : training) {
                views.push_back(sample.view());
                centers.push_back(sample.all());
            }
            uncertainty.update(views, centers);
            const Sample sample = random_sample(60, 99, {true, true, true}, 12.0);
            std::vector<double> u(60), screened(60);
            uncertainty.atomic(sample.view(), sample.all(), u.data());
            std::vector<double> thresholds = u; // equal to a value is the hardest case
            for (double edge : {0.0, -1.0, 1e300, std::numeric_limits<double>::infinity()}) thresholds.push_back(edge);
            for (double threshold : thresholds) {
                uncertainty.screen(sample.view(), sample.all(), threshold, screened.data());
                for (int i = 0; i < 60; ++i) {
                    CHECK((screened[i] > threshold) == (u[i] > threshold));
                    CHECK_NEAR(screened[i], u[i], 0.1 * u[i]);
                }
            }
        }
}

} // namespace

int main() {
    for (const auto& name : ideal::available_instruction_sets()) {
        ideal::select_instruction_set(name);
        for (int n : {1, 7, 63, 64, 65, 130}) factorization(n);
        for (int n : {1, 2, 30, 70}) eigenvalues(n, 12);
        special_eigenvalues();
        for (int n : {9, 70, 140}) low_rank_bounds(n);
        low_rank_under_a_huge_ridge();
        screening();
    }
    return check::result();
}
