// M3GNet: forces and virial against finite differences of the energy, a cell against its supercell (one chunk of atoms
// against several), ranks without atoms, models that follow each other in one evaluator, damaged files.
#include "check.hpp"
#include "sample.hpp"

#include "ideal/errors.hpp"
#include "ideal/instruction_set.hpp"
#include "ideal/m3gnet.hpp"
#include "json.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr double cutoff = 4.0, threebody_cutoff = 3.5;

struct Sizes {
    std::size_t blocks = 2, units = 12, max_n = 3, max_l = 3;
};

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const std::size_t at = text.find(from);
    CHECK(at != std::string::npos);
    return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

// ---- a model file in memory ---------------------------------------------------------------------------------------------

/// What a network of these sizes has: name of an array, its shape.
std::map<std::string, std::vector<std::size_t>> arrays_of(const Sizes& sizes) {
    const std::size_t u = sizes.units, n = sizes.max_n, a = sizes.max_n * sizes.max_l;
    std::map<std::string, std::vector<std::size_t>> arrays;
    const auto layer = [&](const std::string& name, std::size_t out, std::size_t in, bool bias = true) {
        arrays[name + ".weight"] = {out, in};
        if (bias) arrays[name + ".bias"] = {out};
    };
    layer("embedding.layer_edge_embedding.layers.0", u, n);
    layer("embedding.layer_node_embedding", 2, u, false);
    for (std::size_t k = 0; k < sizes.blocks; ++k) {
        const std::string three = "three_body_interactions." + std::to_string(k) + ".update_network_";
        const std::string conv = "graph_layers." + std::to_string(k) + ".conv.";
        layer(three + "atom.layers.0", a, u);
        layer(three + "bond.layers.0", u, a, false);
        layer(three + "bond.gates.0", u, a, false);
        for (const char* net : {"edge", "node"}) {
            layer(conv + net + "_weight_func", u, n, false);
            for (const char* side : {"layers.", "gates."})
                for (const char* depth : {"0", "2", "4"})
                    layer(conv + net + "_update_func." + side + depth, u, *depth == '0' ? 3 * u : u);
        }
    }
    for (const char* side : {"layers.", "gates."})
        for (const char* depth : {"0", "2", "4", "6"})
            layer(std::string("final_layer.gated.") + side + depth, *depth == '6' ? 1 : u, u);
    return arrays;
}

std::string description(const Sizes& sizes) {
    const auto number = [](std::size_t value) { return std::to_string(value); };
    return R"({"architecture": {"cutoff": 4.0, "threebody_cutoff": 3.5, "dim_edge_embedding": )" + number(sizes.units) +
           R"(, "dim_node_embedding": )" + number(sizes.units) + R"(, "element_types": ["Na", "Cl"], "is_intensive": false)" +
           R"(, "max_l": )" + number(sizes.max_l) + R"(, "max_n": )" + number(sizes.max_n) + R"(, "nblocks": )" +
           number(sizes.blocks) + R"(, "rbf_type": "SphericalBessel", "units": )" + number(sizes.units) +
           R"(, "use_smooth": true}, "energy_offset": 0.0, "energy_scale": 3.0, "format": "m3gnet-1", )" +
           R"("reference_energies": {"Cl": -2.5, "Na": -1.25}})";
}

struct File {
    std::string header, data;

    std::string content() const {
        std::string length(8, '\0');
        for (int k = 0; k < 8; ++k) length[static_cast<std::size_t>(k)] = static_cast<char>(header.size() >> 8 * k & 0xFF);
        return length + header + data;
    }
};

