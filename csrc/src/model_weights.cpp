#include "model_weights.hpp"

#include "ideal/elements.hpp"
#include "safetensors.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace ideal::detail {
namespace {

constexpr const char* format_name = "m3gnet-1";
constexpr double largest_cutoff = 100; // Å

std::size_t padded(std::size_t n) { return (n + model_pad - 1) / model_pad * model_pad; }

/// Where element (row, column) of a matrix with `rows` rows stands (kernel_model.hpp).
std::size_t in_panels(std::size_t row, std::size_t column, std::size_t rows) {
    constexpr std::size_t width = model_pad;
    return (column / width * rows + row) * width + column % width;
}

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

/// Of the network.
struct Sizes {
    std::size_t units, n_blocks, max_n, max_l;
    std::size_t angles() const { return max_n * max_l; }
};

/// Brings torch's (out, in) weights into padded (in, out) matrices.
class Loader {
public:
    Loader(const Tensors& tensors, ModelWeights& weights, std::size_t units)
        : tensors_(tensors), weights_(weights), units_(units), width_(padded(units)) {}

    /// Zeros that live as long as the model.
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

    /// A matrix (in, out), rows one after another, and its transpose, both in panels.
    Matrix finished(const std::vector<float>& matrix, std::size_t in, std::size_t out) {
        std::vector<float>&w = zeros(in * out), &transposed = zeros(in * out);
        for (std::size_t i = 0; i < in; ++i)
            for (std::size_t o = 0; o < out; ++o) {
                w[in_panels(i, o, in)] = matrix[i * out + o];
                transposed[in_panels(o, i, out)] = matrix[i * out + o];
            }
        return {w.data(), transposed.data(), static_cast<int>(in), static_cast<int>(out)};
    }

