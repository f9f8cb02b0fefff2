#include "pipeline.hpp"

#include "ideal/errors.hpp"
#include "ideal/neighbors.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <numeric>
#include <sstream>

namespace ideal::detail {
namespace {

/// Below this distance two atoms count as coincident, Å.
constexpr double least_distance = 1e-8;

/// The gradient contributions of one chunk, in a fixed order.
struct Contribution {
    std::vector<int> atom;
    std::vector<double> x, y, z;
    std::array<double, 9> strain{};

    void clear() {
        atom.clear();
        for (auto* v : {&x, &y, &z}) v->clear();
        strain.fill(0.0);
    }
};

/// Adds contributions to the gradient in the order of their chunks, whichever thread finishes first.
class OrderedSum {
public:
    OrderedSum(Gradient gradient) : gradient_(gradient) {}

    /// Takes the contribution away only if its turn has not come; otherwise the caller can use its memory again.
    void add(std::size_t chunk, Contribution& contribution) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (chunk != next_) {
            waiting_.emplace(chunk, std::move(contribution));
            return;
        }
        apply(contribution);
        for (auto it = waiting_.begin(); it != waiting_.end() && it->first == next_; it = waiting_.erase(it))
            apply(it->second);
    }

private:
    void apply(const Contribution& c) {
        ++next_;
        for (std::size_t i = 0; i < c.atom.size(); ++i) {
            double* g = gradient_.positions + 3 * static_cast<std::size_t>(c.atom[i]);
            g[0] += c.x[i];
            g[1] += c.y[i];
            g[2] += c.z[i];
        }
        for (int k = 0; k < 9; ++k) gradient_.strain[k] += c.strain[k];
    }

    Gradient gradient_;
    std::mutex mutex_;
    std::size_t next_ = 0;
    std::map<std::size_t, Contribution> waiting_;
};

/// A center's neighbors within the chunk's arrays.
struct NeighborSpan {
    std::size_t begin;
    int count;
};

/// What one thread needs; grows, never shrinks.
struct Workspace {
    std::vector<SlotRange> ranges;
    std::vector<int> hits;
    std::vector<double> distances;
    // Neighbors of all centers of the chunk, one after another, sorted by species.
    std::vector<double> x, y, z, r, inverse_r;
    std::vector<int> atom;
    std::vector<NeighborSpan> spans;
    std::vector<int> first; // (chunk_size, n_species + 1)
    std::vector<int> fill;
    AlignedVector<double> c, c_adjoint, features, adjoint, head_scratch;
    std::vector<int> active;
    std::vector<double> gx, gy, gz;
    Contribution contribution;

    void reserve_neighbors(std::size_t size) {
        if (size <= x.size()) return;
        size += size / 2;
        for (auto* v : {&x, &y, &z, &r, &inverse_r}) v->resize(size);
        atom.resize(size);
    }
};

class Pipeline {
public:
    Pipeline(const SoapBasis& basis, const Structure& structure, const Head& head, Gradient gradient)
        : basis_(basis),
          head_(head),
          kernels_(kernels()),
          basis_kernels_(*kernels_.basis_kernels(basis.view.n_padded)),
          stride_(feature_stride(basis)),
          species_(basis.species_of(structure)),
          bins_(structure, species_, basis.support),
          wants_gradient_(gradient.positions != nullptr),
          sum_(gradient) {}

    void run(Centers centers, int threads) {
        sort_centers(centers);
        // The calling thread keeps its workspace: small structures are evaluated thousands of times in a row.
        static thread_local Workspace own;
        Workspace& first = own;
        std::vector<Workspace> others(threads > 1 ? threads - 1 : 0);
        parallel_for(chunks_.size(), threads, [&](std::size_t thread, std::size_t chunk) {
            evaluate(chunk, thread == 0 ? first : others[thread - 1]);
        });
    }

private:
    /// Chunks hold one species each, and neighbors in space share a chunk (and the cache).
    void sort_centers(Centers centers) {
        order_.resize(centers.size);
        std::iota(order_.begin(), order_.end(), std::size_t(0));
        auto key = [&](std::size_t k) { return std::pair(species_[centers[k]], bins_.slot_of_atom[centers[k]]); };
        std::sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
        atoms_.resize(centers.size);
        for (std::size_t k = 0; k < centers.size; ++k) atoms_[k] = centers[order_[k]];
        for (std::size_t begin = 0; begin < centers.size;) {
            std::size_t end = begin;
            while (end < centers.size && end - begin < chunk_size && species_[atoms_[end]] == species_[atoms_[begin]])
                ++end;
            chunks_.push_back({species_[atoms_[begin]], static_cast<int>(end - begin), &order_[begin], &atoms_[begin]});
            begin = end;
        }
    }

