#include "ideal/state_file.hpp"

#include "ideal/elements.hpp"
#include "ideal/errors.hpp"
#include "json.hpp"
#include "safetensors.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <new>
#include <utility>
#include <vector>

#ifdef _WIN32
#include <process.h>
#define getpid _getpid
#else
#include <unistd.h>
#endif

namespace ideal {
namespace {

using detail::Json;
using detail::JsonError;
using detail::Tensor;
using detail::Tensors;

constexpr const char* format_name = "ideal.SoapMahalanobis";
constexpr const char* format_version = "1";
constexpr const char* all_species = "all";

int known_atomic_number(const std::string& symbol) {
    const int number = atomic_number(symbol);
    if (number == 0) throw JsonError("'" + symbol + "' is not a chemical symbol");
    return number;
}

[[noreturn]] void damaged(const std::string& why) { throw JsonError(why); }

// ---- parameters ------------------------------------------------------------------------------------------------------

SoapParameters soap_parameters(const Json& json) {
    SoapParameters parameters;
    const Json* weights = nullptr; // by symbol; they need the species first
    for (const auto& [key, value] : json.as_object("soap")) {
        if (key == "species") {
            for (const Json& symbol : value.as_array("species"))
                parameters.numbers.push_back(known_atomic_number(symbol.as_string("a species")));
        } else if (key == "r_cut") parameters.r_cut = value.as_number("r_cut");
        else if (key == "n_max") parameters.n_max = static_cast<int>(std::min<std::size_t>(999, value.as_size("n_max")));
        else if (key == "l_max") parameters.l_max = static_cast<int>(std::min<std::size_t>(999, value.as_size("l_max")));
        else if (key == "sigma") parameters.sigma = value.as_number("sigma");
        else if (key == "taper") parameters.taper = value.as_bool("taper");
        else if (key == "radial_basis") parameters.radial_basis = radial_basis_named(value.as_string("radial_basis"));
        else if (key == "compression") parameters.compression = compression_named(value.as_string("compression"));
        else if (key == "outer_support") parameters.outer_support = value.as_bool("outer_support");
        else if (key == "species_weights") weights = &value;
        else damaged("the descriptor has a parameter that this program does not know, '" + key + "'; use a newer one");
    }
    for (const char* key : {"species", "r_cut", "n_max", "l_max", "sigma", "taper"}) json.at(key);
    if (weights && weights->kind != Json::Kind::null)
        for (const int number : parameters.numbers) {
            const char* symbol = chemical_symbol(number);
            parameters.species_weights.push_back(weights->at(symbol).as_number("a species weight"));
        }
    return parameters;
}

std::string soap_json(const SoapParameters& parameters) {
    std::string species, weights;
    for (std::size_t i = 0; i < parameters.numbers.size(); ++i) {
        const std::string symbol = detail::json_string(chemical_symbol(parameters.numbers[i]));
        species += (i ? ", " : "") + symbol;
        if (!parameters.species_weights.empty())
            weights += (i ? ", " : "") + symbol + ": " + detail::json_number(parameters.species_weights[i]);
    }
    return "{\"species\": [" + species + "], \"r_cut\": " + detail::json_number(parameters.r_cut) +
           ", \"n_max\": " + std::to_string(parameters.n_max) + ", \"l_max\": " + std::to_string(parameters.l_max) +
           ", \"sigma\": " + detail::json_number(parameters.sigma) +
           ", \"taper\": " + (parameters.taper ? "true" : "false") + ", \"radial_basis\": \"" +
           name_of(parameters.radial_basis) + "\", \"compression\": \"" + name_of(parameters.compression) +
           "\", \"outer_support\": " + (parameters.outer_support ? "true" : "false") +
           ", \"species_weights\": " + (weights.empty() ? "null" : "{" + weights + "}") + "}";
}

Json parsed(const Json& metadata, const char* key) {
    const std::string& text = metadata.at(key).as_string(key);
    return Json::parse(text.data(), text.size());
}

MahalanobisParameters mahalanobis_parameters(const Json& metadata) {
    using Kind = MetricParameters::Kind;
    MahalanobisParameters parameters;
    parameters.metric.relative_ridge = parsed(metadata, "ridge").as_number("ridge");
    if (metadata.object.count("per_species"))
        parameters.per_species = parsed(metadata, "per_species").as_bool("per_species");
    if (metadata.object.count("metric")) {
        const std::string kind = parsed(metadata, "metric").as_string("metric");
        if (kind == "full") parameters.metric.kind = Kind::full;
        else if (kind == "low_rank") parameters.metric.kind = Kind::low_rank;
        else if (kind != "auto") damaged("metric '" + kind + "' is none of auto, full, low_rank");
    }
    if (metadata.object.count("rank")) {
        const Json rank = parsed(metadata, "rank");
        if (rank.kind != Json::Kind::null) parameters.metric.rank = rank.as_size("rank");
    }
    return parameters;
}

/// Names of the distributions in the file, and of all arrays that may be there.
std::vector<std::string> distribution_names(const SoapMahalanobis& uncertainty) {
    if (!uncertainty.parameters().per_species) return {all_species};
    std::vector<std::string> names;
    for (const int number : uncertainty.soap().parameters().numbers)
        names.emplace_back(chemical_symbol(number));
    return names;
}

std::unique_ptr<SoapMahalanobis> parse(const char* data, std::size_t size) {
    const detail::Safetensors file(data, size, {"F64", "I64"});
    const Tensors& tensors = file.tensors;
    const Json& header = file.header;
    const Json& metadata = header.at("__metadata__");
    metadata.as_object("__metadata__");
    if (metadata.at("format").as_string("format") != format_name) damaged("it is not a SoapMahalanobis state");
    const std::string& version = metadata.at("version").as_string("version");
    if (version != format_version) damaged("it has version " + version + "; this program reads version 1");

    const SoapPowerSpectrum soap(soap_parameters(parsed(metadata, "soap")));
    auto uncertainty = std::make_unique<SoapMahalanobis>(soap, mahalanobis_parameters(metadata));
    const std::vector<std::string> names = distribution_names(*uncertainty);
    std::vector<std::string> elements;
    for (const int number : soap.parameters().numbers) elements.emplace_back(chemical_symbol(number));
    for (const Tensor& tensor : tensors.all()) {
        const std::size_t dot = std::min(tensor.name.rfind('.'), tensor.name.size());
        const std::string owner = tensor.name.substr(0, dot), kind = tensor.name.substr(dot);
        const bool known = std::find(names.begin(), names.end(), owner) != names.end() &&
                           (kind == ".count" || kind == ".mean" || kind == ".scatter");
        const bool counted = std::find(elements.begin(), elements.end(), owner) != elements.end() && kind == ".count";
        if (!known && !counted) damaged("array " + tensor.name + " belongs to no element of its descriptor");
    }
    const std::size_t n = soap.n_features();
    for (std::size_t index = 0; index < names.size(); ++index) {
        const std::string& name = names[index];
        if (!tensors.has(name + ".count") && !tensors.has(name + ".mean") && !tensors.has(name + ".scatter")) continue;
        Distribution distribution;
        distribution.dimension = n;
        distribution.count = tensors.count(name + ".count");
        distribution.mean = tensors.numbers(name + ".mean", {n});
        distribution.scatter = tensors.numbers(name + ".scatter", {n, n});
        uncertainty->set_distribution(index, std::move(distribution));
    }
    if (!uncertainty->parameters().per_species) {
        std::vector<std::size_t> counts;
        for (const std::string& element : elements)
            counts.push_back(tensors.has(element + ".count") ? tensors.count(element + ".count") : 0);
        uncertainty->set_counts(std::move(counts));
    }
    return uncertainty;
}

void append(std::string& bytes, const void* data, std::size_t size) {
    bytes.append(static_cast<const char*>(data), size);
}

} // namespace

std::unique_ptr<SoapMahalanobis> parse_state(const char* data, std::size_t size, const std::string& name) {
    try {
        return parse(data, size);
    } catch (const JsonError& error) {
        throw UncertaintyError(name + " cannot be read as a state of SoapMahalanobis: " + error.what());
    } catch (const Error& error) {
        throw UncertaintyError(name + " cannot be read as a state of SoapMahalanobis: " + error.what());
    } catch (const std::bad_alloc&) {
        throw UncertaintyError(name + " cannot be read as a state of SoapMahalanobis: not enough memory for its "
                                      "descriptor's statistics");
    }
}

std::unique_ptr<SoapMahalanobis> read_state(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) throw UncertaintyError(path + " cannot be opened (" + std::strerror(errno) + ")");
    const std::streamoff size = file.tellg();
    if (size < 0) throw UncertaintyError(path + " cannot be read; it must be a file");
    std::vector<char> content(static_cast<std::size_t>(size));
    file.seekg(0);
    if (!file.read(content.data(), size)) throw UncertaintyError(path + " cannot be read to its end");
    return parse_state(content.data(), content.size(), path);
}

