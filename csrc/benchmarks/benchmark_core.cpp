// Time per atom of descriptors, uncertainty and gradient on one thread, for profiling the kernels.
//
//   benchmark_core [instruction set] [n_max] [l_max]
//
// Systems: bcc lithium (one species, 63 neighbors) and a two-species lattice of alumina's density (159 neighbors). The
// least CPU time of several repetitions is printed, so that other programs on the machine disturb little.
#include "ideal/instruction_set.hpp"
#include "ideal/mahalanobis.hpp"

#include <algorithm>
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

    ideal::Structure view() const {
        return {
            numbers.size(), positions.data(), numbers.data(), {edge, 0, 0, 0, edge, 0, 0, 0, edge}, {true, true, true}};
    }
};

/// Body-centered cubic with Gaussian displacements; species alternate in the ratio 2 : 3 if there are two.
Lattice bcc(double a, int repeat, std::vector<int> species, double amplitude, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> displacement(0, amplitude);
    Lattice lattice;
    lattice.edge = a * repeat;
    for (int i = 0; i < repeat; ++i)
        for (int j = 0; j < repeat; ++j)
            for (int k = 0; k < repeat; ++k)
                for (double half : {0.0, 0.5}) {
                    for (int c : {i, j, k}) lattice.positions.push_back((c + half) * a + displacement(generator));
                    lattice.numbers.push_back(species[lattice.numbers.size() % 5 < 2 ? 0 : species.size() - 1]);
                }
    return lattice;
}

template <class Call>
double microseconds(std::size_t n_atoms, Call&& call) {
    double best = 1e9;
    for (int repetition = 0; repetition < 7; ++repetition) {
        const std::clock_t start = std::clock();
        call();
        best = std::min(best, double(std::clock() - start) / CLOCKS_PER_SEC);
    }
    return best / double(n_atoms) * 1e6;
}

void measure(const char* name, double a, std::vector<int> species, double amplitude, int n_max, int l_max) {
    ideal::SoapParameters parameters;
    parameters.numbers = species;
    std::sort(parameters.numbers.begin(), parameters.numbers.end());
    parameters.n_max = n_max;
    parameters.l_max = l_max;
    const ideal::SoapPowerSpectrum soap(parameters);
    ideal::SoapMahalanobis uncertainty(soap);
    for (unsigned seed = 1; seed < 9; ++seed) {
        const Lattice training = bcc(a, 5, species, amplitude, seed);
        uncertainty.update(training.view(), {nullptr, training.numbers.size()});
    }
    const Lattice lattice = bcc(a, 8, species, amplitude, 99);
    const std::size_t n = lattice.numbers.size();
    const ideal::Centers all{nullptr, n};
    std::vector<double> features(n * soap.n_features()), u(n), weights(n, 1.0), gradient(3 * n), strain(9);
    uncertainty.atomic(lattice.view(), all, u.data());
    const double create = microseconds(n, [&] { soap.create(lattice.view(), all, features.data()); });
    const double atomic = microseconds(n, [&] { uncertainty.atomic(lattice.view(), all, u.data()); });
    const double derivative = microseconds(
        n, [&] { uncertainty.gradient(lattice.view(), all, weights.data(), {gradient.data(), strain.data()}); });
    std::printf("%-8s n_max %d l_max %d %-8s  descriptor %6.2f  u %6.2f  gradient %6.2f us/atom\n", name, n_max, l_max,
                ideal::instruction_set().c_str(), create, atomic, derivative);
}

} // namespace

int main(int argc, char** argv) {
    if (argc > 1) ideal::select_instruction_set(argv[1]);
    const int n_max = argc > 2 ? std::atoi(argv[2]) : 8, l_max = argc > 3 ? std::atoi(argv[3]) : 6;
    measure("lithium", 3.51, {3}, 0.15, n_max, l_max);
    measure("alumina", 2.57, {13, 8}, 0.1, n_max, l_max);
}
