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
    // Hits of one center as they are found, and the shell that each belongs to.
    std::vector<int> hit_slot, hit_shell;
    std::vector<double> hit_x, hit_y, hit_z;
    // Neighbors of all centers of the chunk, one after another, sorted by species.
    std::vector<double> x, y, z, r, inverse_r;
    std::vector<int> atom;
    std::vector<NeighborSpan> spans;
    std::vector<int> first; // (chunk_size, n_species + 1)
    std::vector<unsigned char> present; // (chunk_size, n_channels)
    std::vector<int> fill; // per shell
    AlignedVector<double> c, c_adjoint, features, adjoint, head_scratch;
    std::vector<int> active;
    std::vector<double> gx, gy, gz;
    Contribution contribution;

    void reserve_hits(std::size_t size) {
        if (size <= hit_x.size()) return;
        size += size / 2;
        for (auto* v : {&hit_x, &hit_y, &hit_z}) v->resize(size);
        for (auto* v : {&hit_slot, &hit_shell}) v->resize(size);
    }
    HitsView hits() { return {hit_slot.data(), hit_shell.data(), hit_x.data(), hit_y.data(), hit_z.data()}; }

    void reserve_neighbors(std::size_t size) {
        if (size <= x.size()) return;
        size += size / 2;
        for (auto* v : {&x, &y, &z, &r, &inverse_r}) v->resize(size);
        atom.resize(size);
    }
};

