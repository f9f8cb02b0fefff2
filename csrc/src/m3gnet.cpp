#include "ideal/m3gnet.hpp"

#include "ideal/errors.hpp"
#include "json.hpp"
#include "kernel.hpp"
#include "model_weights.hpp"

#include <algorithm>

namespace ideal {

// ---- the model ---------------------------------------------------------------------------------------------------------

M3GNet M3GNet::parse(const char* data, std::size_t size, const std::string& name) {
    M3GNet model;
    try {
        model.weights_ = detail::read_model(data, size);
    } catch (const detail::JsonError& error) {
        throw ConfigError(name + ": this model cannot be used (" + error.what() +
                          "); name a model.safetensors that IDEAL wrote");
    }
    return model;
}

double M3GNet::cutoff() const { return weights_->model.cutoff; }
int M3GNet::n_blocks() const { return static_cast<int>(weights_->blocks.size()); }
int M3GNet::row() const { return weights_->model.units; }
const std::vector<int>& M3GNet::numbers() const { return weights_->numbers; }

// ---- the evaluation ----------------------------------------------------------------------------------------------------

/// Kept between calls. Names as in kernel_model.hpp; [k]: in front of block k.
struct M3GNetEvaluator::Buffers {
    std::vector<std::vector<float>> nodes;    // (all atoms, U)
    std::vector<std::vector<float>> edges;    // (edges, U); [0] is made anew each time
    std::vector<float> atoms, atoms_gradient; // (all atoms, A)
    std::vector<float> from_target, target_gradient; // (all atoms, 4 U)
    std::vector<float> gradient, new_gradient;       // (all atoms, U)
    std::vector<float> vector_gradient, vectors;     // (edges of a chunk, 3)
    std::vector<float> scratch;
    std::vector<double> energies; // (atoms of a chunk)

    double memory_usage() const {
        double floats = 2 * static_cast<double>(energies.capacity());
        for (const auto* group : {&nodes, &edges})
            for (const auto& rows : *group) floats += static_cast<double>(rows.capacity());
        for (const auto* rows : {&atoms, &atoms_gradient, &from_target, &target_gradient, &gradient, &new_gradient,
                                 &vector_gradient, &vectors, &scratch})
            floats += static_cast<double>(rows->capacity());
        return 4 * floats;
    }
};

namespace {

using detail::BlockView;
using detail::ModelChunk;
using detail::ModelKernels;
using detail::ModelView;
using detail::ModelWeights;

constexpr int most_atoms = 64;
constexpr long long most_edges = 256;

/// New size; what it held is lost. Never old and new contents at a time, and some room for the next call.
template <class T>
void resize(std::vector<T>& v, std::size_t size) {
    if (size > v.capacity()) {
        std::vector<T>().swap(v);
        v.reserve(size + size / 32);
    }
    v.resize(size);
}

/// Ends of the chunks [0, end_0), [end_0, end_1) ...: few edges, so that a block's intermediates stay in the cache.
std::vector<int> chunk_ends(const LocalGraph& graph) {
    std::vector<int> ends;
    for (int begin = 0; begin < graph.n_local;) {
        int end = begin + 1;
        while (end < graph.n_local && end - begin < most_atoms &&
               graph.first_edge[end + 1] - graph.first_edge[begin] <= most_edges)
            ++end;
        ends.push_back(end);
        begin = end;
    }
    return ends;
}

class Evaluation {
public:
    Evaluation(const ModelWeights& weights, const LocalGraph& graph, const Exchange& exchange,
               const LocalResults& results, M3GNetEvaluator::Buffers& buffers)
        : weights_(weights), view_(weights.model), kernels_(detail::kernels().model), graph_(graph), exchange_(exchange),
          results_(results), b_(buffers), ends_(chunk_ends(graph)), last_(weights.blocks.size() - 1),
          u_(static_cast<std::size_t>(weights.model.units)), all_(static_cast<std::size_t>(graph.n_all)) {}

