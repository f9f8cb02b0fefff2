#include "ideal/m3gnet.hpp"

#include "ideal/elements.hpp"
#include "ideal/errors.hpp"
#include "kernel.hpp"
#include "safetensors.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <list>

namespace ideal {
namespace detail {

/// Padded weights, and the views of them that the kernels take.
struct ModelWeights {
    std::vector<int> numbers;
    std::vector<double> references; // eV, per element
    double scale = 1, offset = 0;
    ModelView model{};
    ReadoutView readout{};
    std::vector<BlockView> blocks;
    std::vector<float> embedding; // (elements, U)
    std::list<std::vector<float>> arrays;
    std::vector<double> bond_matrix, angle_matrix;
};

} // namespace detail

namespace {

using detail::BlockView;
using detail::GatedView;
using detail::Json;
using detail::JsonError;
using detail::Matrix;
using detail::ModelWeights;
using detail::Tensors;

constexpr const char* format_name = "m3gnet-1";
constexpr double largest_cutoff = 100; // Å

std::size_t padded(std::size_t n) { return (n + detail::model_pad - 1) / detail::model_pad * detail::model_pad; }

/// Coefficients of the smooth spherical Bessel basis in sin(k pi r / cutoff) / r, k = 1 ... n + 1 -> (n + 1, padded n).
/// E. Kocer, J. K. Mason, H. Erturk, AIP Advances 10, 015021 (2020), doi:10.1063/1.5111045.
std::vector<double> radial_matrix(int n, double cutoff) {
    constexpr double pi = 3.14159265358979323846;
    const std::size_t width = padded(static_cast<std::size_t>(n));
    std::vector<std::vector<double>> waves(n + 1, std::vector<double>(n)), mixing(n, std::vector<double>(n));
    std::vector<double> d(n, 1.0);
    for (int i = 0; i < n; ++i) {
        const double factor = (i % 2 ? -1 : 1) * std::sqrt(2.0) * pi / std::pow(cutoff, 1.5) * (i + 1) * (i + 2) /
                              std::sqrt((i + 1.0) * (i + 1) + (i + 2.0) * (i + 2));
        waves[i][i] = factor * cutoff / ((i + 1) * pi);
        waves[i + 1][i] = factor * cutoff / ((i + 2) * pi);
    }
    mixing[0][0] = 1;
    for (int i = 1; i < n; ++i) { // Gram-Schmidt in closed form
        const double e = std::pow(i, 2) * std::pow(i + 2, 2) / (4 * std::pow(i + 1, 4) + 1);
        d[i] = 1 - e / d[i - 1];
        for (int k = 0; k < i; ++k) mixing[i][k] = std::sqrt(e / d[i - 1]) * mixing[i - 1][k];
        mixing[i][i] += 1;
        for (double& value : mixing[i]) value /= std::sqrt(d[i]);
    }
    std::vector<double> matrix((n + 1) * width);
    for (int k = 0; k <= n; ++k)
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) matrix[k * width + i] += waves[k][j] * mixing[i][j];
    return matrix;
}

/// Brings torch's (out, in) weights into padded (in, out) matrices.
class Loader {
public:
    Loader(const Tensors& tensors, ModelWeights& weights, std::size_t units)
        : tensors_(tensors), weights_(weights), units_(units), width_(padded(units)) {}

    /// A zero matrix (in, out), both padded, to be filled by `place`.
    std::vector<float>& zeros(std::size_t size) {
        weights_.arrays.emplace_back(size);
        return weights_.arrays.back();
    }

    /// Puts columns [from, from + in) of a torch weight at column `at` of an (rows, columns) matrix.
    void place(std::vector<float>& matrix, std::size_t columns, std::size_t at, const std::string& name,
               std::size_t out, std::size_t all_in, std::size_t from, std::size_t in) const {
        const std::vector<float> w = tensors_.singles(name, {out, all_in});
        for (std::size_t i = 0; i < in; ++i)
            for (std::size_t o = 0; o < out; ++o) matrix[i * columns + at + o] = w[o * all_in + from + i];
    }