    /// A whole layer (in -> out).
    Matrix matrix(const std::string& name, std::size_t in, std::size_t out) {
        std::vector<float> w(padded(in) * padded(out));
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
        std::vector<float> edge(w * 2 * w);
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

BlockView read_block(Loader& load, std::size_t index, const Sizes& sizes) {
    const std::size_t u = sizes.units, n_bond = sizes.max_n, n_angle = sizes.angles();
    BlockView block{};
    const std::size_t w = padded(u), a = padded(n_angle);
    const std::string three = "three_body_interactions." + std::to_string(index) + ".";
    const std::string conv = "graph_layers." + std::to_string(index) + ".conv.";
    block.atom = load.matrix(three + "update_network_atom.layers.0.weight", u, n_angle);
    block.atom_bias = load.bias(three + "update_network_atom.layers.0.bias", n_angle);
    std::vector<float> angle(a * 2 * w);
    load.place(angle, 2 * w, 0, three + "update_network_bond.layers.0.weight", u, n_angle, 0, n_angle);
    load.place(angle, 2 * w, w, three + "update_network_bond.gates.0.weight", u, n_angle, 0, n_angle);
    block.angle = load.finished(angle, a, 2 * w);
    std::vector<float> source(w * 4 * w), target(w * 4 * w);
    std::vector<float>& bias = load.zeros(4 * w);
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

/// Refuses what the kernels do not evaluate.
void check_kind(const Json& architecture) {
    const auto flag = [&](const char* key, bool otherwise) {
        const Json* value = option(architecture, key);
        return value ? value->as_bool(key) : otherwise;
    };
    if (flag("is_intensive", true)) not_covered("is_intensive");
    if (flag("include_state", false)) not_covered("include_state");
    if (!flag("use_smooth", false)) not_covered("use_smooth = false");
    if (flag("use_phi", false)) not_covered("use_phi");
    if (const Json* kind = option(architecture, "rbf_type"))
        if (kind->as_string("rbf_type") != "SphericalBessel") not_covered("rbf_type " + kind->string);
    if (const Json* kind = option(architecture, "activation_type"))
        if (kind->as_string("activation_type") != "swish") not_covered("activation_type " + kind->string);
}

Sizes read_sizes(const Json& architecture) {
    const auto size_of = [&](const char* key) { return architecture.at(key).as_size(key); };
    const Sizes sizes{size_of("units"), size_of("nblocks"), size_of("max_n"), size_of("max_l")};
    if (size_of("dim_node_embedding") != sizes.units || size_of("dim_edge_embedding") != sizes.units)
        not_covered("features of different widths");
    if (sizes.max_l < 1 || sizes.max_l > 4) not_covered("max_l " + std::to_string(sizes.max_l) + " (1 ... 4 are covered)");
    if (sizes.max_n < 1 || sizes.angles() + 1 > model_most_waves)
        not_covered("max_n * max_l = " + std::to_string(sizes.angles()));
    if (sizes.n_blocks < 1 || sizes.units < 1 || sizes.units > 4096) throw JsonError("units or nblocks are out of range");
    return sizes;
}

void read_elements(const Json& header, ModelWeights& weights) {
    for (const Json& symbol : header.at("architecture").at("element_types").as_array("element_types")) {
        const std::string& name = symbol.as_string("an element");
        const int number = atomic_number(name);
        if (number == 0) throw JsonError("'" + name + "' is not a chemical symbol");
        if (std::count(weights.numbers.begin(), weights.numbers.end(), number) > 0)
            throw JsonError("'" + name + "' occurs twice in element_types");
        weights.numbers.push_back(number);
        weights.references.push_back(header.at("reference_energies").at(name.c_str()).as_number("a reference energy"));
    }
    weights.scale = header.at("energy_scale").as_number("energy_scale");
    if (header.at("energy_offset").as_number("energy_offset") != 0) not_covered("an energy offset per structure");
}

/// Widths, cutoffs and the matrices of the radial functions.
void read_radial(const Json& architecture, const Sizes& sizes, ModelWeights& weights) {
    auto& model = weights.model;
    model.units = static_cast<int>(padded(sizes.units));
    model.n_bond = static_cast<int>(sizes.max_n);
    model.n_angle = static_cast<int>(sizes.angles());
    model.bond_width = static_cast<int>(padded(sizes.max_n));
    model.angle_width = static_cast<int>(padded(sizes.angles()));
    model.l_max = static_cast<int>(sizes.max_l);
    model.n_max = static_cast<int>(sizes.max_n);
    model.cutoff = architecture.at("cutoff").as_number("cutoff");
    model.threebody_cutoff = architecture.at("threebody_cutoff").as_number("threebody_cutoff");
    if (!(model.cutoff <= largest_cutoff && model.threebody_cutoff > 0 && model.threebody_cutoff <= model.cutoff))
        throw JsonError("its cutoffs are out of range");
    weights.bond_matrix = radial_matrix(model.n_bond, model.cutoff);
    weights.angle_matrix = radial_matrix(model.n_angle, model.cutoff);
    model.bond_matrix = weights.bond_matrix.data();
    model.angle_matrix = weights.angle_matrix.data();
}

void read_embedding(const Tensors& tensors, const Sizes& sizes, Loader& load, ModelWeights& weights) {
    const std::size_t u = sizes.units, n_elements = weights.numbers.size();
    weights.model.embedding = load.matrix("embedding.layer_edge_embedding.layers.0.weight", sizes.max_n, u);
    weights.model.embedding_bias = load.bias("embedding.layer_edge_embedding.layers.0.bias", u);
    const std::vector<float> table = tensors.singles("embedding.layer_node_embedding.weight", {n_elements, u});
    weights.embedding.resize(n_elements * padded(u));
    for (std::size_t k = 0; k < n_elements; ++k)
        std::copy_n(table.begin() + static_cast<std::ptrdiff_t>(k * u), u,
                    weights.embedding.begin() + static_cast<std::ptrdiff_t>(k * padded(u)));
}

ReadoutView read_readout(const Tensors& tensors, std::size_t u, Loader& load) {
    const std::string net = "final_layer.gated.";
    ReadoutView readout{};
    for (int k = 0; k < 3; ++k) {
        const std::string layer = std::to_string(2 * k);
        readout.value[k] = load.matrix(net + "layers." + layer + ".weight", u, u);
        readout.gate[k] = load.matrix(net + "gates." + layer + ".weight", u, u);
        readout.value_bias[k] = load.bias(net + "layers." + layer + ".bias", u);
        readout.gate_bias[k] = load.bias(net + "gates." + layer + ".bias", u);
    }
    const auto last = [&](const std::string& name, float& bias) {
        std::vector<float>& row = load.zeros(padded(u));
        const std::vector<float> w = tensors.singles(name + ".weight", {1, u});
        std::copy(w.begin(), w.end(), row.begin());
        bias = tensors.singles(name + ".bias", {1})[0];
        return row.data();
    };
    readout.value_last = last(net + "layers.6", readout.value_last_bias);
    readout.gate_last = last(net + "gates.6", readout.gate_last_bias);
    return readout;
}

} // namespace

std::shared_ptr<const ModelWeights> read_model(const char* data, std::size_t size) {
    const Safetensors file(data, size, {"F32", "F64", "I64"});
    const std::string& text = file.header.at("__metadata__").at("ideal").as_string("the header 'ideal'");
    const Json header = Json::parse(text.data(), text.size());
    const std::string& format = header.at("format").as_string("format");
    if (format != format_name) throw JsonError("it has format '" + format + "'; this program reads " + format_name);
    const Json& architecture = header.at("architecture");
    const Sizes sizes = read_sizes(architecture);
    check_kind(architecture);

    auto weights = std::make_shared<ModelWeights>();
    read_elements(header, *weights);
    read_radial(architecture, sizes, *weights);
    Loader load(file.tensors, *weights, sizes.units);
    read_embedding(file.tensors, sizes, load, *weights);
    for (std::size_t k = 0; k < sizes.n_blocks; ++k) weights->blocks.push_back(read_block(load, k, sizes));
    weights->readout = read_readout(file.tensors, sizes.units, load);
    return weights;
}

} // namespace ideal::detail