    void run() {
        take_memory();
        embed_atoms();
        for (std::size_t k = 0; k < last_; ++k) {
            forward(k);
            exchange_.send(b_.nodes[k + 1].data());
        }
        for (std::size_t k = last_; k > 0; --k) {
            backward(k);
            exchange_.collect(b_.new_gradient.data());
            b_.gradient.swap(b_.new_gradient);
        }
        backward(0); // features of atoms in front of it do not depend on positions
    }

private:
    void take_memory() {
        const std::size_t n_edges = static_cast<std::size_t>(graph_.first_edge[graph_.n_local]);
        b_.nodes.resize(last_ + 1);
        b_.edges.resize(last_ + 1);
        for (auto& rows : b_.nodes) resize(rows, all_ * u_);
        for (std::size_t k = 1; k <= last_; ++k) resize(b_.edges[k], n_edges * u_);
        resize(b_.atoms, all_ * static_cast<std::size_t>(view_.angle_width));
        resize(b_.from_target, all_ * 4 * u_);
        std::size_t scratch = 0, edges = 0, atoms = 0;
        for (std::size_t c = 0; c < ends_.size(); ++c) {
            const ModelChunk chunk = chunk_of(c, 0);
            scratch = std::max(scratch, kernels_.scratch_size(view_, chunk.n_atoms, chunk.n_edges));
            edges = std::max(edges, static_cast<std::size_t>(chunk.n_edges));
            atoms = std::max(atoms, static_cast<std::size_t>(chunk.n_atoms));
        }
        resize(b_.scratch, scratch);
        resize(b_.vector_gradient, 3 * edges);
        resize(b_.vectors, 3 * edges);
        resize(b_.energies, atoms);
    }

    void embed_atoms() {
        for (std::size_t i = 0; i < all_; ++i)
            std::copy_n(weights_.embedding.data() + static_cast<std::size_t>(graph_.types[i]) * u_, u_,
                        b_.nodes[0].data() + i * u_);
    }

    ModelChunk chunk_of(std::size_t c, std::size_t k) const {
        const int begin = c == 0 ? 0 : ends_[c - 1];
        const long long first = graph_.first_edge[begin];
        ModelChunk chunk{};
        chunk.first_atom = begin;
        chunk.n_atoms = ends_[c] - begin;
        chunk.n_edges = static_cast<int>(graph_.first_edge[ends_[c]] - first);
        chunk.first_edge = graph_.first_edge + begin;
        chunk.target = graph_.target + first;
        chunk.positions = graph_.positions;
        chunk.nodes = b_.nodes[k].data();
        chunk.atoms = b_.atoms.data();
        chunk.from_target = b_.from_target.data();
        chunk.edges = k == 0 ? nullptr : b_.edges[k].data() + static_cast<std::size_t>(first) * u_;
        return chunk;
    }

    /// What a block's first layers give for each atom.
    void per_atom(std::size_t k) {
        const BlockView& block = weights_.blocks[k];
        const float* nodes = b_.nodes[k].data();
        kernels_.multiply(graph_.n_all, nodes, view_.units, block.atom.w, block.atom.in, block.atom.out, block.atom_bias,
                          false, b_.atoms.data(), view_.angle_width);
        kernels_.sigmoid(b_.atoms.size(), b_.atoms.data(), b_.atoms.data());
        kernels_.multiply(graph_.n_all, nodes, view_.units, block.target.w, block.target.in, block.target.out, nullptr,
                          false, b_.from_target.data(), 4 * view_.units);
    }

    void forward(std::size_t k) {
        per_atom(k);
        for (std::size_t c = 0; c < ends_.size(); ++c) {
            const ModelChunk chunk = chunk_of(c, k);
            kernels_.forward(view_, weights_.blocks[k], chunk, b_.nodes[k + 1].data(),
                             b_.edges[k + 1].data() + static_cast<std::size_t>(chunk.first_edge[0]) * u_,
                             b_.scratch.data());
        }
    }

    /// From gradients behind block k to those in front of it; forces and virial of what depends on positions directly.
    void backward(std::size_t k) {
        per_atom(k);
        if (k > 0) {
            b_.new_gradient.assign(all_ * u_, 0.0f);
            b_.atoms_gradient.assign(b_.atoms.size(), 0.0f);
            b_.target_gradient.assign(b_.from_target.size(), 0.0f);
        }
        for (std::size_t c = 0; c < ends_.size(); ++c) {
            const ModelChunk chunk = chunk_of(c, k);
            kernels_.backward(view_, weights_.blocks[k], chunk, gradients_of(chunk, k), b_.scratch.data());
            if (k == last_) add_energies(chunk);
            add_forces(chunk);
        }
        if (k > 0) gather_per_atom(k);
    }

