// NeighborBins and the neighbor list against all pairs, for every combination of periodic axes and for cells smaller than the cutoff.
#include "check.hpp"
#include "sample.hpp"

#include "ideal/errors.hpp"
#include "ideal/neighbor_list.hpp"
#include "ideal/neighbors.hpp"

#include <cmath>
#include <limits>

namespace {

/// Neighbors of an atom (its own images included, itself not): how many, and the sum of their distances.
struct Neighborhood {
    int count = 0;
    double sum = 0;
};

Neighborhood brute_force(const Sample& s, std::size_t center, double cutoff) {
    Neighborhood found;
    const int images = 12;
    for (std::size_t j = 0; j < s.numbers.size(); ++j)
        for (int a = -images; a <= images; ++a)
            for (int b = -images; b <= images; ++b)
                for (int c = -images; c <= images; ++c) {
                    if ((a && !s.periodic[0]) || (b && !s.periodic[1]) || (c && !s.periodic[2])) continue;
                    if (j == center && a == 0 && b == 0 && c == 0) continue;
                    double square = 0;
                    for (int d = 0; d < 3; ++d) {
                        const double shift = a * s.cell[d] + b * s.cell[3 + d] + c * s.cell[6 + d];
                        const double q = s.positions[3 * j + d] + shift - s.positions[3 * center + d];
                        square += q * q;
                    }
                    if (square > cutoff * cutoff) continue;
                    ++found.count;
                    found.sum += std::sqrt(square);
                }
    return found;
}

Neighborhood through_bins(const ideal::NeighborBins& bins, std::size_t center) {
    Neighborhood found;
    std::vector<ideal::SlotRange> ranges;
    const int slot = bins.slot_of_atom[center];
    int listed = 0;
    const int candidates = bins.candidate_ranges(slot, ranges);
    for (const auto& range : ranges)
        for (int i = range.begin; i < range.end; ++i) {
            ++listed;
            const double r = std::hypot(bins.x[i] - bins.x[slot], bins.y[i] - bins.y[slot], bins.z[i] - bins.z[slot]);
            if (i == slot || r > bins.cutoff) continue;
            ++found.count;
            found.sum += r;
        }
    CHECK(listed == candidates);
    return found;
}

/// The same from a list made with a skin, after the atoms have moved.
Neighborhood through_list(const ideal::EdgeList& edges, std::size_t center) {
    std::size_t begin = 0;
    for (std::size_t i = 0; i < center; ++i) begin += edges.count[i];
    Neighborhood found;
    for (std::size_t e = begin; e < begin + edges.count[center]; ++e) {
        const double* d = edges.vectors.data() + 3 * e;
        ++found.count;
        found.sum += std::hypot(d[0], d[1], d[2]);
    }
    return found;
}

ideal::EdgeList edges_of(const Sample& sample, const ideal::PairList& pairs, double cutoff) {
    return ideal::edges_within(sample.view(), cutoff, pairs.first.data(), pairs.target.data(), pairs.images.data());
}

} // namespace

int main() {
    for (int mask = 0; mask < 8; ++mask)
        for (double edge : {2.2, 7.0}) {
            Sample sample =
                random_sample(edge < 3 ? 2 : 12, 7 + mask, {(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0}, edge);
            const double cutoff = 5.3;
            const std::vector<int> species(sample.numbers.size(), 0);
            const ideal::NeighborBins bins(sample.view(), species, cutoff);
            for (std::size_t i = 0; i < sample.numbers.size(); ++i) {
                const Neighborhood expected = brute_force(sample, i, cutoff), found = through_bins(bins, i);
                CHECK(expected.count == found.count);
                CHECK_NEAR(expected.sum, found.sum, 1e-9 * (1 + expected.sum));
            }

            const ideal::PairList before = ideal::list_pairs(sample.view(), cutoff + 0.6);
            for (std::size_t k = 0; k < sample.positions.size(); ++k) sample.positions[k] += 0.15 * ((k * 7) % 3 - 1.0);
            const ideal::EdgeList reused = edges_of(sample, before, cutoff);
            const ideal::EdgeList fresh = edges_of(sample, ideal::list_pairs(sample.view(), cutoff + 1e-6), cutoff);
            CHECK(reused.vectors == fresh.vectors && reused.target == fresh.target && reused.count == fresh.count);
            for (std::size_t i = 0; i < sample.numbers.size(); ++i) {
                const Neighborhood expected = brute_force(sample, i, cutoff), found = through_list(reused, i);
                CHECK(expected.count == found.count);
                CHECK_NEAR(expected.sum, found.sum, 1e-9 * (1 + expected.sum));
            }
        }

    // Everything at one point of an open axis, and an empty structure.
    Sample plane = random_sample(10, 3, {true, true, false});
    for (std::size_t i = 0; i < 10; ++i) plane.positions[3 * i + 2] = 0.25;
    CHECK(ideal::NeighborBins(plane.view(), std::vector<int>(10, 0), 4.0).n_slots >= 10);
    CHECK(ideal::NeighborBins(Sample{}.view(), {}, 4.0).n_slots == 0);

    using ideal::UncertaintyError;
    auto bin = [](const Sample& s) { ideal::NeighborBins(s.view(), std::vector<int>(s.numbers.size(), 0), 4.0); };
    Sample broken = random_sample(4, 1, {true, true, true});
    broken.positions[7] = std::numeric_limits<double>::quiet_NaN();
    CHECK(check::message_of<UncertaintyError>([&] { bin(broken); }).find("atom 2") == 0);
    broken = random_sample(4, 1, {true, true, true});
    for (int d = 0; d < 3; ++d) broken.cell[d] = broken.cell[3 + d];
    CHECK(check::message_of<UncertaintyError>([&] { bin(broken); }).find("degenerate") != std::string::npos);
    return check::result();
}
