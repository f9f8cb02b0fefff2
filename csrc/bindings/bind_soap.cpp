#include "arrays.hpp"

#include "ideal/soap.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace ideal::python {

void bind_soap(nb::module_& module) {
    nb::class_<SoapPowerSpectrum>(module, "SoapPowerSpectrum")
        .def(
            "__init__",
            [](SoapPowerSpectrum* self, std::vector<int> numbers, double r_cut, int n_max, int l_max, double sigma,
               bool taper, const std::string& radial_basis, const std::string& compression, bool outer_support,
               std::vector<double> species_weights) {
                SoapParameters parameters;
                parameters.numbers = std::move(numbers);
                parameters.r_cut = r_cut;
                parameters.n_max = n_max;
                parameters.l_max = l_max;
                parameters.sigma = sigma;
                parameters.taper = taper;
                parameters.radial_basis = radial_basis_named(radial_basis);
                parameters.compression = compression_named(compression);
                parameters.outer_support = outer_support;
                parameters.species_weights = std::move(species_weights);
                new (self) SoapPowerSpectrum(parameters);
            },
            nb::arg("numbers"), nb::arg("r_cut"), nb::arg("n_max"), nb::arg("l_max"), nb::arg("sigma"),
            nb::arg("taper"), nb::arg("radial_basis"), nb::arg("compression"), nb::arg("outer_support"),
            nb::arg("species_weights"))
        .def_prop_ro("n_features", &SoapPowerSpectrum::n_features)
        .def_prop_ro("support", &SoapPowerSpectrum::support)
        .def_prop_ro("taper_width", &SoapPowerSpectrum::taper_width)
        .def(
            "create",
            [](const SoapPowerSpectrum& self, const Positions& positions, const Numbers& numbers, const Cell& cell,
               const Periodic& periodic, const std::optional<Indices>& centers, int threads) {
                const Structure structure = view(positions, numbers, cell, periodic);
                const Centers chosen = view(centers, structure.n_atoms);
                auto [features, data] = zeros({chosen.size, self.n_features()});
                {
                    nb::gil_scoped_release release;
                    self.create(structure, chosen, data, threads);
                }
                return features;
            },
            nb::arg("positions"), nb::arg("numbers"), nb::arg("cell"), nb::arg("periodic"), nb::arg("centers").none(),
            nb::arg("threads"), "(n_centers, n_features) descriptors.")
        .def(
            "pull_back",
            [](const SoapPowerSpectrum& self, const Positions& positions, const Numbers& numbers, const Cell& cell,
               const Periodic& periodic, const std::optional<Indices>& centers, const Rows& adjoint, int threads) {
                const Structure structure = view(positions, numbers, cell, periodic);
                const Centers chosen = view(centers, structure.n_atoms);
                if (adjoint.shape(0) != chosen.size || adjoint.shape(1) != self.n_features())
                    throw nb::value_error("adjoint must be (n_centers, n_features)");
                auto [gradient, gradient_data] = zeros({structure.n_atoms, 3});
                auto [strain, strain_data] = zeros({3, 3});
                {
                    nb::gil_scoped_release release;
                    self.pull_back(structure, chosen, adjoint.data(), {gradient_data, strain_data}, threads);
                }
                return std::pair(gradient, strain);
            },
            nb::arg("positions"), nb::arg("numbers"), nb::arg("cell"), nb::arg("periodic"), nb::arg("centers").none(),
            nb::arg("adjoint"), nb::arg("threads"),
            "Derivative of sum(adjoint * descriptors) -> (n_atoms, 3) by positions, (3, 3) by strain.");
}

} // namespace ideal::python