    void place_bias(std::vector<float>& row, std::size_t at, const std::string& name, std::size_t out) const {
        const std::vector<float> b = tensors_.singles(name, {out});
        std::copy(b.begin(), b.end(), row.begin() + static_cast<std::ptrdiff_t>(at));
    }

    Matrix finished(std::vector<float>& matrix, std::size_t in, std::size_t out) {
        std::vector<float>& transposed = zeros(in * out);
        for (std::size_t i = 0; i < in; ++i)
            for (std::size_t o = 0; o < out; ++o) transposed[o * in + i] = matrix[i * out + o];
        return {matrix.data(), transposed.data(), static_cast<int>(in), static_cast<int>(out)};
    }

    /// A whole layer (in -> out).
    Matrix matrix(const std::string& name, std::size_t in, std::size_t out) {
        std::vector<float>& w = zeros(padded(in) * padded(out));
        place(w, padded(out), 0, name, out, in, 0, in);
        return finished(w, padded(in), padded(out));
    }

    const float* bias(const std::string& name, std::size_t out) {
        std::vector<float>& b = zeros(padded(out));
        place_bias(b, 0, name, out);
        return b.data();
    }

    /// The layers of a gated network behind those that act on atoms.
    GatedView gated(const std::string& name, const std::string& radial, std::size_t n_bond) {
        GatedView view{};
        const std::size_t u = units_, w = width_;
        std::vector<float>& edge = zeros(w * 2 * w);
        place(edge, 2 * w, 0, name + ".layers.0.weight", u, 3 * u, 2 * u, u);
        place(edge, 2 * w, w, name + ".gates.0.weight", u, 3 * u, 2 * u, u);
        view.edge = finished(edge, w, 2 * w);
        view.value2 = matrix(name + ".layers.2.weight", u, u);
        view.gate2 = matrix(name + ".gates.2.weight", u, u);
        view.value3 = matrix(name + ".layers.4.weight", u, u);
        view.gate3 = matrix(name + ".gates.4.weight", u, u);
        view.bias2 = both(name, "2");
        view.bias3 = both(name, "4");
        view.radial = matrix(radial, n_bond, u);
        return view;
    }

