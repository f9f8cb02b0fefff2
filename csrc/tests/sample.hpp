// Structures for the tests: owners of the arrays that ideal::Structure looks at.
#pragma once

#include "ideal/structure.hpp"

#include <array>
#include <random>
#include <vector>

struct Sample {
    std::vector<double> positions;
    std::vector<int> numbers;
    std::array<double, 9> cell{};
    std::array<bool, 3> periodic{};

    ideal::Structure view() const { return {numbers.size(), positions.data(), numbers.data(), cell, periodic}; }
    ideal::Centers all() const { return {nullptr, numbers.size()}; }
};

/// n atoms of two elements (11, 17) at random, no two closer than 1.2 Å, in a skewed cell; some lie outside of it.
inline Sample random_sample(int n, unsigned seed, std::array<bool, 3> periodic, double edge = 7.0) {
    std::mt19937 generator(seed);
    std::uniform_real_distribution<double> uniform(0, 1);
    Sample sample;
    sample.cell = {edge, 0.3, -0.2, 0.2 * edge, 0.9 * edge, 0.1, -0.1 * edge, 0.3 * edge, 1.1 * edge};
    sample.periodic = periodic;
    while (static_cast<int>(sample.numbers.size()) < n) {
        std::array<double, 3> f, p{};
        for (double& q : f) q = uniform(generator);
        for (int k = 0; k < 3; ++k)
            for (int d = 0; d < 3; ++d) p[d] += f[k] * sample.cell[3 * k + d];
        bool free = true; // of the nearest images of those already there
        for (std::size_t i = 0; free && i < sample.numbers.size(); ++i)
            for (int a = -1; a <= 1; ++a)
                for (int b = -1; b <= 1; ++b)
                    for (int c = -1; c <= 1; ++c) {
                        double square = 0;
                        for (int d = 0; d < 3; ++d) {
                            const double shift = a * sample.cell[d] + b * sample.cell[3 + d] + c * sample.cell[6 + d];
                            const double difference = p[d] + shift - sample.positions[3 * i + d];
                            square += difference * difference;
                        }
                        free = free && square > 1.2 * 1.2;
                    }
        if (!free) continue;
        sample.positions.insert(sample.positions.end(), p.begin(), p.end());
        sample.numbers.push_back(sample.numbers.size() % 3 == 0 ? 11 : 17);
    }
    for (std::size_t i = 0; i < sample.numbers.size(); i += 4) // out of the cell along a periodic axis
        for (int k = 0; k < 3; ++k)
            if (periodic[k])
                for (int d = 0; d < 3; ++d) sample.positions[3 * i + d] += 3 * sample.cell[3 * k + d];
    return sample;
}