    void evaluate(std::size_t index, Workspace& w) {
        const Chunk& chunk = chunks_[index];
        const int n_species = basis_.view.n_species;
        const std::size_t c_size = basis_.coefficients_size();
        w.c.resize(c_size * chunk_size + overrun);
        w.features.resize(stride_ * chunk_size + overrun);
        w.first.resize(static_cast<std::size_t>(n_species + 1) * chunk_size);
        w.spans.resize(chunk_size);
        w.active.resize(chunk_size);
        if (wants_gradient_) w.adjoint.resize(stride_ * chunk_size + overrun);
        std::size_t used = 0;
        for (int b = 0; b < chunk.size; ++b) {
            used += find_neighbors(chunk.atoms[b], b, used, w);
            double* c = w.c.data() + b * c_size;
            std::fill_n(c, c_size, 0.0);
            double* own = c + static_cast<std::size_t>(chunk.species) * basis_.view.n_harmonics * basis_.view.n_padded;
            for (int n = 0; n < basis_.view.n_max; ++n) own[n] = basis_.self[n];
            basis_kernels_.expand(basis_.view, neighbors(w, b), c);
            basis_kernels_.power_spectrum(basis_.view, c, w.features.data() + b * stride_);
        }
        const int n_active =
            head_.process(chunk, w.features.data(), stride_, w.active.data(), w.adjoint.data(), w.head_scratch);
        if (!wants_gradient_) return;
        w.contribution.clear();
        for (int k = 0; k < n_active; ++k) pull_back(chunk, w.active[k], w.adjoint.data() + k * stride_, w);
        sum_.add(index, w.contribution);
    }

    NeighborView neighbors(const Workspace& w, int b) const {
        const std::size_t at = w.spans[b].begin;
        return {w.spans[b].count,       w.first.data() + static_cast<std::size_t>(b) * (basis_.view.n_species + 1),
                w.x.data() + at,        w.y.data() + at,
                w.z.data() + at,        w.r.data() + at,
                w.inverse_r.data() + at};
    }

    /// Neighbors of an atom, sorted by species, into the workspace from `begin` on. Returns the room they take.
    std::size_t find_neighbors(std::ptrdiff_t center, int b, std::size_t begin, Workspace& w) const {
        const int slot = bins_.slot_of_atom[center];
        const int n_candidates = bins_.candidate_ranges(slot, w.ranges);
        const std::size_t room = static_cast<std::size_t>(n_candidates) + overrun;
        if (w.hits.size() < room) w.hits.resize(room + room / 2);
        if (w.distances.size() < room) w.distances.resize(room + room / 2);
        const double cx = bins_.x[slot], cy = bins_.y[slot], cz = bins_.z[slot];
        int count = 0;
        for (const SlotRange& range : w.ranges)
            count += kernels_.select(bins_.x.data(), bins_.y.data(), bins_.z.data(), range.begin, range.end, cx, cy, cz,
                                     bins_.cutoff * bins_.cutoff, w.hits.data() + count, w.distances.data());
        const int* hits = w.hits.data();
        w.reserve_neighbors(begin + count + overrun);

        const int n_species = basis_.view.n_species;
        int* first = w.first.data() + static_cast<std::size_t>(b) * (n_species + 1);
        std::fill_n(first, n_species + 1, 0);
        for (int h = 0; h < count; ++h)
            if (hits[h] != slot) ++first[bins_.species[hits[h]] + 1];
        for (int s = 0; s < n_species; ++s) first[s + 1] += first[s];
        w.fill.assign(first, first + n_species);
        double nearest = std::numeric_limits<double>::infinity();
        for (int h = 0; h < count; ++h) {
            const int i = hits[h];
            if (i == slot) continue;
            const std::size_t at = begin + static_cast<std::size_t>(w.fill[bins_.species[i]]++);
            const double dx = bins_.x[i] - cx, dy = bins_.y[i] - cy, dz = bins_.z[i] - cz;
            w.x[at] = dx;
            w.y[at] = dy;
            w.z[at] = dz;
            w.atom[at] = bins_.atom[i];
            nearest = std::min(nearest, dx * dx + dy * dy + dz * dz);
        }
        if (nearest < least_distance * least_distance) refuse_coincidence(center, hits, count);
        --count; // the center itself
        w.spans[b] = {begin, count};
        kernels_.normalize(count, w.x.data() + begin, w.y.data() + begin, w.z.data() + begin, w.r.data() + begin,
                           w.inverse_r.data() + begin);
        return static_cast<std::size_t>(count);
    }

