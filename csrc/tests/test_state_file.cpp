// State files: round trip, damage of every kind, and random damage (a fuzzer's seed corpus in a loop).
#include "check.hpp"
#include "sample.hpp"

#include "ideal/errors.hpp"
#include "ideal/state_file.hpp"
#include "json.hpp"

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace {

using ideal::UncertaintyError;

ideal::SoapMahalanobis trained(bool per_species, ideal::MetricParameters::Kind kind) {
    ideal::SoapParameters soap;
    soap.numbers = {11, 17};
    soap.r_cut = 3.5;
    soap.n_max = 3;
    soap.l_max = 2;
    soap.sigma = 0.1 + 0.2; // not a short decimal
    ideal::MahalanobisParameters parameters;
    parameters.per_species = per_species;
    parameters.metric.kind = kind;
    parameters.metric.relative_ridge = 1e-7 / 3;
    return {ideal::SoapPowerSpectrum(soap), parameters};
}

std::string content_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::string refusal(const std::string& content) {
    return check::message_of<UncertaintyError>([&] { ideal::parse_state(content.data(), content.size(), "it"); });
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

void round_trip(const std::string& path) {
    using Kind = ideal::MetricParameters::Kind;
    for (bool per_species : {true, false})
        for (Kind kind : {Kind::automatic, Kind::full, Kind::low_rank}) {
            auto uncertainty = trained(per_species, kind);
            for (unsigned seed = 0; seed < 8; ++seed) {
                const Sample sample = random_sample(12, seed, {true, true, true});
                uncertainty.update(sample.view(), sample.all());
            }
            ideal::write_state(uncertainty, path);
            const auto loaded = ideal::read_state(path);
            CHECK(loaded->parameters().per_species == per_species);
            CHECK(loaded->parameters().metric.kind == kind);
            CHECK(loaded->parameters().metric.relative_ridge == 1e-7 / 3);
            CHECK(loaded->soap().parameters().sigma == 0.1 + 0.2);
            CHECK(loaded->count(0) == 32 && loaded->count(1) == 64);
            const Sample sample = random_sample(12, 77, {true, false, true});
            std::vector<double> u(12), again(12);
            uncertainty.atomic(sample.view(), sample.all(), u.data());
            loaded->atomic(sample.view(), sample.all(), again.data());
            for (int i = 0; i < 12; ++i) CHECK(u[i] == again[i]); // to the last bit
        }
    const auto empty = trained(true, Kind::full);
    ideal::write_state(empty, path);
    CHECK(ideal::read_state(path)->count(0) == 0);
}

/// Every option of the descriptor comes back.
void options(const std::string& path) {
    for (const char* compression : {"off", "mu2", "mu1nu1", "crossover"}) {
        ideal::SoapParameters soap;
        soap.numbers = {8, 11};
        soap.n_max = 2;
        soap.l_max = 1;
        soap.radial_basis = ideal::RadialBasis::polynomial;
        soap.compression = ideal::compression_named(compression);
        soap.outer_support = false;
        soap.species_weights = {0.1, 1.0 / 3};
        ideal::write_state(ideal::SoapMahalanobis(ideal::SoapPowerSpectrum(soap)), path);
        CHECK(ideal::read_state(path)->soap().parameters() == soap);
    }
}

std::string with_header(const std::string& header, const std::string& data) {
    std::string content(8, '\0');
    for (int k = 0; k < 8; ++k) content[static_cast<std::size_t>(k)] = static_cast<char>(header.size() >> 8 * k & 0xFF);
    return content + header + data;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const std::size_t at = text.find(from);
    CHECK(at != std::string::npos);
    return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

void damage(const std::string& path) {
    auto uncertainty = trained(true, ideal::MetricParameters::Kind::full);
    for (unsigned seed = 0; seed < 3; ++seed) {
        const Sample sample = random_sample(6, seed, {true, true, true});
        uncertainty.update(sample.view(), sample.all());
    }
    ideal::write_state(uncertainty, path);
    const std::string good = content_of(path);
    CHECK(refusal(good).empty());
    std::size_t length = 0;
    std::memcpy(&length, good.data(), 8);
    const std::string header = good.substr(8, length), data = good.substr(8 + length);
    const auto changed = [&](const std::string& from, const std::string& to) {
        return refusal(with_header(replaced(header, from, to), data));
    };

    CHECK(contains(refusal(""), "ends before its header"));
    CHECK(contains(refusal(good.substr(0, 20)), "does not fit a file"));
    CHECK(contains(refusal(std::string(8, '\xff') + good.substr(8)), "does not fit a file"));
    CHECK(contains(refusal(good.substr(0, good.size() - 8)), "does not fit its offsets"));
    CHECK(contains(refusal(good + "12345678"), "belong to no array"));
    CHECK(contains(changed("{\"__metadata__\"", "[\"__metadata__\""), "at byte"));
    CHECK(contains(changed("\"version\": \"1\"", "\"version\": \"7\""), "version 7"));
    CHECK(contains(changed("ideal.Soap", "other.Soap"), "not a SoapMahalanobis"));
    CHECK(contains(changed("\"dtype\": \"F64\"", "\"dtype\": \"F32\""), "dtype F32"));
    CHECK(contains(changed("\"data_offsets\": [0, 8]", "\"data_offsets\": [8, 0]"), "does not fit its offsets"));
    CHECK(contains(changed("\"data_offsets\": [0, 8]", "\"data_offsets\": [8, 16]"), "overlap or leave a gap"));
    CHECK(contains(changed("\"shape\": [1]", "\"shape\": [-1]"), "whole number"));
    CHECK(contains(changed("\"shape\": [1]", "\"shape\": [4294967296, 4294967296, 16]"), "impossibly large"));
    CHECK(contains(changed("\"shape\": [1]", "\"shape\": [1e400]"), "out of range"));
    CHECK(contains(changed("\"Na.count\"", "\"Li.count\""), "Li.count belongs to no element"));
    CHECK(contains(changed("\"Na.count\"", "\"Cl.count\""), "occurs twice"));
    CHECK(contains(changed("\\\"Na\\\"", "\\\"Xx\\\""), "not a chemical symbol"));
    CHECK(contains(changed("\\\"n_max\\\": 3", "\\\"n_max\\\": 99"), "n_max = 99"));
    CHECK(contains(changed("\\\"n_max\\\": 3", "\\\"n_max\\\": 4"), "Na.mean must be"));
    CHECK(contains(changed("\\\"taper\\\"", "\\\"wings\\\""), "does not know, 'wings'"));
    CHECK(contains(changed("\"metric\": \"\\\"full\\\"\"", "\"metric\": \"\\\"best\\\"\""), "none of auto"));
    CHECK(contains(changed("\"rank\": \"null\"", "\"rank\": \"12345\""), "rank = 12345"));
    CHECK(contains(refusal(with_header(std::string(100, '['), data)), "too deep"));

    std::string numbers = data;
    const double nan = std::numeric_limits<double>::quiet_NaN();
    std::memcpy(&numbers[8], &nan, 8);
    CHECK(contains(refusal(with_header(header, numbers)), "not finite"));
    numbers = data;
    numbers[7] = '\x80';
    CHECK(contains(refusal(with_header(header, numbers)), "count is -"));

    // Random damage: an error or a state, never anything else (run under the sanitizers).
    std::mt19937 generator(7);
    int refused = 0;
    for (int trial = 0; trial < 2000; ++trial) {
        std::string content = good;
        const std::size_t region = trial % 4 == 0 ? content.size() : 8 + length;
        for (unsigned k = 0, n = 1 + generator() % 4; k < n; ++k) {
            const std::size_t at = generator() % region;
            switch (generator() % 4) {
            case 0: content[at] = static_cast<char>(generator()); break;
            case 1: content[at] = static_cast<char>(content[at] ^ (1 << generator() % 8)); break;
            case 2: content.erase(at, 1 + generator() % 9); break;
            default: content.insert(at, content.substr(generator() % region, 1 + generator() % 9));
            }
            if (content.size() < region) break;
        }
        refused += !refusal(content).empty();
    }
    CHECK(refused > 1000);
}

void json() {
    using ideal::detail::Json;
    const auto parse = [](const std::string& text) { return Json::parse(text.data(), text.size()); };
    const Json value = parse(R"( {"a": [1, -2.5e3, true, null], "b\n\u00e9\ud83d\ude00": "\"\\/"} )");
    CHECK(value.at("a").array.size() == 4 && value.at("a").array[1].number == -2500);
    CHECK(value.at("b\n\xc3\xa9\xf0\x9f\x98\x80").string == "\"\\/");
    const std::string text = "quote \" backslash \\ newline \n";
    CHECK(parse(ideal::detail::json_string(text)).string == text);
    for (double number : {0.1, 1e-8, 1.0 / 3, 5e-324, 1.7976931348623157e308})
        CHECK(parse(ideal::detail::json_number(number)).number == number);
    for (const char* bad : {"", "{", "[1,]", "{\"a\" 1}", "01", "1.", "-", "1e", "nul", "\"a", "\"\\x\"", "\"\\ud800\"",
                            "1 2", "{\"a\":1,\"a\":2}", "\"\x01\"", "NaN", "Infinity", "'a'"})
        CHECK(!check::message_of<ideal::detail::JsonError>([&] { parse(bad); }).empty());
}

} // namespace

int main() {
    const std::string path = "test_state_file.safetensors";
    json();
    options(path);
    round_trip(path);
    damage(path);
    std::remove(path.c_str());
    CHECK(contains(check::message_of<UncertaintyError>([] { ideal::read_state("no/such/file"); }), "No such file"));
    const auto empty = trained(true, ideal::MetricParameters::Kind::full);
    CHECK(contains(check::message_of<UncertaintyError>([&] { ideal::write_state(empty, "no/such/file"); }),
                   "cannot be written"));
    return check::result();
}