File model_file(const Sizes& sizes, unsigned seed) {
    std::mt19937 generator(seed);
    std::uniform_real_distribution<float> uniform(-1, 1);
    File file;
    file.header = "{\"__metadata__\": {\"ideal\": " + ideal::detail::json_string(description(sizes)) + "}";
    for (const auto& [name, shape] : arrays_of(sizes)) {
        std::size_t count = 1;
        std::string extents;
        for (const std::size_t extent : shape) {
            count *= extent;
            extents += (extents.empty() ? "" : ", ") + std::to_string(extent);
        }
        const std::size_t begin = file.data.size();
        const float width = 3.5f / std::sqrt(static_cast<float>(shape.back()));
        for (std::size_t k = 0; k < count; ++k) {
            const float value = width * uniform(generator);
            char bytes[4];
            std::memcpy(bytes, &value, 4);
            file.data.append(bytes, 4);
        }
        file.header += ", \"" + name + "\": {\"dtype\": \"F32\", \"shape\": [" + extents + "], \"data_offsets\": [" +
                       std::to_string(begin) + ", " + std::to_string(file.data.size()) + "]}";
    }
    file.header += "}";
    return file;
}

ideal::M3GNet model_of(const Sizes& sizes, unsigned seed = 1) {
    const std::string content = model_file(sizes, seed).content();
    return ideal::M3GNet::parse(content.data(), content.size(), "it");
}

// ---- a periodic structure as local atoms and ghosts -----------------------------------------------------------------------

struct Evaluated {
    double energy = 0;
    std::vector<double> energies, forces; // (atoms), (atoms, 3)
    std::vector<double> virial, atom_virials; // (6), sum over atoms (6)
};

/// As LAMMPS does it on one rank: each image that may be a neighbor is a ghost, fed by its owner.
Evaluated evaluate(const ideal::M3GNet& model, const Sample& sample, ideal::M3GNetEvaluator& evaluator) {
    const int n = static_cast<int>(sample.numbers.size());
    std::vector<double> positions = sample.positions;
    std::vector<int> owner;
    for (int i = 0; i < n; ++i) owner.push_back(i);
    for (int a = -2; a <= 2; ++a)
        for (int b = -2; b <= 2; ++b)
            for (int c = -2; c <= 2; ++c)
                for (int i = 0; i < n && (a != 0 || b != 0 || c != 0); ++i) {
                    owner.push_back(i);
                    for (int d = 0; d < 3; ++d)
                        positions.push_back(sample.positions[3 * i + d] + a * sample.cell[d] + b * sample.cell[3 + d] +
                                            c * sample.cell[6 + d]);
                }
    const int n_all = static_cast<int>(owner.size());
    std::vector<int> types, target;
    for (const int i : owner) types.push_back(sample.numbers[i] == 11 ? 0 : 1);
    std::vector<long long> first{0};
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n_all; ++j) {
            double square = 0;
            for (int d = 0; d < 3; ++d) square += std::pow(positions[3 * j + d] - positions[3 * i + d], 2);
            if (j != i && square <= cutoff * cutoff) target.push_back(j);
        }
        first.push_back(static_cast<long long>(target.size()));
    }
    const std::size_t row = static_cast<std::size_t>(model.row());
    ideal::Exchange exchange;
    exchange.send = [&](float* rows) {
        for (int i = n; i < n_all; ++i) std::copy_n(rows + owner[i] * row, row, rows + i * row);
    };
    exchange.collect = [&](float* rows) {
        for (int i = n; i < n_all; ++i)
            for (std::size_t k = 0; k < row; ++k) rows[owner[i] * row + k] += rows[i * row + k];
    };
    Evaluated found;
    found.energies.resize(n);
    found.virial.resize(6);
    found.atom_virials.resize(6);
    std::vector<double> forces(3 * owner.size()), atom_virials(6 * owner.size());
    evaluator.evaluate(model, {n, n_all, positions.data(), types.data(), first.data(), target.data()}, exchange,
                       {found.energies.data(), forces.data(), found.virial.data(), atom_virials.data()});
    found.forces.resize(3 * static_cast<std::size_t>(n));
    for (int i = 0; i < n_all; ++i) {
        for (int d = 0; d < 3; ++d) found.forces[3 * owner[i] + d] += forces[3 * i + d];
        for (int d = 0; d < 6; ++d) found.atom_virials[d] += atom_virials[6 * i + d];
    }
    for (const double energy : found.energies) found.energy += energy;
    return found;
}

