// The metric alone: time to rebuild it, and µs per atom of u with each form.
//
//   benchmark_metric [instruction set] [n_max] [l_max]
//
// A two-species lattice of alumina's density. The least CPU time of several repetitions is printed.
#include "ideal/instruction_set.hpp"
#include "ideal/mahalanobis.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <vector>

namespace {

struct Lattice {
    std::vector<double> positions;
    std::vector<int> numbers;
    double edge;

    Lattice(int repeat, double amplitude, unsigned seed) : edge(2.57 * repeat) {
        std::mt19937 generator(seed);
        std::normal_distribution<double> displacement(0, amplitude);
        for (int i = 0; i < repeat; ++i)
            for (int j = 0; j < repeat; ++j)
                for (int k = 0; k < repeat; ++k)
                    for (double half : {0.0, 0.5}) {
                        for (int c : {i, j, k}) positions.push_back((c + half) * 2.57 + displacement(generator));
                        numbers.push_back(numbers.size() % 5 < 2 ? 13 : 8);
                    }
    }
    ideal::Structure view() const {
        return {
            numbers.size(), positions.data(), numbers.data(), {edge, 0, 0, 0, edge, 0, 0, 0, edge}, {true, true, true}};
    }
    ideal::Centers all() const { return {nullptr, numbers.size()}; }
};

template <class Call>
double seconds(Call&& call, int repetitions = 7) {
    double best = 1e9;
    for (int repetition = 0; repetition < repetitions; ++repetition) {
        const std::clock_t start = std::clock();
        call();
        best = std::min(best, double(std::clock() - start) / CLOCKS_PER_SEC);
    }
    return best;
}

} // namespace

int main(int argc, char** argv) {
    if (argc > 1) ideal::select_instruction_set(argv[1]);
    ideal::SoapParameters parameters;
    parameters.numbers = {8, 13};
    parameters.n_max = argc > 2 ? std::atoi(argv[2]) : 8;
    parameters.l_max = argc > 3 ? std::atoi(argv[3]) : 6;
    const ideal::SoapPowerSpectrum soap(parameters);
    const Lattice lattice(8, 0.12, 99);
    const std::size_t n = lattice.numbers.size();
    std::vector<double> features(n * soap.n_features()), u(n), full(n), weights(n, 1.0), gradient(3 * n), strain(9);
    const double create = seconds([&] { soap.create(lattice.view(), lattice.all(), features.data()); });
    std::printf("%s, %zu features: descriptor %.2f us/atom\n", ideal::instruction_set().c_str(), soap.n_features(),
                create / n * 1e6);
    using Kind = ideal::MetricParameters::Kind;
    for (Kind kind : {Kind::full, Kind::low_rank}) {
        ideal::MahalanobisParameters choice;
        choice.metric.kind = kind;
        ideal::SoapMahalanobis uncertainty(soap, choice);
        for (unsigned seed = 1; seed < 9; ++seed) {
            const Lattice training(6, 0.1, seed);
            uncertainty.update(training.view(), training.all());
        }
        const ideal::Distribution oxygen = uncertainty.distribution(0);
        const double rebuild = seconds([&] { ideal::MahalanobisMetric metric(oxygen, choice.metric); }, 3);
        uncertainty.atomic(lattice.view(), lattice.all(), u.data());
        const double atomic = seconds([&] { uncertainty.atomic(lattice.view(), lattice.all(), u.data()); });
        const double threshold = 1.5 * *std::max_element(u.begin(), u.end());
        uncertainty.screen(lattice.view(), lattice.all(), threshold, weights.data());
        const double screen =
            seconds([&] { uncertainty.screen(lattice.view(), lattice.all(), threshold, weights.data()); });
        double screened = 0;
        for (std::size_t i = 0; i < n; ++i) screened = std::max(screened, std::abs(weights[i] / u[i] - 1));
        std::fill(weights.begin(), weights.end(), 1.0);
        const double derivative = seconds([&] {
            uncertainty.gradient(lattice.view(), lattice.all(), weights.data(), {gradient.data(), strain.data()});
        });
        if (kind == Kind::full) full = u;
        double square = 0, largest = 0;
        for (std::size_t i = 0; i < n; ++i) {
            const double error = u[i] / full[i] - 1;
            square += error * error;
            largest = std::max(largest, std::abs(error));
        }
        const auto metric = uncertainty.metric(0);
        std::printf("%-8s rank %4zu  d_eff %5.1f  rebuild %7.1f ms  u %6.2f  screen %6.2f  gradient %6.2f us/atom  "
                    "bounds on Unc %.3f %.3f  error of u: rms %.1e, largest %.1e; "
                    "of a screened u: %.1e\n",
                    kind == Kind::full ? "full" : "low rank", metric->rank(), metric->effective_dimension(), rebuild * 1e3, atomic / n * 1e6,
                    screen / n * 1e6, derivative / n * 1e6, metric->lower(), metric->upper(),
                    std::sqrt(square / double(n)), largest, screened);
    }
}