    [[noreturn]] void refuse_coincidence(std::ptrdiff_t center, const int* hits, int count) const {
        const int slot = bins_.slot_of_atom[center];
        for (int h = 0; h < count; ++h) {
            const int i = hits[h];
            const double distance =
                std::hypot(bins_.x[i] - bins_.x[slot], bins_.y[i] - bins_.y[slot], bins_.z[i] - bins_.z[slot]);
            if (i == slot || distance >= least_distance) continue;
            std::ostringstream message;
            message << "atoms " << center << " and " << bins_.atom[i]
                    << (bins_.atom[i] == center ? " (a periodic image)" : "") << " coincide (distance " << distance
                    << " Å, least " << least_distance << " Å); remove one of them";
            throw UncertaintyError(message.str());
        }
        throw UncertaintyError("atom " + std::to_string(center) + " coincides with another atom");
    }

    void pull_back(const Chunk& chunk, int b, const double* adjoint, Workspace& w) const {
        Contribution& out = w.contribution;
        const std::size_t c_size = basis_.coefficients_size();
        w.c_adjoint.resize(c_size + overrun);
        basis_kernels_.power_spectrum_adjoint(basis_.view, w.c.data() + b * c_size, adjoint, w.c_adjoint.data());
        const NeighborView view = neighbors(w, b);
        const std::size_t begin = w.spans[b].begin, count = static_cast<std::size_t>(view.count);
        for (auto* g : {&w.gx, &w.gy, &w.gz})
            if (g->size() < count + overrun) g->resize(count + count / 2 + overrun);
        basis_kernels_.expand_adjoint(basis_.view, view, w.c_adjoint.data(), w.gx.data(), w.gy.data(), w.gz.data());
        std::array<double, 3> total{};
        std::array<double, 9> strain{};
        for (std::size_t j = 0; j < count; ++j) {
            const double g[3] = {w.gx[j], w.gy[j], w.gz[j]};
            const double d[3] = {view.x[j] * view.r[j], view.y[j] * view.r[j], view.z[j] * view.r[j]};
            for (int p = 0; p < 3; ++p) {
                total[p] += g[p];
                for (int q = 0; q < 3; ++q) strain[3 * p + q] += d[p] * g[q];
            }
        }
        for (int p = 0; p < 3; ++p)
            for (int q = 0; q < 3; ++q) out.strain[3 * p + q] += 0.5 * (strain[3 * p + q] + strain[3 * q + p]);
        out.atom.insert(out.atom.end(), w.atom.begin() + begin, w.atom.begin() + begin + count);
        out.x.insert(out.x.end(), w.gx.begin(), w.gx.begin() + count);
        out.y.insert(out.y.end(), w.gy.begin(), w.gy.begin() + count);
        out.z.insert(out.z.end(), w.gz.begin(), w.gz.begin() + count);
        out.atom.push_back(static_cast<int>(chunk.atoms[b]));
        out.x.push_back(-total[0]);
        out.y.push_back(-total[1]);
        out.z.push_back(-total[2]);
    }

    const SoapBasis& basis_;
    const Head& head_;
    const Kernels& kernels_;
    const BasisKernels& basis_kernels_;
    const std::size_t stride_;
    const std::vector<int> species_;
    const NeighborBins bins_;
    const bool wants_gradient_;
    OrderedSum sum_;
    std::vector<std::size_t> order_;
    std::vector<std::ptrdiff_t> atoms_;
    std::vector<Chunk> chunks_;
};

} // namespace

std::size_t feature_stride(const SoapBasis& basis) {
    return (basis.n_features + panel_width - 1) / panel_width * panel_width + overrun;
}

void run_pipeline(const SoapBasis& basis, const Structure& structure, Centers centers, const Head& head,
                  Gradient gradient, int threads) {
    for (std::size_t k = 0; k < centers.size; ++k) {
        if (centers[k] >= 0 && static_cast<std::size_t>(centers[k]) < structure.n_atoms) continue;
        std::ostringstream message;
        message << "center " << centers[k] << " is not an atom of the structure; valid: 0 ... "
                << static_cast<std::ptrdiff_t>(structure.n_atoms) - 1;
        throw UncertaintyError(message.str());
    }
    Pipeline(basis, structure, head, gradient).run(centers, threads);
}

} // namespace ideal::detail
