// Distribution, metric and SoapMahalanobis without Python.
#include "check.hpp"
#include "sample.hpp"

#include "ideal/distribution.hpp"
#include "ideal/errors.hpp"
#include "ideal/instruction_set.hpp"
#include "ideal/mahalanobis.hpp"

#include <cmath>
#include <random>
#include <vector>

namespace {

/// Rows of correlated numbers on a large common offset.
std::vector<double> random_rows(std::size_t n_rows, std::size_t n, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    std::vector<double> rows(n_rows * n);
    for (std::size_t k = 0; k < n_rows; ++k) {
        const double common = normal(generator);
        for (std::size_t j = 0; j < n; ++j) rows[k * n + j] = 1e3 + common + 0.1 * normal(generator);
    }
    return rows;
}

void batches_and_merges_agree_with_the_definition(std::size_t n) {
    const std::size_t n_rows = 150;
    const auto rows = random_rows(n_rows, n, 1);
    std::vector<double> mean(n, 0.0);
    for (std::size_t k = 0; k < n_rows; ++k)
        for (std::size_t j = 0; j < n; ++j) mean[j] += rows[k * n + j] / n_rows;
    ideal::Distribution whole(n), first(n), second(n), empty(n);
    auto copy = rows;
    whole.add_batch(copy.data(), n_rows, n, 2);
    copy = rows;
    first.add_batch(copy.data(), 1, n);
    first.add_batch(copy.data() + n, 40, n);
    first.merge(empty);
    second.add_batch(copy.data() + 41 * n, n_rows - 41, n);
    empty.merge(first);
    empty.merge(second);
    for (const auto* d : {&whole, &empty}) {
        CHECK(d->count == n_rows);
        for (std::size_t i = 0; i < n; ++i) {
            CHECK_NEAR(d->mean[i], mean[i], 1e-9);
            for (std::size_t j = 0; j <= i; j += 1 + i / 3) {
                double sum = 0;
                for (std::size_t k = 0; k < n_rows; ++k)
                    sum += (rows[k * n + i] - mean[i]) * (rows[k * n + j] - mean[j]);
                CHECK_NEAR(d->scatter[i * n + j], sum, 1e-8);
            }
        }
    }
    CHECK(!check::message_of<ideal::UncertaintyError>([&] { whole.merge(ideal::Distribution(n + 1)); }).empty());
}

ideal::SoapMahalanobis make(double ridge = 1e-8) {
    ideal::SoapParameters parameters;
    parameters.numbers = {11, 17};
    parameters.r_cut = 3.5;
    parameters.n_max = 3;
    parameters.l_max = 3;
    ideal::MahalanobisParameters mahalanobis;
    mahalanobis.metric.relative_ridge = ridge;
    return ideal::SoapMahalanobis(ideal::SoapPowerSpectrum(parameters), mahalanobis);
}

/// Value by the definition, and the gradient along one direction by central differences; a third of the centers lies
/// below the floor, a third within the width, a third beyond.
void rounded_corner(const ideal::SoapMahalanobis& uncertainty, Sample sample, const std::vector<double>& u) {
    const std::size_t n = u.size();
    std::vector<double> floor(n), width(n), weight(n), again(n), gradient(3 * n, 0.0), strain(9, 0.0);
    double expected = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const double squared = u[i] * u[i];
        floor[i] = (i % 3 == 0 ? 1.5 : 0.5) * squared;
        width[i] = (i % 3 == 1 ? 0.75 : 0.25) * squared;
        weight[i] = 1.0 + 0.1 * static_cast<double>(i);
        const double over = squared - floor[i];
        if (over > 0)
            expected += weight[i] * (over < width[i] ? 0.5 * over * over / width[i] : over - 0.5 * width[i]);
    }
    const ideal::Hinge hinge{floor.data(), weight.data(), width.data()};
    const double value =
        uncertainty.hinge(sample.view(), sample.all(), hinge, {gradient.data(), strain.data()}, again.data());
    CHECK_NEAR(value, expected, 1e-9 * expected);
    std::vector<double> ignored(3 * n), ignored_strain(9);
    const auto value_at = [&](std::size_t k, double step) {
        Sample moved = sample;
        moved.positions[k] += step;
        return uncertainty.hinge(moved.view(), moved.all(), hinge, {ignored.data(), ignored_strain.data()},
                                 again.data());
    };
    for (std::size_t k = 0; k < 3 * n; k += 7) {
        const double numeric = (value_at(k, 1e-6) - value_at(k, -1e-6)) / 2e-6;
        CHECK_NEAR(gradient[k], numeric, 1e-5 * (std::abs(numeric) + 1));
    }
}

