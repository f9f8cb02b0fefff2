// SoapPowerSpectrum without Python: rotation, variants of the kernels, threads, derivative, ghosts brought by the
// caller.
#include "check.hpp"
#include "sample.hpp"

#include "ideal/errors.hpp"
#include "ideal/instruction_set.hpp"
#include "ideal/neighbors.hpp"
#include "ideal/soap.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

ideal::SoapPowerSpectrum make_soap(int n_max, int l_max, bool taper = true) {
    ideal::SoapParameters parameters;
    parameters.numbers = {11, 17};
    parameters.r_cut = 4.0;
    parameters.n_max = n_max;
    parameters.l_max = l_max;
    parameters.taper = taper;
    return ideal::SoapPowerSpectrum(parameters);
}

std::vector<double> create(const ideal::SoapPowerSpectrum& soap, const Sample& sample, int threads = 1) {
    std::vector<double> features(sample.numbers.size() * soap.n_features());
    soap.create(sample.view(), sample.all(), features.data(), threads);
    return features;
}

double largest(const std::vector<double>& v) {
    double m = 0;
    for (double q : v) m = std::max(m, std::abs(q));
    return m;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
    CHECK(a.size() == b.size());
    double m = 0;
    for (std::size_t i = 0; i < a.size(); ++i) m = std::max(m, std::abs(a[i] - b[i]));
    return m;
}

void rotation_changes_nothing(const ideal::SoapPowerSpectrum& soap) {
    const Sample sample = random_sample(9, 5, {true, false, true});
    Sample rotated = sample;
    auto turn = [](double* v) { // about z, then about x
        const double x = std::cos(0.7) * v[0] - std::sin(0.7) * v[1], y = std::sin(0.7) * v[0] + std::cos(0.7) * v[1];
        v[0] = x;
        const double z = v[2];
        v[1] = std::cos(1.9) * y - std::sin(1.9) * z;
        v[2] = std::sin(1.9) * y + std::cos(1.9) * z;
    };
    for (std::size_t i = 0; i < rotated.numbers.size(); ++i) turn(rotated.positions.data() + 3 * i);
    for (int k = 0; k < 3; ++k) turn(rotated.cell.data() + 3 * k);
    const auto before = create(soap, sample);
    CHECK(largest_difference(create(soap, rotated), before) < 1e-10 * largest(before));
}

void derivative_is_that_of_the_values(const ideal::SoapPowerSpectrum& soap) {
    const Sample sample = random_sample(8, 11, {true, true, false});
    const std::size_t n = sample.numbers.size();
    std::vector<double> adjoint(n * soap.n_features());
    for (std::size_t i = 0; i < adjoint.size(); ++i) adjoint[i] = std::sin(0.37 * static_cast<double>(i));
    std::vector<double> gradient(3 * n, 0.0), strain(9, 0.0);
    soap.pull_back(sample.view(), sample.all(), adjoint.data(), {gradient.data(), strain.data()});
    auto value = [&](const Sample& s) {
        const auto features = create(soap, s);
        double sum = 0;
        for (std::size_t i = 0; i < features.size(); ++i) sum += features[i] * adjoint[i];
        return sum;
    };
    const double step = 1e-4;
    for (std::size_t i : {std::size_t(0), std::size_t(7), 3 * n - 1}) {
        Sample plus = sample, minus = sample;
        plus.positions[i] += step;
        minus.positions[i] -= step;
        CHECK_NEAR((value(plus) - value(minus)) / (2 * step), gradient[i], 1e-5 * largest(gradient));
    }
    auto strained = [&](double epsilon) { // r -> (1 + strain) r with strain_xz = strain_zx = epsilon
        Sample s = sample;
        auto deform = [&](double* v) {
            const double x = v[0], z = v[2];
            v[0] += epsilon * z;
            v[2] += epsilon * x;
        };
        for (std::size_t i = 0; i < n; ++i) deform(s.positions.data() + 3 * i);
        for (int k = 0; k < 3; ++k) deform(s.cell.data() + 3 * k);
        return s;
    };
    const double numeric = (value(strained(1e-5)) - value(strained(-1e-5))) / 2e-5;
    CHECK_NEAR(numeric, strain[2] + strain[6], 1e-5 * largest(strain));
    CHECK_NEAR(strain[2], strain[6], 0);
}

