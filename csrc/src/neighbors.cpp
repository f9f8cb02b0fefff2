#include "ideal/neighbors.hpp"

#include "ideal/errors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

namespace ideal {
namespace {

/// Farther away, neighbors' positions differ by too few digits (1e-7 Å) to be worth an answer, Å.
constexpr double farthest_position = 1e9;

using Vector3 = std::array<double, 3>;

Vector3 cross(const Vector3& a, const Vector3& b) {
    return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}
double dot(const Vector3& a, const Vector3& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }
double norm(const Vector3& a) { return std::sqrt(dot(a, a)); }
Vector3 scaled(const Vector3& a, double s) { return {a[0] * s, a[1] * s, a[2] * s}; }

[[noreturn]] void refuse_cell(const Structure& structure) {
    std::ostringstream message;
    message << "the cell";
    for (int k = 0; k < 3; ++k) {
        message << (k ? ", (" : " (") << structure.cell[3 * k] << ' ' << structure.cell[3 * k + 1] << ' '
                << structure.cell[3 * k + 2] << ')';
    }
    message << " with periodic axes (" << structure.periodic[0] << ' ' << structure.periodic[1] << ' '
            << structure.periodic[2]
            << ") is degenerate; the vectors of periodic axes must be finite and linearly independent";
    throw UncertaintyError(message.str());
}

/// Cell vectors in which open axes are unit vectors perpendicular to the rest: what stands there in the input does not
/// matter.
std::array<Vector3, 3> completed_cell(const Structure& structure) {
    std::array<Vector3, 3> cell;
    int n_periodic = 0;
    for (int k = 0; k < 3; ++k) {
        cell[k] = {structure.cell[3 * k], structure.cell[3 * k + 1], structure.cell[3 * k + 2]};
        n_periodic += structure.periodic[k];
        const double length = norm(cell[k]);
        if (structure.periodic[k] && !(std::isfinite(length) && length > 0)) refuse_cell(structure);
    }
    if (n_periodic == 0) return {Vector3{1, 0, 0}, Vector3{0, 1, 0}, Vector3{0, 0, 1}};
    for (int k = 0; k < 3; ++k) {
        const int i = (k + 1) % 3, j = (k + 2) % 3;
        if (n_periodic == 1 && structure.periodic[k]) {
            Vector3 axis{0, 0, 0}; // the Cartesian axis least parallel to the periodic one
            axis[std::min_element(cell[k].begin(), cell[k].end(),
                                  [](double a, double b) { return std::abs(a) < std::abs(b); }) -
                 cell[k].begin()] = 1;
            cell[i] = cross(cell[k], axis);
            cell[i] = scaled(cell[i], 1 / norm(cell[i]));
            cell[j] = cross(cell[k], cell[i]);
            cell[j] = scaled(cell[j], 1 / norm(cell[j]));
        } else if (n_periodic == 2 && !structure.periodic[k]) {
            cell[k] = cross(cell[i], cell[j]);
            const double area = norm(cell[k]);
            if (!(area > 1e-10 * norm(cell[i]) * norm(cell[j]))) refuse_cell(structure);
            cell[k] = scaled(cell[k], 1 / area);
        }
    }
    if (!(std::abs(dot(cell[0], cross(cell[1], cell[2]))) > 1e-10 * norm(cell[0]) * norm(cell[1]) * norm(cell[2])))
        refuse_cell(structure);
    return cell;
}

/// Atoms that some center may see: those in the cells, at least a cutoff wide, around the centers' own. `fraction` is
/// (n, 3) coordinates along the cell vectors, wrapped to [0, 1) along periodic axes; `margin` is the cutoff in them.
std::vector<char> near_centers(const Structure& structure, Centers centers, const std::vector<double>& fraction,
                               const std::array<double, 3>& margin) {
    const std::size_t n = structure.n_atoms;
    std::array<double, 3> low{0, 0, 0}, scale{};
    std::array<int, 3> size{};
    for (int k = 0; k < 3; ++k) {
        double length = 1;
        if (!structure.periodic[k]) {
            double high = low[k] = fraction[k];
            for (std::size_t i = 0; i < n; ++i) {
                low[k] = std::min(low[k], fraction[3 * i + k]);
                high = std::max(high, fraction[3 * i + k]);
            }
            length = high - low[k];
        }
        size[k] = std::max(1, static_cast<int>(std::min(128.0, std::floor(length / margin[k]))));
        scale[k] = length > 0 ? size[k] / length : 0;
    }
    auto cell_of = [&](std::size_t i, int k) {
        return std::clamp(static_cast<int>((fraction[3 * i + k] - low[k]) * scale[k]), 0, size[k] - 1);
    };
    std::vector<char> marked(static_cast<std::size_t>(size[0]) * size[1] * size[2], 0);
    for (std::size_t c = 0; c < centers.size; ++c) {
        std::array<std::array<int, 3>, 3> around{};
        for (int k = 0; k < 3; ++k)
            for (int shift = -1; shift <= 1; ++shift) {
                const int q = cell_of(static_cast<std::size_t>(centers[c]), k) + shift;
                around[k][shift + 1] =
                    structure.periodic[k] ? (q + size[k]) % size[k] : std::clamp(q, 0, size[k] - 1);
            }
        for (int i : around[0])
            for (int j : around[1])
                for (int k : around[2]) marked[(static_cast<std::size_t>(i) * size[1] + j) * size[2] + k] = 1;
    }
    std::vector<char> near(n);
    for (std::size_t i = 0; i < n; ++i)
        near[i] = marked[(static_cast<std::size_t>(cell_of(i, 0)) * size[1] + cell_of(i, 1)) * size[2] + cell_of(i, 2)];
    return near;
}

} // namespace

NeighborBins::NeighborBins(const Structure& structure, const std::vector<int>& species_of_atom, double cutoff_)
    : NeighborBins(structure, species_of_atom, cutoff_, {nullptr, structure.n_atoms}) {}

NeighborBins::NeighborBins(const Structure& structure, const std::vector<int>& species_of_atom, double cutoff_,
                           Centers centers)
    : cutoff(cutoff_) {
    const std::size_t n = structure.n_atoms;
    bool fine = true;
    for (std::size_t i = 0; i < 3 * n; ++i) fine &= std::abs(structure.positions[i]) <= farthest_position; // NaN: false
    for (std::size_t i = 0; i < 3 * n && !fine; ++i) {
        if (std::abs(structure.positions[i]) <= farthest_position) continue;
        std::ostringstream message;
        message << "atom " << i / 3 << " has the position (" << structure.positions[i / 3 * 3] << ' '
                << structure.positions[i / 3 * 3 + 1] << ' ' << structure.positions[i / 3 * 3 + 2] << "), which is not "
                << (std::isfinite(structure.positions[i]) ? "within 1e9 Å of the origin: too few digits are left"
                                                          : "finite")
                << "; did the dynamics explode?";
        throw UncertaintyError(message.str());
    }
    const auto cell = completed_cell(structure);
    const double volume = dot(cell[0], cross(cell[1], cell[2]));
    std::array<Vector3, 3> reciprocal;
    std::array<double, 3> margin{}; // the cutoff in fractional coordinates
    std::array<int, 3> images{};
    double n_images = 1;
    for (int k = 0; k < 3; ++k) {
        reciprocal[k] = scaled(cross(cell[(k + 1) % 3], cell[(k + 2) % 3]), 1 / volume);
        margin[k] = cutoff * norm(reciprocal[k]);
        if (!structure.periodic[k]) continue;
        n_images *= 2 * margin[k] + 1;
        images[k] = static_cast<int>(std::min(std::ceil(margin[k]), 1e6));
    }
    if (n_images * static_cast<double>(n) > 1e9) refuse_cell(structure);

    // Atoms wrapped along periodic axes, then their images within the cutoff of the cell.
    std::vector<double> position(3 * n);
    std::vector<double> fraction(3 * n);
    for (std::size_t i = 0; i < n; ++i) {
        const Vector3 original{structure.positions[3 * i], structure.positions[3 * i + 1],
                               structure.positions[3 * i + 2]};
        Vector3 p = original;
        for (int k = 0; k < 3; ++k) {
            const double f = dot(original, reciprocal[k]), whole = structure.periodic[k] ? std::floor(f) : 0;
            fraction[3 * i + k] = f - whole;
            for (int d = 0; d < 3; ++d) p[d] -= whole * cell[k][d];
        }
        std::copy(p.begin(), p.end(), position.begin() + 3 * i);
    }
    const bool few = centers.atoms != nullptr && n > 1000 && centers.size * 8 < n;
    const std::vector<char> near = few ? near_centers(structure, centers, fraction, margin) : std::vector<char>();
    std::vector<int> owner;
    owner.reserve(few ? 0 : n);
    std::size_t kept = 0; // atoms themselves come before their images
    for (std::size_t i = 0; i < n; ++i) {
        if (few && !near[i]) continue;
        std::copy_n(position.begin() + 3 * i, 3, position.begin() + 3 * kept++);
        owner.push_back(static_cast<int>(i));
    }
    position.resize(3 * kept);
    auto visible = [&](std::size_t i, int k, int shift) {
        const double f = fraction[3 * i + k] + shift;
        return !structure.periodic[k] || (f >= -margin[k] - 1e-9 && f <= 1 + margin[k] + 1e-9);
    };
    for (std::size_t at = 0; at < kept; ++at) {
        const std::size_t i = static_cast<std::size_t>(owner[at]);
        const Vector3 own{position[3 * at], position[3 * at + 1], position[3 * at + 2]};
        for (int a = -images[0]; a <= images[0]; ++a) {
            if (!visible(i, 0, a)) continue;
            for (int b = -images[1]; b <= images[1]; ++b) {
                if (!visible(i, 1, b)) continue;
                for (int c = -images[2]; c <= images[2]; ++c) {
                    if ((a == 0 && b == 0 && c == 0) || !visible(i, 2, c)) continue;
                    for (int d = 0; d < 3; ++d)
                        position.push_back(own[d] + a * cell[0][d] + b * cell[1][d] + c * cell[2][d]);
                    owner.push_back(static_cast<int>(i));
                }
            }
        }
    }
    std::vector<double>().swap(fraction);
    n_slots = static_cast<int>(owner.size());

    // Bins over the bounding box, thin along the last axis, where they are read in runs; coarser ones where the box is
    // mostly empty.
    Vector3 low{0, 0, 0}, high{0, 0, 0};
    for (int s = 0; s < n_slots; ++s)
        for (int d = 0; d < 3; ++d) {
            const double q = position[3 * static_cast<std::size_t>(s) + d];
            low[d] = s ? std::min(low[d], q) : q;
            high[d] = s ? std::max(high[d], q) : q;
        }
    origin = low;
    const double thick = 0.5 * cutoff * (1 + 1e-12);
    width = {thick, thick, 0.25 * thick};
    for (;;) {
        double total = 1;
        for (int d = 0; d < 3; ++d) total *= std::floor((high[d] - low[d]) / width[d]) + 1;
        if (total <= 1024.0 + 4.0 * n_slots) break;
        for (double& w : width) w *= 1.5;
    }
    std::size_t total = 1;
    for (int d = 0; d < 3; ++d) {
        reach[d] = static_cast<int>(std::ceil(cutoff / width[d]));
        n_bins[d] = static_cast<int>((high[d] - low[d]) / width[d]) + 1;
        total *= static_cast<std::size_t>(n_bins[d]);
    }
    const Vector3 per_length{1 / width[0], 1 / width[1], 1 / width[2]};
    std::vector<int> bin(n_slots);
    first.assign(total + 1, 0);
    for (int s = 0; s < n_slots; ++s) {
        int index = 0;
        for (int d = 0; d < 3; ++d) {
            const double q = (position[3 * static_cast<std::size_t>(s) + d] - low[d]) * per_length[d];
            index = index * n_bins[d] + std::min(n_bins[d] - 1, static_cast<int>(q));
        }
        bin[s] = index;
        ++first[index + 1];
    }
    for (std::size_t b = 0; b < total; ++b) first[b + 1] += first[b];
    std::vector<int> next(first.begin(), first.end() - 1);
    const double far = std::numeric_limits<double>::infinity();
    for (auto* axis : {&x, &y, &z}) axis->assign(static_cast<std::size_t>(n_slots) + padding, far);
    atom.resize(n_slots);
    species.assign(static_cast<std::size_t>(n_slots) + padding, 0);
    slot_of_atom.assign(n, -1);
    for (int s = 0; s < n_slots; ++s) {
        const int slot = next[bin[s]]++;
        x[slot] = position[3 * static_cast<std::size_t>(s)];
        y[slot] = position[3 * static_cast<std::size_t>(s) + 1];
        z[slot] = position[3 * static_cast<std::size_t>(s) + 2];
        atom[slot] = owner[s];
        species[slot] = species_of_atom[owner[s]];
        if (static_cast<std::size_t>(s) < kept) slot_of_atom[owner[s]] = slot;
    }
}

int NeighborBins::candidate_ranges(int slot, std::vector<SlotRange>& ranges) const {
    ranges.clear();
    const Vector3 p{x[slot], y[slot], z[slot]};
    // Squared distance from the center to the bins of one axis around its own. The last bin of an axis may hold atoms
    // beyond its edge by rounding only.
    constexpr int most = 5; // bins are at least half a cutoff wide along the first two axes
    std::array<int, 2> begin, count;
    double gap[2][most];
    for (int d = 0; d < 2; ++d) {
        const int own = std::min(n_bins[d] - 1, static_cast<int>((p[d] - origin[d]) / width[d]));
        begin[d] = std::max(0, own - reach[d]);
        count[d] = std::min(n_bins[d] - 1, own + reach[d]) - begin[d] + 1;
        for (int i = 0; i < count[d]; ++i) {
            const double lower = origin[d] + (begin[d] + i) * width[d] - p[d];
            const double g = std::max(0.0, std::max(lower, -lower - width[d]) - 1e-9 * width[d]);
            gap[d][i] = g * g;
        }
    }
    const double limit = cutoff * cutoff, per_length = 1 / width[2];
    const double center = (p[2] - origin[2]) * per_length, last = n_bins[2] - 1;
    int n_candidates = 0;
    for (int i = 0; i < count[0]; ++i)
        for (int j = 0; j < count[1]; ++j) {
            const double rest = limit - gap[0][i] - gap[1][j];
            if (rest < 0) continue;
            const double half = std::sqrt(rest) * per_length + 1e-9;
            const int k0 = static_cast<int>(std::max(0.0, center - half));
            const int k1 = static_cast<int>(std::min(last, center + half));
            const std::size_t row = (static_cast<std::size_t>(begin[0] + i) * n_bins[1] + begin[1] + j) * n_bins[2];
            const SlotRange range{first[row + k0], first[row + k1 + 1]};
            if (range.begin == range.end) continue;
            ranges.push_back(range);
            n_candidates += range.end - range.begin;
        }
    return n_candidates;
}

} // namespace ideal