void hinge_is_consistent() {
    auto uncertainty = make();
    double sum = 0;
    std::vector<Sample> training;
    for (unsigned seed = 0; seed < 12; ++seed) training.push_back(random_sample(12, seed, {true, true, true}));
    for (const auto& sample : training) uncertainty.update(sample.view(), sample.all(), 2);
    CHECK(uncertainty.count(0) == 48 && uncertainty.count(1) == 96);
    for (const auto& sample : training) {
        std::vector<double> u(12);
        uncertainty.atomic(sample.view(), sample.all(), u.data());
        for (double q : u) sum += q * q;
    }
    CHECK_NEAR(sum, 47.0 + 95.0, 1e-5);

    const Sample sample = random_sample(12, 77, {true, true, true});
    std::vector<double> u(12), unc(12), floor(12), weight(12, 1.0), weights(12);
    uncertainty.atomic(sample.view(), sample.all(), u.data());
    uncertainty.squared_mahalanobis(sample.view(), sample.all(), unc.data());
    double expected = 0;
    for (int i = 0; i < 12; ++i) {
        floor[i] = (i % 2 ? 0.5 : 2.0) * u[i] * u[i];
        weight[5] = 0;
        const int species = sample.numbers[i] == 17;
        const double d = uncertainty.metric(species)->effective_dimension();
        CHECK_NEAR(unc[i], d * u[i] * u[i], 1e-9 * unc[i]);
        if (i % 2 == 1 && i != 5) {
            expected += u[i] * u[i] - floor[i];
            weights[i] = 1 / d;
        }
    }
    std::vector<double> g1(36, 0.0), s1(9, 0.0), g2(36, 0.0), s2(9, 0.0), u_again(12);
    const double value = uncertainty.hinge(sample.view(), sample.all(), {floor.data(), weight.data()},
                                           {g1.data(), s1.data()}, u_again.data(), 3);
    uncertainty.gradient(sample.view(), sample.all(), weights.data(), {g2.data(), s2.data()});
    CHECK_NEAR(value, expected, 1e-9 * expected);
    double scale = 0;
    for (double q : g2) scale = std::max(scale, std::abs(q));
    for (int i = 0; i < 36; ++i) CHECK_NEAR(g1[i], g2[i], 1e-9 * scale);
    for (int i = 0; i < 12; ++i) CHECK_NEAR(u_again[i], u[i], 1e-9 * u[i]);

    rounded_corner(uncertainty, sample, u);

    const ideal::SoapMahalanobis copy(uncertainty);
    auto other = make();
    other.merge(copy);
    other.merge(make());
    std::vector<double> u_merged(12);
    other.atomic(sample.view(), sample.all(), u_merged.data());
    for (int i = 0; i < 12; ++i) CHECK_NEAR(u_merged[i], u[i], 1e-6 * u[i]);
}

void errors() {
    using ideal::ConfigError;
    using ideal::UncertaintyError;
    CHECK(!check::message_of<ConfigError>([] { make(0.0); }).empty());
    auto uncertainty = make();
    const Sample sample = random_sample(6, 1, {true, true, true});
    std::vector<double> u(6), weights(6, 1.0), floor(6, 0.0), gradient(18), strain(9);
    uncertainty.atomic(sample.view(), sample.all(), u.data());
    for (double q : u) CHECK(std::isinf(q));
    const auto message = check::message_of<UncertaintyError>(
        [&] { uncertainty.gradient(sample.view(), sample.all(), weights.data(), {gradient.data(), strain.data()}); });
    CHECK(message.find("infinite uncertainty") != std::string::npos);
    CHECK(!check::message_of<UncertaintyError>([&] {
               uncertainty.hinge(sample.view(), sample.all(), {floor.data(), weights.data()},
                                 {gradient.data(), strain.data()}, u.data());
           }).empty());
    CHECK(
        !check::message_of<UncertaintyError>([&] { uncertainty.set_distribution(0, ideal::Distribution(3)); }).empty());
    const std::ptrdiff_t outside = 6;
    CHECK(!check::message_of<UncertaintyError>([&] { uncertainty.update(sample.view(), {&outside, 1}); }).empty());
    CHECK(!check::message_of<UncertaintyError>([&] {
               uncertainty.atomic(sample.view(), {&outside, 1}, u.data());
           }).empty());
}

} // namespace

int main() {
    for (const auto& name : ideal::available_instruction_sets()) {
        ideal::select_instruction_set(name);
        for (std::size_t n : {1, 7, 16, 40, 131}) batches_and_merges_agree_with_the_definition(n);
        hinge_is_consistent();
    }
    errors();
    return check::result();
}