    const float* both(const std::string& name, const std::string& layer) {
        std::vector<float>& b = zeros(2 * width_);
        place_bias(b, 0, name + ".layers." + layer + ".bias", units_);
        place_bias(b, width_, name + ".gates." + layer + ".bias", units_);
        return b.data();
    }

private:
    const Tensors& tensors_;
    ModelWeights& weights_;
    std::size_t units_, width_;
};

BlockView read_block(Loader& load, std::size_t index, std::size_t u, std::size_t n_bond, std::size_t n_angle) {
    BlockView block{};
    const std::size_t w = padded(u), a = padded(n_angle);
    const std::string three = "three_body_interactions." + std::to_string(index) + ".";
    const std::string conv = "graph_layers." + std::to_string(index) + ".conv.";
    block.atom = load.matrix(three + "update_network_atom.layers.0.weight", u, n_angle);
    block.atom_bias = load.bias(three + "update_network_atom.layers.0.bias", n_angle);
    std::vector<float>& angle = load.zeros(a * 2 * w);
    load.place(angle, 2 * w, 0, three + "update_network_bond.layers.0.weight", u, n_angle, 0, n_angle);
    load.place(angle, 2 * w, w, three + "update_network_bond.gates.0.weight", u, n_angle, 0, n_angle);
    block.angle = load.finished(angle, a, 2 * w);
    std::vector<float>&source = load.zeros(w * 4 * w), &target = load.zeros(w * 4 * w), &bias = load.zeros(4 * w);
    std::size_t at = 0;
    for (const char* net : {"edge_update_func", "node_update_func"})
        for (const char* side : {".layers.0", ".gates.0"}) {
            const std::string name = conv + net + side;
            load.place(source, 4 * w, at, name + ".weight", u, 3 * u, 0, u);
            load.place(target, 4 * w, at, name + ".weight", u, 3 * u, u, u);
            load.place_bias(bias, at, name + ".bias", u);
            at += w;
        }
    block.source = load.finished(source, w, 4 * w);
    block.target = load.finished(target, w, 4 * w);
    block.source_bias = bias.data();
    block.edge_update = load.gated(conv + "edge_update_func", conv + "edge_weight_func.weight", n_bond);
    block.node_update = load.gated(conv + "node_update_func", conv + "node_weight_func.weight", n_bond);
    return block;
}

[[noreturn]] void not_covered(const std::string& what) {
    throw JsonError("its architecture has " + what + ", which only the Python program evaluates");
}

/// What stands in the architecture under a key; the default where it is missing.
const Json* option(const Json& architecture, const char* key) {
    const auto found = architecture.object.find(key);
    return found == architecture.object.end() || found->second.kind == Json::Kind::null ? nullptr : &found->second;
}

std::shared_ptr<ModelWeights> read_model(const char* data, std::size_t size) {
    const detail::Safetensors file(data, size, {"F32", "F64", "I64"});
    const auto& metadata = file.header.at("__metadata__");
    const std::string& text = metadata.at("ideal").as_string("the header 'ideal'");
    const Json header = Json::parse(text.data(), text.size());
    const std::string& format = header.at("format").as_string("format");
    if (format != format_name) throw JsonError("it has format '" + format + "'; this program reads " + format_name);
    const Json& architecture = header.at("architecture");
    const auto size_of = [&](const char* key) { return architecture.at(key).as_size(key); };
    const auto flag = [&](const char* key, bool otherwise) {
        const Json* value = option(architecture, key);
        return value ? value->as_bool(key) : otherwise;
    };
    const std::size_t u = size_of("units"), n_blocks = size_of("nblocks");
    const std::size_t max_n = size_of("max_n"), max_l = size_of("max_l"), n_angle = max_n * max_l;
    if (size_of("dim_node_embedding") != u || size_of("dim_edge_embedding") != u) not_covered("features of different widths");
    if (flag("is_intensive", true)) not_covered("is_intensive");
    if (flag("include_state", false)) not_covered("include_state");
    if (!flag("use_smooth", false)) not_covered("use_smooth = false");
    if (flag("use_phi", false)) not_covered("use_phi");
    if (const Json* kind = option(architecture, "rbf_type"))
        if (kind->as_string("rbf_type") != "SphericalBessel") not_covered("rbf_type " + kind->string);
    if (const Json* kind = option(architecture, "activation_type"))
        if (kind->as_string("activation_type") != "swish") not_covered("activation_type " + kind->string);
    if (max_l < 1 || max_l > 4) not_covered("max_l " + std::to_string(max_l) + " (1 ... 4 are covered)");
    if (max_n < 1 || n_angle + 1 > detail::model_most_waves) not_covered("max_n * max_l = " + std::to_string(n_angle));
    if (n_blocks < 1 || u < 1 || u > 4096) throw JsonError("units or nblocks are out of range");

    auto weights = std::make_shared<ModelWeights>();
    for (const Json& symbol : architecture.at("element_types").as_array("element_types")) {
        const std::string& name = symbol.as_string("an element");
        weights->numbers.push_back(atomic_number(name));
        if (weights->numbers.back() == 0) throw JsonError("'" + name + "' is not a chemical symbol");
        if (std::count(weights->numbers.begin(), weights->numbers.end(), weights->numbers.back()) > 1)
            throw JsonError("'" + name + "' occurs twice in element_types");
        weights->references.push_back(header.at("reference_energies").at(name.c_str()).as_number("a reference energy"));
    }
    weights->scale = header.at("energy_scale").as_number("energy_scale");
    weights->offset = header.at("energy_offset").as_number("energy_offset");
    if (weights->offset != 0) not_covered("an energy offset per structure");

    Loader load(file.tensors, *weights, u);
    auto& model = weights->model;
    model.units = static_cast<int>(padded(u));
    model.n_bond = static_cast<int>(max_n);
    model.n_angle = static_cast<int>(n_angle);
    model.bond_width = static_cast<int>(padded(max_n));
    model.angle_width = static_cast<int>(padded(n_angle));
    model.l_max = static_cast<int>(max_l);
    model.n_max = static_cast<int>(max_n);
    model.cutoff = architecture.at("cutoff").as_number("cutoff");
    model.threebody_cutoff = architecture.at("threebody_cutoff").as_number("threebody_cutoff");
    if (!(model.cutoff <= largest_cutoff && model.threebody_cutoff > 0 && model.threebody_cutoff <= model.cutoff))
        throw JsonError("its cutoffs are out of range");
    weights->bond_matrix = radial_matrix(model.n_bond, model.cutoff);
    weights->angle_matrix = radial_matrix(model.n_angle, model.cutoff);
    model.bond_matrix = weights->bond_matrix.data();
    model.angle_matrix = weights->angle_matrix.data();
    model.embedding = load.matrix("embedding.layer_edge_embedding.layers.0.weight", max_n, u);
    model.embedding_bias = load.bias("embedding.layer_edge_embedding.layers.0.bias", u);
    const std::size_t n_elements = weights->numbers.size();
    const std::vector<float> table = file.tensors.singles("embedding.layer_node_embedding.weight", {n_elements, u});
    weights->embedding.resize(n_elements * padded(u));
    for (std::size_t k = 0; k < n_elements; ++k)
        std::copy_n(table.begin() + static_cast<std::ptrdiff_t>(k * u), u,
                    weights->embedding.begin() + static_cast<std::ptrdiff_t>(k * padded(u)));
    for (std::size_t k = 0; k < n_blocks; ++k) weights->blocks.push_back(read_block(load, k, u, max_n, n_angle));
    auto& readout = weights->readout;
    for (int k = 0; k < 3; ++k) {
        const std::string layer = std::to_string(2 * k);
        readout.value[k] = load.matrix("final_layer.gated.layers." + layer + ".weight", u, u);
        readout.gate[k] = load.matrix("final_layer.gated.gates." + layer + ".weight", u, u);
        readout.value_bias[k] = load.bias("final_layer.gated.layers." + layer + ".bias", u);
        readout.gate_bias[k] = load.bias("final_layer.gated.gates." + layer + ".bias", u);
    }
    const auto last = [&](const std::string& name, float& bias) {
        std::vector<float>& row = load.zeros(padded(u));
        const std::vector<float> w = file.tensors.singles(name + ".weight", {1, u});
        std::copy(w.begin(), w.end(), row.begin());
        bias = file.tensors.singles(name + ".bias", {1})[0];
        return row.data();
    };
    readout.value_last = last("final_layer.gated.layers.6", readout.value_last_bias);
    readout.gate_last = last("final_layer.gated.gates.6", readout.gate_last_bias);
    return weights;
}

/// Ends of the chunks [0, end_0), [end_0, end_1) ...: few edges, so that a block's intermediates stay in the cache.
std::vector<int> chunk_ends(const LocalGraph& graph) {
    constexpr int most_atoms = 64;
    constexpr long long most_edges = 256;
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

} // namespace

M3GNet M3GNet::parse(const char* data, std::size_t size, const std::string& name) {
    M3GNet model;
    try {
        model.weights_ = read_model(data, size);
    } catch (const JsonError& error) {
        throw ConfigError(name + ": this model cannot be used (" + error.what() +
                          "); name a model.safetensors that IDEAL wrote");
    }
    return model;
}

double M3GNet::cutoff() const { return weights_->model.cutoff; }
int M3GNet::n_blocks() const { return static_cast<int>(weights_->blocks.size()); }
int M3GNet::row() const { return weights_->model.units; }
const std::vector<int>& M3GNet::numbers() const { return weights_->numbers; }

void M3GNetEvaluator::evaluate(const M3GNet& model, const LocalGraph& graph, const Exchange& exchange,
                               const LocalResults& results) {
    const ModelWeights& weights = model.weights();
    const detail::ModelView& view = weights.model;
    const detail::ModelKernels& kernels = detail::kernels().model;
    const int n_blocks = model.n_blocks(), n_local = graph.n_local, n_all = graph.n_all;
    const std::size_t u = static_cast<std::size_t>(view.units), all = static_cast<std::size_t>(n_all);
    const std::size_t n_edges = static_cast<std::size_t>(graph.first_edge[n_local]);
    const std::vector<int> ends = chunk_ends(graph);

    nodes_.resize(static_cast<std::size_t>(n_blocks) + 1);
    edges_.resize(static_cast<std::size_t>(n_blocks)); // edges_[k]: in front of block k; [0] is made anew each time
    for (auto& rows : nodes_) rows.resize(all * u);
    for (std::size_t k = 1; k < edges_.size(); ++k) edges_[k].resize(n_edges * u);
    atoms_.resize(all * static_cast<std::size_t>(view.angle_width));
    from_target_.resize(all * 4 * u);
    std::size_t scratch = static_cast<std::size_t>(15 * 64) * u + 15 * 16;
    std::size_t most_edges = 0;
    for (std::size_t c = 0; c < ends.size(); ++c) {
        const int begin = c == 0 ? 0 : ends[c - 1];
        const int edges = static_cast<int>(graph.first_edge[ends[c]] - graph.first_edge[begin]);
        scratch = std::max(scratch, kernels.scratch_size(view, ends[c] - begin, edges));
        most_edges = std::max(most_edges, static_cast<std::size_t>(edges));
    }
    scratch_.resize(scratch);
    vector_gradient_.resize(3 * most_edges);
    vectors_.resize(3 * most_edges);

    const auto per_atom = [&](int k) {
        const BlockView& block = weights.blocks[static_cast<std::size_t>(k)];
        const float* nodes = nodes_[static_cast<std::size_t>(k)].data();
        kernels.multiply(n_all, nodes, view.units, block.atom.w, block.atom.in, block.atom.out, block.atom_bias, false,
                         atoms_.data(), view.angle_width);
        kernels.sigmoid(atoms_.size(), atoms_.data(), atoms_.data());
        kernels.multiply(n_all, nodes, view.units, block.target.w, block.target.in, block.target.out, nullptr, false,
                         from_target_.data(), 4 * view.units);
    };
    const auto chunk_of = [&](std::size_t c, int k) {
        const int begin = c == 0 ? 0 : ends[c - 1];
        const long long first = graph.first_edge[begin];
        detail::ModelChunk chunk{};
        chunk.first_atom = begin;
        chunk.n_atoms = ends[c] - begin;
        chunk.n_edges = static_cast<int>(graph.first_edge[ends[c]] - first);
        chunk.first_edge = graph.first_edge + begin;
        chunk.target = graph.target + first;
        chunk.positions = graph.positions;
        chunk.nodes = nodes_[static_cast<std::size_t>(k)].data();
        chunk.atoms = atoms_.data();
        chunk.from_target = from_target_.data();
        chunk.edges = k == 0 ? nullptr : edges_[static_cast<std::size_t>(k)].data() + static_cast<std::size_t>(first) * u;
        return chunk;
    };

    for (std::size_t i = 0; i < all; ++i)
        std::copy_n(weights.embedding.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(graph.types[i]) * u),
                    u, nodes_[0].begin() + static_cast<std::ptrdiff_t>(i * u));
    for (int k = 0; k < n_blocks; ++k) {
        if (k > 0) exchange.send(nodes_[static_cast<std::size_t>(k)].data());
        per_atom(k);
        for (std::size_t c = 0; c < ends.size(); ++c) {
            const detail::ModelChunk chunk = chunk_of(c, k);
            float* behind = k + 1 == n_blocks ? nullptr
                                              : edges_[static_cast<std::size_t>(k) + 1].data() +
                                                    static_cast<std::size_t>(chunk.first_edge[0]) * u;
            kernels.forward(view, weights.blocks[static_cast<std::size_t>(k)], chunk,
                            nodes_[static_cast<std::size_t>(k) + 1].data(), behind, scratch_.data());
        }
    }

