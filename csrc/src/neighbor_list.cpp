#include "ideal/neighbor_list.hpp"

#include "ideal/neighbors.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace ideal {

namespace {

std::array<double, 9> inverse(const std::array<double, 9>& m) {
    std::array<double, 9> cofactor;
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) {
            const int a = (j + 1) % 3, b = (j + 2) % 3, c = (i + 1) % 3, d = (i + 2) % 3;
            cofactor[3 * i + j] = m[3 * a + c] * m[3 * b + d] - m[3 * a + d] * m[3 * b + c];
        }
    const double volume = m[0] * cofactor[0] + m[1] * cofactor[3] + m[2] * cofactor[6];
    for (double& value : cofactor) value /= volume;
    return cofactor;
}

struct Pair {
    std::int32_t target;
    std::array<std::int32_t, 3> image;
    bool operator<(const Pair& other) const {
        return target != other.target ? target < other.target : image < other.image;
    }
};

} // namespace

PairList list_pairs(const Structure& structure, double cutoff) {
    const NeighborBins bins(structure, std::vector<int>(structure.n_atoms, 0), cutoff);
    const auto to_fractions = inverse(structure.cell);
    const double* r = structure.positions;
    PairList list;
    list.first.reserve(structure.n_atoms + 1);
    list.first.push_back(0);
    std::vector<SlotRange> ranges;
    std::vector<Pair> pairs;
    for (std::size_t i = 0; i < structure.n_atoms; ++i) {
        const int own = bins.slot_of_atom[i];
        pairs.clear();
        bins.candidate_ranges(own, ranges);
        for (const SlotRange& range : ranges)
            for (int slot = range.begin; slot < range.end; ++slot) {
                const double d[3] = {bins.x[slot] - bins.x[own], bins.y[slot] - bins.y[own], bins.z[slot] - bins.z[own]};
                if (slot == own || d[0] * d[0] + d[1] * d[1] + d[2] * d[2] > cutoff * cutoff) continue;
                const std::size_t j = bins.atom[slot];
                Pair pair{static_cast<std::int32_t>(j), {}};
                double shift[3];
                for (int k = 0; k < 3; ++k) shift[k] = d[k] - (r[3 * j + k] - r[3 * i + k]);
                for (int k = 0; k < 3; ++k)
                    pair.image[k] = static_cast<std::int32_t>(std::lround(
                        shift[0] * to_fractions[k] + shift[1] * to_fractions[3 + k] + shift[2] * to_fractions[6 + k]));
                pairs.push_back(pair);
            }
        std::sort(pairs.begin(), pairs.end());
        for (const Pair& pair : pairs) {
            list.target.push_back(pair.target);
            list.images.insert(list.images.end(), pair.image.begin(), pair.image.end());
        }
        list.first.push_back(static_cast<std::int64_t>(list.target.size()));
    }
    return list;
}

EdgeList edges_within(const Structure& structure, double cutoff, const std::int64_t* first, const std::int32_t* target,
                      const std::int32_t* images) {
    const double* r = structure.positions;
    const auto& cell = structure.cell;
    EdgeList edges;
    edges.count.assign(structure.n_atoms, 0);
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < structure.n_atoms; ++i) {
        for (std::int64_t pair = first[i]; pair < first[i + 1]; ++pair) {
            const std::size_t j = target[pair];
            const std::int32_t* n = images + 3 * pair;
            double d[3];
            for (int k = 0; k < 3; ++k)
                d[k] = r[3 * j + k] - r[3 * i + k] + (n[0] * cell[k] + n[1] * cell[3 + k] + n[2] * cell[6 + k]);
            const double square = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
            if (square > cutoff * cutoff) continue;
            if (square < least) {
                least = square;
                edges.shortest = static_cast<std::int64_t>(edges.target.size());
                edges.shortest_source = static_cast<std::int64_t>(i);
            }
            edges.target.push_back(target[pair]);
            edges.vectors.insert(edges.vectors.end(), d, d + 3);
            ++edges.count[i];
        }
    }
    edges.shortest_length = edges.shortest < 0 ? 0 : std::sqrt(least);
    return edges;
}

} // namespace ideal