Evaluated evaluate(const ideal::M3GNet& model, const Sample& sample) {
    ideal::M3GNetEvaluator evaluator;
    return evaluate(model, sample, evaluator);
}

double largest(const std::vector<double>& values) {
    double most = 0;
    for (const double value : values) most = std::max(most, std::abs(value));
    return most;
}

double difference(const std::vector<double>& a, const std::vector<double>& b) {
    double most = a.size() == b.size() ? 0 : std::numeric_limits<double>::infinity();
    for (std::size_t k = 0; k < a.size() && k < b.size(); ++k) most = std::max(most, std::abs(a[k] - b[k]));
    return most;
}

/// Atoms within their cell: random_sample puts some outside of periodic axes, which this test's images do not reach.
Sample within_cell(int n, unsigned seed, double edge) { return random_sample(n, seed, {false, false, false}, edge); }

/// x -> (1 + e) x for one element (a, b) of the strain.
Sample strained(Sample sample, int a, int b, double strain) {
    for (std::size_t k = 0; k < sample.positions.size(); k += 3) sample.positions[k + a] += strain * sample.positions[k + b];
    for (std::size_t k = 0; k < 9; k += 3) sample.cell[k + a] += strain * sample.cell[k + b];
    return sample;
}

// ---- the tests --------------------------------------------------------------------------------------------------------

/// Fourth-order central difference.
template <class Energy>
double slope(const Energy& energy, double step) {
    return (8 * (energy(step) - energy(-step)) - (energy(2 * step) - energy(-2 * step))) / (12 * step);
}

void derivatives(const Sizes& sizes) {
    const ideal::M3GNet model = model_of(sizes);
    const Sample sample = within_cell(6, 3, 5.0);
    const Evaluated found = evaluate(model, sample);
    const double force = largest(found.forces), virial = largest(found.virial);
    CHECK(force > 0.05 && virial > 0.05);
    for (int atom = 0; atom < 6; atom += 2)
        for (int d = 0; d < 3; ++d) {
            const auto energy = [&](double step) {
                Sample moved = sample;
                moved.positions[3 * atom + d] += step;
                return evaluate(model, moved).energy;
            };
            CHECK_NEAR(found.forces[3 * atom + d], -slope(energy, 0.01), 1e-3 * force);
        }
    const int voigt[6][2] = {{0, 0}, {1, 1}, {2, 2}, {0, 1}, {0, 2}, {1, 2}}; // LAMMPS' order
    for (int k = 0; k < 6; ++k) {
        const auto energy = [&](double strain) { return evaluate(model, strained(sample, voigt[k][0], voigt[k][1], strain)).energy; };
        CHECK_NEAR(found.virial[k], -slope(energy, 0.002), 1e-3 * virial);
    }
    CHECK(difference(found.virial, found.atom_virials) < 1e-9 * virial);
    for (int d = 0; d < 3; ++d) {
        double sum = 0;
        for (int i = 0; i < 6; ++i) sum += found.forces[3 * i + d];
        CHECK_NEAR(sum, 0, 1e-9 * force);
    }
}