    gradient_.assign(all * u, 0.0f);
    energies_.resize(static_cast<std::size_t>(n_local));
    for (int begin = 0; begin < n_local; begin += 64)
        kernels.readout(view, weights.readout, std::min(64, n_local - begin),
                        nodes_.back().data() + static_cast<std::size_t>(begin) * u, energies_.data() + begin,
                        gradient_.data() + static_cast<std::size_t>(begin) * u, scratch_.data());
    if (results.energies)
        for (int i = 0; i < n_local; ++i)
            results.energies[i] += weights.scale * energies_[i] + weights.references[graph.types[i]];

    for (int k = n_blocks - 1; k >= 0; --k) {
        const BlockView& block = weights.blocks[static_cast<std::size_t>(k)];
        per_atom(k);
        other_gradient_.assign(all * u, 0.0f);
        atoms_gradient_.assign(atoms_.size(), 0.0f);
        target_gradient_.assign(from_target_.size(), 0.0f);
        for (std::size_t c = 0; c < ends.size(); ++c) {
            const detail::ModelChunk chunk = chunk_of(c, k);
            const std::size_t first = static_cast<std::size_t>(chunk.first_edge[0]) * u;
            detail::ModelBackward b{};
            b.nodes_gradient = gradient_.data();
            b.edges_gradient = k + 1 == n_blocks ? nullptr : edges_[static_cast<std::size_t>(k) + 1].data() + first;
            b.new_edges_gradient = k == 0 ? nullptr : edges_[static_cast<std::size_t>(k)].data() + first;
            b.new_nodes_gradient = other_gradient_.data();
            b.atoms_gradient = atoms_gradient_.data();
            b.target_gradient = target_gradient_.data();
            b.vector_gradient = vector_gradient_.data();
            b.vectors = vectors_.data();
            kernels.backward(view, block, chunk, b, scratch_.data());
            int edge = 0;
            for (int i = 0; i < chunk.n_atoms; ++i) {
                const int center = chunk.first_atom + i;
                const int end = static_cast<int>(chunk.first_edge[i + 1] - chunk.first_edge[0]);
                for (; edge < end; ++edge) {
                    const int other = chunk.target[edge];
                    double g[3], v[3];
                    for (int d = 0; d < 3; ++d) {
                        g[d] = weights.scale * static_cast<double>(vector_gradient_[3 * static_cast<std::size_t>(edge) + d]);
                        v[d] = vectors_[3 * static_cast<std::size_t>(edge) + d];
                        results.forces[3 * static_cast<std::size_t>(center) + d] += g[d];
                        results.forces[3 * static_cast<std::size_t>(other) + d] -= g[d];
                    }
                    const std::array<double, 6> w{-v[0] * g[0], -v[1] * g[1], -v[2] * g[2],
                                                  -v[0] * g[1], -v[0] * g[2], -v[1] * g[2]};
                    for (int d = 0; d < 6; ++d) {
                        if (results.virial) results.virial[d] += w[d];
                        if (!results.atom_virials) continue;
                        results.atom_virials[6 * static_cast<std::size_t>(center) + d] += 0.5 * w[d];
                        results.atom_virials[6 * static_cast<std::size_t>(other) + d] += 0.5 * w[d];
                    }
                }
            }
        }
        if (k == 0) break; // the features of atoms in front of the first block do not depend on positions
        kernels.multiply(n_all, target_gradient_.data(), 4 * view.units, block.target.transposed, block.target.out,
                         block.target.in, nullptr, true, other_gradient_.data(), view.units);
        for (std::size_t i = 0; i < atoms_.size(); ++i) atoms_gradient_[i] *= atoms_[i] * (1.0f - atoms_[i]);
        kernels.multiply(n_all, atoms_gradient_.data(), view.angle_width, block.atom.transposed, block.atom.out,
                         block.atom.in, nullptr, true, other_gradient_.data(), view.units);
        exchange.collect(other_gradient_.data());
        gradient_.swap(other_gradient_);
    }
}

double M3GNetEvaluator::memory_usage() const {
    double floats = 0;
    for (const auto* group : {&nodes_, &edges_})
        for (const auto& rows : *group) floats += static_cast<double>(rows.capacity());
    for (const auto* rows : {&atoms_, &from_target_, &gradient_, &other_gradient_, &atoms_gradient_, &target_gradient_,
                             &scratch_, &vector_gradient_, &vectors_})
        floats += static_cast<double>(rows->capacity());
    return 4 * floats + 8.0 * static_cast<double>(energies_.capacity());
}

} // namespace ideal