void write_state(const SoapMahalanobis& uncertainty, const std::string& path) {
    using Kind = MetricParameters::Kind;
    const MahalanobisParameters& parameters = uncertainty.parameters();
    const SoapParameters& soap = uncertainty.soap().parameters();
    const std::vector<std::string> names = distribution_names(uncertainty);
    std::string entries, data;
    const auto add = [&](const std::string& name, const char* type, const std::string& shape, const void* values,
                         std::size_t bytes) {
        entries += ", " + detail::json_string(name) + ": {\"dtype\": \"" + type + "\", \"shape\": [" + shape +
                   "], \"data_offsets\": [" + std::to_string(data.size()) + ", " + std::to_string(data.size() + bytes) +
                   "]}";
        append(data, values, bytes);
    };
    const auto add_count = [&](const std::string& name, std::size_t count) {
        const std::int64_t value = static_cast<std::int64_t>(count);
        add(name + ".count", "I64", "1", &value, sizeof value);
    };
    for (std::size_t index = 0; index < names.size(); ++index) {
        Distribution d = uncertainty.distribution(index);
        if (d.count == 0) continue;
        const std::size_t n = d.dimension;
        for (std::size_t i = 0; i < n; ++i)
            for (std::size_t j = 0; j < i; ++j) d.scatter[j * n + i] = d.scatter[i * n + j];
        add_count(names[index], d.count);
        add(names[index] + ".mean", "F64", std::to_string(n), d.mean.data(), 8 * n);
        add(names[index] + ".scatter", "F64", std::to_string(n) + ", " + std::to_string(n), d.scatter.data(), 8 * n * n);
    }
    if (!parameters.per_species)
        for (std::size_t k = 0; k < soap.numbers.size(); ++k)
            if (uncertainty.count(k) > 0)
                add_count(chemical_symbol(soap.numbers[k]), uncertainty.count(k));
    const char* kind = parameters.metric.kind == Kind::full       ? "\"full\""
                       : parameters.metric.kind == Kind::low_rank ? "\"low_rank\""
                                                                  : "\"auto\"";
    const std::string rank = parameters.metric.rank == 0 ? "null" : std::to_string(parameters.metric.rank);
    std::string header = "{\"__metadata__\": {\"format\": " + detail::json_string(format_name) +
                         ", \"version\": " + detail::json_string(format_version) +
                         ", \"soap\": " + detail::json_string(soap_json(soap)) +
                         ", \"ridge\": " + detail::json_string(detail::json_number(parameters.metric.relative_ridge)) +
                         ", \"per_species\": " + (parameters.per_species ? "\"true\"" : "\"false\"") +
                         ", \"metric\": " + detail::json_string(kind) + ", \"rank\": " + detail::json_string(rank) +
                         "}" + entries + "}";
    header.resize((header.size() + 7) / 8 * 8, ' '); // arrays begin at a multiple of 8
    std::string length(8, '\0');
    for (int k = 0; k < 8; ++k) length[static_cast<std::size_t>(k)] = static_cast<char>(header.size() >> 8 * k & 0xFF);

    const std::string temporary = path + "." + std::to_string(getpid()) + ".part";
    const auto refuse = [&](const char* what) {
        const std::string reason = std::strerror(errno);
        std::remove(temporary.c_str());
        throw UncertaintyError(path + " cannot be " + what + " (" + reason + "); make room or choose another one");
    };
    {
        std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
        if (!file) refuse("written");
        file.write(length.data(), 8);
        file.write(header.data(), static_cast<std::streamsize>(header.size()));
        file.write(data.data(), static_cast<std::streamsize>(data.size()));
        file.close();
        if (!file) refuse("written");
    }
    if (std::rename(temporary.c_str(), path.c_str()) != 0) refuse("replaced");
}

} // namespace ideal