/// 72 atoms and several chunks have per atom what 6 atoms have in one chunk; on every instruction set the same.
void supercell() {
    const ideal::M3GNet model = model_of({3, 20, 4, 4});
    const Sample cell = within_cell(6, 3, 5.0);
    Sample large = cell;
    large.positions.clear();
    large.numbers.clear();
    const int repeats[3] = {3, 2, 2};
    for (int a = 0; a < repeats[0]; ++a)
        for (int b = 0; b < repeats[1]; ++b)
            for (int c = 0; c < repeats[2]; ++c)
                for (std::size_t i = 0; i < cell.numbers.size(); ++i) {
                    large.numbers.push_back(cell.numbers[i]);
                    for (int d = 0; d < 3; ++d)
                        large.positions.push_back(cell.positions[3 * i + d] + a * cell.cell[d] + b * cell.cell[3 + d] +
                                                  c * cell.cell[6 + d]);
                }
    for (int k = 0; k < 9; ++k) large.cell[k] *= repeats[k / 3];
    const Evaluated small = evaluate(model, cell);
    std::vector<double> energies, forces, virial;
    for (int copy = 0; copy < 12; ++copy) {
        energies.insert(energies.end(), small.energies.begin(), small.energies.end());
        forces.insert(forces.end(), small.forces.begin(), small.forces.end());
    }
    for (const double value : small.virial) virial.push_back(12 * value);
    const std::string usual = ideal::instruction_set();
    for (const std::string& name : ideal::available_instruction_sets()) {
        ideal::select_instruction_set(name);
        const Evaluated found = evaluate(model, large);
        CHECK(difference(found.energies, energies) < 1e-5 * largest(energies));
        CHECK(difference(found.forces, forces) < 1e-4 * largest(forces));
        CHECK(difference(found.virial, virial) < 1e-5 * largest(virial));
    }
    ideal::select_instruction_set(usual);
}

/// An evaluator that has seen other models gives what a fresh one gives, to the last bit.
void reload() {
    const Sample sample = within_cell(6, 4, 5.0), small = within_cell(3, 5, 5.0);
    ideal::M3GNetEvaluator evaluator;
    for (const Sizes& sizes : {Sizes{2, 12, 3, 3}, Sizes{4, 40, 4, 4}, Sizes{1, 8, 1, 1}, Sizes{2, 12, 3, 3}}) {
        const ideal::M3GNet model = model_of(sizes, 9);
        for (const Sample& atoms : {sample, small}) {
            const Evaluated used = evaluate(model, atoms, evaluator), fresh = evaluate(model, atoms);
            CHECK(used.energies == fresh.energies);
            CHECK(used.forces == fresh.forces);
        }
    }
}

/// A rank without atoms takes part in every exchange; an atom without neighbors feels nothing.
void few_atoms() {
    const ideal::M3GNet model = model_of({3, 12, 3, 3});
    ideal::M3GNetEvaluator evaluator;
    int sent = 0, collected = 0;
    const long long first[2] = {0, 0};
    ideal::LocalGraph graph;
    graph.first_edge = first;
    const ideal::Exchange exchange{[&](float*) { ++sent; }, [&](float*) { ++collected; }};
    double energy = 0, force[3] = {0, 0, 0}, virial[6] = {0, 0, 0, 0, 0, 0};
    evaluator.evaluate(model, graph, exchange, {&energy, force, virial, nullptr});
    CHECK(sent == 2 && collected == 2 && energy == 0);
    const double position[3] = {0, 0, 0};
    const int type = 0;
    graph = {1, 1, position, &type, first, nullptr};
    evaluator.evaluate(model, graph, exchange, {&energy, force, virial, nullptr});
    CHECK(std::isfinite(energy) && energy != 0);
    for (const double value : force) CHECK(value == 0);
    for (const double value : virial) CHECK(value == 0);
}

std::string refusal(const std::string& content) {
    return check::message_of<ideal::ConfigError>([&] { ideal::M3GNet::parse(content.data(), content.size(), "it"); });
}

