#include "arrays.hpp"

#include "ideal/errors.hpp"
#include "ideal/mahalanobis.hpp"
#include "ideal/state_file.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <tuple>

namespace ideal::python {
namespace {

using Evaluate = void (SoapMahalanobis::*)(const Structure&, Centers, double*, int) const;

template <Evaluate evaluate>
NumpyArray values(const SoapMahalanobis& self, const Positions& positions, const Numbers& numbers, const Cell& cell,
                  const Periodic& periodic, const std::optional<Indices>& centers, int threads) {
    const Structure structure = view(positions, numbers, cell, periodic);
    const Centers chosen = view(centers, structure.n_atoms);
    auto [result, data] = zeros({chosen.size});
    {
        nb::gil_scoped_release release;
        (self.*evaluate)(structure, chosen, data, threads);
    }
    return result;
}

using Arrays = std::tuple<Positions, Numbers, Cell, Periodic, std::optional<Indices>>;

void update(SoapMahalanobis& self, const std::vector<Arrays>& arrays, int threads) {
    std::vector<Structure> structures;
    std::vector<Centers> centers;
    for (const auto& [positions, numbers, cell, periodic, chosen] : arrays) {
        structures.push_back(view(positions, numbers, cell, periodic));
        centers.push_back(view(chosen, structures.back().n_atoms));
    }
    nb::gil_scoped_release release;
    self.update(structures, centers, threads);
}

NumpyArray screen(const SoapMahalanobis& self, const Positions& positions, const Numbers& numbers, const Cell& cell,
                  const Periodic& periodic, double threshold, const std::optional<Indices>& centers, int threads) {
    const Structure structure = view(positions, numbers, cell, periodic);
    const Centers chosen = view(centers, structure.n_atoms);
    auto [result, data] = zeros({chosen.size});
    {
        nb::gil_scoped_release release;
        self.screen(structure, chosen, threshold, data, threads);
    }
    return result;
}

std::pair<NumpyArray, NumpyArray> gradient(const SoapMahalanobis& self, const Positions& positions,
                                           const Numbers& numbers, const Cell& cell, const Periodic& periodic,
                                           const Values& weights, int threads) {
    const Structure structure = view(positions, numbers, cell, periodic);
    const double* w = checked(weights, structure.n_atoms, "weights");
    auto [result, result_data] = zeros({structure.n_atoms, 3});
    auto [strain, strain_data] = zeros({3, 3});
    {
        nb::gil_scoped_release release;
        self.gradient(structure, {nullptr, structure.n_atoms}, w, {result_data, strain_data}, threads);
    }
    return {result, strain};
}

std::tuple<double, NumpyArray, NumpyArray, NumpyArray> hinge(const SoapMahalanobis& self, const Positions& positions,
                                                             const Numbers& numbers, const Cell& cell,
                                                             const Periodic& periodic, const Values& floor,
                                                             const Values& weights, int threads,
                                                             const std::optional<Values>& width) {
    const Structure structure = view(positions, numbers, cell, periodic);
    const Hinge terms{checked(floor, structure.n_atoms, "floor"), checked(weights, structure.n_atoms, "weights"),
                      width ? checked(*width, structure.n_atoms, "width") : nullptr};
    auto [result, result_data] = zeros({structure.n_atoms, 3});
    auto [strain, strain_data] = zeros({3, 3});
    auto [u, u_data] = zeros({structure.n_atoms});
    double value = 0;
    {
        nb::gil_scoped_release release;
        value = self.hinge(structure, {nullptr, structure.n_atoms}, terms, {result_data, strain_data}, u_data, threads);
    }
    return {value, result, strain, u};
}

/// (count, mean, scatter) of one distribution; scatter is full and symmetric.
std::tuple<std::size_t, NumpyArray, NumpyArray> state(const SoapMahalanobis& self, std::size_t index) {
    const Distribution d = self.distribution(index);
    const std::size_t n = d.dimension;
    auto [mean, mean_data] = zeros({n});
    auto [scatter, scatter_data] = zeros({n, n});
    std::copy(d.mean.begin(), d.mean.end(), mean_data);
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j <= i; ++j) scatter_data[i * n + j] = scatter_data[j * n + i] = d.scatter[i * n + j];
    return {d.count, mean, scatter};
}

void set_state(SoapMahalanobis& self, std::size_t index, std::size_t count, const Values& mean, const Rows& scatter) {
    Distribution d;
    d.dimension = mean.shape(0);
    d.count = count;
    d.mean.assign(mean.data(), mean.data() + mean.size());
    d.scatter.assign(scatter.data(), scatter.data() + scatter.size());
    self.set_distribution(index, std::move(d));
}

MetricParameters::Kind metric_kind(const std::string& name) {
    if (name == "full") return MetricParameters::Kind::full;
    if (name == "low_rank") return MetricParameters::Kind::low_rank;
    if (name == "auto") return MetricParameters::Kind::automatic;
    throw ConfigError("metric = '" + name + "' is not valid; use 'auto', 'full' or 'low_rank'");
}

} // namespace