/// As LAMMPS would call it: local atoms and the images of others, open boundaries, local atoms as centers.
void ghosts_of_the_caller(const ideal::SoapPowerSpectrum& soap) {
    const Sample sample = random_sample(8, 2, {true, true, true});
    const std::size_t n = sample.numbers.size();
    const ideal::NeighborBins bins(sample.view(), std::vector<int>(n, 0), soap.support());
    Sample cluster;
    std::vector<std::size_t> owner;
    for (std::size_t i = 0; i < n; ++i) owner.push_back(i);
    for (int slot = 0; slot < bins.n_slots; ++slot)
        if (bins.slot_of_atom[bins.atom[slot]] != slot) owner.push_back(bins.atom[slot]);
    cluster.positions.resize(3 * owner.size());
    std::size_t ghost = n;
    for (int slot = 0; slot < bins.n_slots; ++slot) {
        const std::size_t atom = bins.atom[slot], at = bins.slot_of_atom[atom] == slot ? atom : ghost++;
        cluster.positions[3 * at] = bins.x[slot];
        cluster.positions[3 * at + 1] = bins.y[slot];
        cluster.positions[3 * at + 2] = bins.z[slot];
    }
    for (std::size_t i : owner) cluster.numbers.push_back(sample.numbers[i]);
    const auto expected = create(soap, sample);
    std::vector<double> features(n * soap.n_features());
    soap.create(cluster.view(), {nullptr, n}, features.data());
    CHECK(largest_difference(features, expected) < 1e-11 * largest(expected));

    std::vector<double> gradient(3 * n, 0.0), strain(9, 0.0), all(3 * owner.size(), 0.0), all_strain(9, 0.0),
        folded(3 * n, 0.0);
    soap.pull_back(sample.view(), sample.all(), expected.data(), {gradient.data(), strain.data()});
    soap.pull_back(cluster.view(), {nullptr, n}, expected.data(), {all.data(), all_strain.data()});
    for (std::size_t i = 0; i < owner.size(); ++i)
        for (int d = 0; d < 3; ++d) folded[3 * owner[i] + d] += all[3 * i + d];
    CHECK(largest_difference(folded, gradient) < 1e-10 * largest(gradient));
    CHECK(largest_difference(all_strain, strain) < 1e-10 * largest(strain));
}

void threads_change_nothing(const ideal::SoapPowerSpectrum& soap) {
    const Sample sample = random_sample(400, 4, {true, true, true}, 22.0);
    const auto one = create(soap, sample, 1), four = create(soap, sample, 4);
    CHECK(one == four);
    std::vector<double> results[2];
    for (int k = 0; k < 2; ++k) {
        std::vector<double> gradient(3 * sample.numbers.size(), 0.0), strain(9, 0.0);
        soap.pull_back(sample.view(), sample.all(), one.data(), {gradient.data(), strain.data()}, k == 0 ? 1 : 4);
        results[k] = gradient;
        results[k].insert(results[k].end(), strain.begin(), strain.end());
    }
    CHECK(results[0] == results[1]);
    Sample broken = sample;
    std::copy_n(broken.positions.begin(), 3, broken.positions.begin() + 3 * 399);
    const auto message = check::message_of<ideal::UncertaintyError>([&] { create(soap, broken, 4); });
    CHECK(message.find("coincide") != std::string::npos);
}

} // namespace

int main() {
    const auto variants = ideal::available_instruction_sets();
    const Sample sample = random_sample(10, 1, {true, true, true});
    const auto reference = create(make_soap(9, 7), sample);
    for (const auto& name : variants) {
        ideal::select_instruction_set(name);
        CHECK(ideal::instruction_set() == name);
        const auto features = create(make_soap(9, 7), sample);
        CHECK(largest_difference(features, reference) < 1e-12 * largest(reference));
        for (auto [n_max, l_max] : {std::pair(4, 3), std::pair(8, 6), std::pair(11, 12), std::pair(1, 0)}) {
            const auto soap = make_soap(n_max, l_max);
            rotation_changes_nothing(soap);
            derivative_is_that_of_the_values(soap);
        }
        ghosts_of_the_caller(make_soap(3, 5));
        threads_change_nothing(make_soap(2, 2));
    }

    using ideal::ConfigError;
    CHECK(check::message_of<ConfigError>([] { make_soap(0, 3); }).find("n_max = 0") == 0);
    CHECK(check::message_of<ConfigError>([] { make_soap(4, 13); }).find("l_max = 13") == 0);
    CHECK(check::message_of<ConfigError>([&] { create(make_soap(2, 1), sample, 0); }).find("threads = 0") == 0);
    CHECK(!check::message_of<ConfigError>([] { ideal::select_instruction_set("none"); }).empty());
    Sample foreign = sample;
    foreign.numbers[3] = 12;
    const auto message = check::message_of<ideal::UncertaintyError>([&] { create(make_soap(2, 1), foreign); });
    CHECK(message.find("atom 3 has atomic number 12") == 0);
    return check::result();
}