    detail::ModelBackward gradients_of(const ModelChunk& chunk, std::size_t k) {
        const std::size_t first = static_cast<std::size_t>(chunk.first_edge[0]) * u_;
        detail::ModelBackward g{};
        if (k == last_) {
            g.readout = &weights_.readout;
            g.energies = b_.energies.data();
        } else {
            g.nodes_gradient = b_.gradient.data();
            g.edges_gradient = b_.edges[k + 1].data() + first;
        }
        if (k > 0) {
            g.new_edges_gradient = b_.edges[k].data() + first;
            g.new_nodes_gradient = b_.new_gradient.data();
            g.atoms_gradient = b_.atoms_gradient.data();
            g.target_gradient = b_.target_gradient.data();
        }
        g.vector_gradient = b_.vector_gradient.data();
        g.vectors = b_.vectors.data();
        return g;
    }

    /// Gradients of what a block's first layers give for each atom become those of the atom.
    void gather_per_atom(std::size_t k) {
        const BlockView& block = weights_.blocks[k];
        kernels_.multiply(graph_.n_all, b_.target_gradient.data(), 4 * view_.units, block.target.transposed,
                          block.target.out, block.target.in, nullptr, true, b_.new_gradient.data(), view_.units);
        for (std::size_t i = 0; i < b_.atoms.size(); ++i) b_.atoms_gradient[i] *= b_.atoms[i] * (1.0f - b_.atoms[i]);
        kernels_.multiply(graph_.n_all, b_.atoms_gradient.data(), view_.angle_width, block.atom.transposed,
                          block.atom.out, block.atom.in, nullptr, true, b_.new_gradient.data(), view_.units);
    }

    void add_energies(const ModelChunk& chunk) {
        if (!results_.energies) return;
        for (int i = 0; i < chunk.n_atoms; ++i) {
            const int atom = chunk.first_atom + i;
            results_.energies[atom] +=
                weights_.scale * b_.energies[static_cast<std::size_t>(i)] + weights_.references[graph_.types[atom]];
        }
    }

    void add_forces(const ModelChunk& chunk) {
        std::size_t edge = 0;
        for (int i = 0; i < chunk.n_atoms; ++i) {
            const std::size_t center = static_cast<std::size_t>(chunk.first_atom + i);
            const std::size_t end = static_cast<std::size_t>(chunk.first_edge[i + 1] - chunk.first_edge[0]);
            for (; edge < end; ++edge) {
                const std::size_t other = static_cast<std::size_t>(chunk.target[edge]);
                double g[3];
                for (std::size_t d = 0; d < 3; ++d) {
                    g[d] = weights_.scale * static_cast<double>(b_.vector_gradient[3 * edge + d]);
                    results_.forces[3 * center + d] += g[d];
                    results_.forces[3 * other + d] -= g[d];
                }
                if (results_.virial || results_.atom_virials) add_virial(center, other, &b_.vectors[3 * edge], g);
            }
        }
    }

    void add_virial(std::size_t center, std::size_t other, const float* v, const double* g) {
        const double w[6] = {-v[0] * g[0], -v[1] * g[1], -v[2] * g[2], -v[0] * g[1], -v[0] * g[2], -v[1] * g[2]};
        for (std::size_t d = 0; d < 6; ++d) {
            if (results_.virial) results_.virial[d] += w[d];
            if (!results_.atom_virials) continue;
            results_.atom_virials[6 * center + d] += 0.5 * w[d];
            results_.atom_virials[6 * other + d] += 0.5 * w[d];
        }
    }

    const ModelWeights& weights_;
    const ModelView& view_;
    const ModelKernels& kernels_;
    const LocalGraph& graph_;
    const Exchange& exchange_;
    const LocalResults& results_;
    M3GNetEvaluator::Buffers& b_;
    const std::vector<int> ends_;
    const std::size_t last_, u_, all_;
};

} // namespace

M3GNetEvaluator::M3GNetEvaluator() : buffers_(std::make_unique<Buffers>()) {}
M3GNetEvaluator::~M3GNetEvaluator() = default;

void M3GNetEvaluator::evaluate(const M3GNet& model, const LocalGraph& graph, const Exchange& exchange,
                               const LocalResults& results) {
    Evaluation(model.weights(), graph, exchange, results, *buffers_).run();
}

double M3GNetEvaluator::memory_usage() const { return buffers_->memory_usage(); }

} // namespace ideal