class Pipeline {
public:
    Pipeline(const SoapBasis& basis, const Structure& structure, Centers centers, const Head& head, Gradient gradient)
        : basis_(basis),
          head_(head),
          kernels_(kernels()),
          basis_kernels_(*kernels_.basis_kernels(basis.view.n_padded)),
          stride_(feature_stride(basis)),
          species_(basis.species_of(structure)),
          bins_(structure, species_, basis.support, centers),
          shells_(std::clamp(96 / basis.view.n_species, 4, 64)),
          shells_per_square_(shells_ / (basis.support * basis.support)),
          combines_(basis.view.n_channels > basis.view.n_species || basis.view.weights != nullptr),
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
        const int n_species = basis_.view.n_species, n_channels = basis_.view.n_channels;
        const std::size_t c_size = basis_.coefficients_size();
        const std::size_t channel = static_cast<std::size_t>(basis_.view.n_harmonics) * basis_.view.n_padded;
        w.present.resize(static_cast<std::size_t>(n_channels) * chunk_size);
        w.c.resize(c_size * (wants_gradient_ ? chunk_size : 1) + overrun);
        w.features.resize(stride_ * chunk_size + overrun);
        w.first.resize(static_cast<std::size_t>(n_species + 1) * chunk_size);
        w.spans.resize(chunk_size);
        w.active.resize(chunk_size);
        if (wants_gradient_) w.adjoint.resize(stride_ * chunk_size + overrun);
        std::size_t used = 0;
        for (int b = 0; b < chunk.size; ++b) {
            used += find_neighbors(chunk.atoms[b], b, used, w);
            double* c = w.c.data() + (wants_gradient_ ? b * c_size : 0);
            const NeighborView view = neighbors(w, b);
            unsigned char* present = w.present.data() + static_cast<std::size_t>(b) * n_channels;
            for (int s = 0; s < n_channels; ++s) {
                present[s] = s >= n_species || s == chunk.species || view.first[s] < view.first[s + 1];
                if (s < n_species && present[s]) std::fill_n(c + s * channel, channel, 0.0);
            }
            std::copy_n(basis_.self.data(), basis_.view.n_max, c + chunk.species * channel);
            basis_kernels_.expand(basis_.view, view, c);
            if (combines_) basis_kernels_.combine(basis_.view, present, c);
            basis_kernels_.power_spectrum(basis_.view, present, c, w.features.data() + b * stride_);
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

    /// Neighbors of an atom, sorted by species and roughly by distance, into the workspace from `begin` on. Returns the
    /// room they take. Neighbors at similar distances share rows of the radial table, so these stay in the cache.
    std::size_t find_neighbors(std::ptrdiff_t center, int b, std::size_t begin, Workspace& w) const {
        const int slot = bins_.slot_of_atom[center];
        w.reserve_hits(static_cast<std::size_t>(bins_.candidate_ranges(slot, w.ranges)) + overrun);
        const HitsView hits = w.hits();
        static_assert(sizeof(SlotRange) == 2 * sizeof(int));
        const SearchView search{bins_.x.data(),
                                bins_.y.data(),
                                bins_.z.data(),
                                bins_.species.data(),
                                &w.ranges.data()->begin,
                                static_cast<int>(w.ranges.size()),
                                slot,
                                bins_.cutoff * bins_.cutoff,
                                shells_,
                                shells_per_square_};
        double nearest_squared = 0;
        const int count = kernels_.select(search, hits, &nearest_squared);
        if (nearest_squared < least_distance * least_distance) refuse_coincidence(center, hits, count);
        w.reserve_neighbors(begin + count + overrun);

        const int n_species = basis_.view.n_species, n_shells = n_species * shells_;
        w.fill.assign(n_shells + 1, 0);
        int* next = w.fill.data();
        for (int h = 0; h < count; ++h) ++next[hits.shell[h] + 1];
        for (int k = 0; k < n_shells; ++k) next[k + 1] += next[k];
        int* first = w.first.data() + static_cast<std::size_t>(b) * (n_species + 1);
        for (int s = 0; s <= n_species; ++s) first[s] = next[s * shells_];
        for (int h = 0; h < count; ++h) {
            const std::size_t at = begin + static_cast<std::size_t>(next[hits.shell[h]]++);
            w.x[at] = hits.x[h];
            w.y[at] = hits.y[h];
            w.z[at] = hits.z[h];
            w.atom[at] = bins_.atom[hits.slot[h]];
        }
        w.spans[b] = {begin, count};
        kernels_.normalize(count, w.x.data() + begin, w.y.data() + begin, w.z.data() + begin, w.r.data() + begin,
                           w.inverse_r.data() + begin);
        return static_cast<std::size_t>(count);
    }

    [[noreturn]] void refuse_coincidence(std::ptrdiff_t center, const HitsView& hits, int count) const {
        for (int h = 0; h < count; ++h) {
            const int i = hits.slot[h];
            const double distance = std::hypot(hits.x[h], hits.y[h], hits.z[h]);
            if (distance >= least_distance) continue;
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
        basis_kernels_.power_spectrum_adjoint(basis_.view,
                                              w.present.data() + static_cast<std::size_t>(b) * basis_.view.n_channels,
                                              w.c.data() + b * c_size, adjoint, w.c_adjoint.data());
        const NeighborView view = neighbors(w, b);
        const std::size_t begin = w.spans[b].begin, count = static_cast<std::size_t>(view.count);
        for (auto* g : {&w.gx, &w.gy, &w.gz})
            if (g->size() < count + overrun) g->resize(count + count / 2 + overrun);
        basis_kernels_.expand_adjoint(basis_.view, view, w.c_adjoint.data(), w.gx.data(), w.gy.data(), w.gz.data());
        std::array<double, 3> total;
        std::array<double, 6> strain;
        kernels_.reduce(view, w.gx.data(), w.gy.data(), w.gz.data(), total.data(), strain.data());
        constexpr int voigt[9] = {0, 5, 4, 5, 1, 3, 4, 3, 2};
        for (int k = 0; k < 9; ++k) out.strain[k] += strain[voigt[k]];
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
    /// Spherical shells per species, equal in squared radius, by which neighbors are sorted.
    const int shells_;
    const double shells_per_square_;
    const bool combines_, wants_gradient_;
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
    Pipeline(basis, structure, centers, head, gradient).run(centers, threads);
}

} // namespace ideal::detail