void bind_mahalanobis(nb::module_& module) {
    nb::class_<SoapMahalanobis> c(module, "SoapMahalanobis");
    c.def(
        "__init__",
        [](SoapMahalanobis* self, const SoapPowerSpectrum& soap, double ridge, bool per_species,
           const std::string& metric, std::size_t rank) {
            MahalanobisParameters parameters;
            parameters.metric.kind = metric_kind(metric);
            parameters.metric.rank = rank;
            parameters.metric.relative_ridge = ridge;
            parameters.per_species = per_species;
            new (self) SoapMahalanobis(soap, parameters);
        },
        nb::arg("soap"), nb::arg("ridge"), nb::arg("per_species"), nb::arg("metric"), nb::arg("rank"));
    c.def("update", &update, nb::arg("structures"), nb::arg("threads"),
          "Learn structures, each (positions, numbers, cell, periodic, centers or None).");
    c.def("screen", &screen, nb::arg("positions"), nb::arg("numbers"), nb::arg("cell"), nb::arg("periodic"),
          nb::arg("threshold"), nb::arg("centers").none(), nb::arg("threads"));
    c.def("atomic", &values<&SoapMahalanobis::atomic>, nb::arg("positions"), nb::arg("numbers"), nb::arg("cell"),
          nb::arg("periodic"), nb::arg("centers").none(), nb::arg("threads"));
    c.def("squared_mahalanobis", &values<&SoapMahalanobis::squared_mahalanobis>, nb::arg("positions"),
          nb::arg("numbers"), nb::arg("cell"), nb::arg("periodic"), nb::arg("centers").none(), nb::arg("threads"));
    c.def("gradient", &gradient, nb::arg("positions"), nb::arg("numbers"), nb::arg("cell"), nb::arg("periodic"),
          nb::arg("weights"), nb::arg("threads"));
    c.def("hinge", &hinge, nb::arg("positions"), nb::arg("numbers"), nb::arg("cell"), nb::arg("periodic"),
          nb::arg("floor"), nb::arg("weights"), nb::arg("threads"),
          nb::arg("width").none() = nb::none());
    c.def("merge", &SoapMahalanobis::merge, nb::arg("other"), nb::call_guard<nb::gil_scoped_release>());
    c.def("copy", [](const SoapMahalanobis& self) { return new SoapMahalanobis(self); }, nb::rv_policy::take_ownership);
    c.def("count", &SoapMahalanobis::count, nb::arg("species"));
    c.def_static("read", &read_state, nb::arg("path"), nb::call_guard<nb::gil_scoped_release>());
    c.def("write", &write_state, nb::arg("path"), nb::call_guard<nb::gil_scoped_release>());
    c.def_prop_ro("n_distributions", &SoapMahalanobis::n_distributions);
    c.def("state", &state, nb::arg("index"));
    c.def("set_state", &set_state, nb::arg("index"), nb::arg("count"), nb::arg("mean"), nb::arg("scatter"));
    c.def("set_counts", &SoapMahalanobis::set_counts, nb::arg("counts"));
    c.def(
        "metric",
        [](const SoapMahalanobis& self, std::size_t species) {
            nb::gil_scoped_release release;
            const auto metric = self.metric(species);
            return std::tuple(metric->effective_dimension(), metric->rank(), metric->lower(), metric->upper());
        },
        nb::arg("species"), "d_eff (0 where u is infinite), rank and bounds of one species' metric.");
}

} // namespace ideal::python