void damage() {
    const File good = model_file({1, 6, 2, 2}, 1);
    CHECK(refusal(good.content()).empty());
    const auto changed = [&](const std::string& from, const std::string& to) {
        return refusal(File{replaced(good.header, from, to), good.data}.content());
    };
    const std::string content = good.content();
    CHECK(contains(refusal(""), "ends before its header"));
    CHECK(contains(refusal(content.substr(0, 30)), "does not fit a file"));
    CHECK(contains(refusal(std::string(8, '\xff') + content.substr(8)), "does not fit a file"));
    CHECK(contains(refusal(content.substr(0, content.size() - 4)), "does not fit its offsets"));
    CHECK(contains(refusal(content + "1234"), "belong to no array"));
    CHECK(contains(changed("\"ideal\"", "\"other\""), "'ideal' is missing"));
    CHECK(contains(changed("m3gnet-1", "m3gnet-9"), "format 'm3gnet-9'"));
    CHECK(contains(changed("embedding.layer_node_embedding.weight", "embedding.other"), "is missing"));
    CHECK(contains(changed("\"shape\": [6, 4]", "\"shape\": [4, 6]"), "must be (6, 4) of F32"));
    CHECK(contains(changed("\"shape\": [6, 4]", "\"shape\": [4294967296, 4294967296, 16]"), "impossibly large"));
    CHECK(contains(changed("\\\"units\\\": 6", "\\\"units\\\": 7"), "features of different widths"));
    CHECK(contains(changed("\\\"nblocks\\\": 1", "\\\"nblocks\\\": 9007199254740992"), "is missing"));
    CHECK(contains(changed("\\\"nblocks\\\": 1", "\\\"nblocks\\\": 0"), "out of range"));
    CHECK(contains(changed("\\\"max_n\\\": 2", "\\\"max_n\\\": 9007199254740992"), "max_n * max_l"));
    CHECK(contains(changed("\\\"max_l\\\": 2", "\\\"max_l\\\": 9007199254740992"), "max_l 9007199254740992"));
    CHECK(contains(changed("\\\"max_l\\\": 2", "\\\"max_l\\\": -1"), "whole number"));
    CHECK(contains(changed("\\\"cutoff\\\": 4.0", "\\\"cutoff\\\": 1e300"), "cutoffs are out of range"));
    CHECK(contains(changed("\\\"threebody_cutoff\\\": 3.5", "\\\"threebody_cutoff\\\": 4.5"), "cutoffs are out of range"));
    CHECK(contains(changed("\\\"Cl\\\"]", "\\\"Xx\\\"]"), "not a chemical symbol"));
    CHECK(contains(changed("\\\"Cl\\\"]", "\\\"Na\\\"]"), "occurs twice"));
    CHECK(contains(changed("{\\\"Cl\\\": -2.5, ", "{"), "'Cl' is missing"));
    CHECK(contains(changed("\\\"energy_offset\\\": 0.0", "\\\"energy_offset\\\": 1.0"), "an energy offset"));
    CHECK(contains(changed("\\\"use_smooth\\\": true", "\\\"use_smooth\\\": false"), "use_smooth"));
    CHECK(contains(changed("SphericalBessel", "Gaussian"), "rbf_type Gaussian"));

    File numbers = good;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(&numbers.data[8], &nan, 4);
    CHECK(contains(refusal(numbers.content()), "not finite"));

    // Random damage: an error or a model, never anything else (run under the sanitizers).
    std::mt19937 generator(7);
    int refused = 0;
    for (int trial = 0; trial < 500; ++trial) {
        std::string text = content;
        const std::size_t region = 8 + good.header.size();
        for (unsigned k = 0, n = 1 + generator() % 4; k < n; ++k) {
            const std::size_t at = generator() % region;
            switch (generator() % 3) {
            case 0: text[at] = static_cast<char>(generator()); break;
            case 1: text[at] = static_cast<char>(text[at] ^ (1 << generator() % 8)); break;
            default: text.erase(at, 1 + generator() % 9);
            }
        }
        refused += !refusal(text).empty();
    }
    CHECK(refused > 250);
}

} // namespace

int main() {
    damage();
    for (const Sizes& sizes : {Sizes{1, 8, 1, 1}, Sizes{2, 12, 3, 3}, Sizes{3, 20, 4, 4}}) derivatives(sizes);
    supercell();
    reload();
    few_atoms();
    return check::result();
}
