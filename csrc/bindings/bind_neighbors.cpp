#include "arrays.hpp"

#include "ideal/neighbor_list.hpp"

#include <nanobind/stl/tuple.h>

namespace ideal::python {

namespace {

/// A vector as a NumPy array that owns it, without a copy.
template <class T> nb::ndarray<nb::numpy, T> array(std::vector<T>&& values, std::size_t columns = 0) {
    auto* owned = new std::vector<T>(std::move(values));
    nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    const std::size_t shape[2] = {columns ? owned->size() / columns : owned->size(), columns};
    return nb::ndarray<nb::numpy, T>(owned->data(), columns ? 2 : 1, shape, owner);
}

Structure view(const Positions& positions, const Cell& cell, const Periodic& periodic) {
    Structure structure;
    structure.n_atoms = positions.shape(0);
    structure.positions = positions.data();
    for (std::size_t k = 0; k < 9; ++k) structure.cell[k] = cell.data()[k];
    for (std::size_t k = 0; k < 3; ++k) structure.periodic[k] = periodic.data()[k];
    return structure;
}

} // namespace

void bind_neighbors(nb::module_& module) {
    using Targets = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    using Images = nb::ndarray<const std::int32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
    module.def(
        "list_pairs",
        [](const Positions& positions, const Cell& cell, const Periodic& periodic, double cutoff) {
            PairList list;
            {
                nb::gil_scoped_release release;
                list = list_pairs(view(positions, cell, periodic), cutoff);
            }
            return std::tuple(array(std::move(list.first)), array(std::move(list.target)),
                              array(std::move(list.images), 3));
        },
        nb::arg("positions"), nb::arg("cell"), nb::arg("periodic"), nb::arg("cutoff"),
        "Sorted pairs -> first (n_atoms + 1,), target (n_pairs,), images (n_pairs, 3).");
    module.def(
        "edges_within",
        [](const Positions& positions, const Cell& cell, const Periodic& periodic, double cutoff, const Indices& first,
           const Targets& target, const Images& images) {
            if (first.shape(0) != positions.shape(0) + 1 || target.shape(0) != images.shape(0) ||
                first.data()[positions.shape(0)] != static_cast<std::int64_t>(target.shape(0)))
                throw nb::value_error("first, target and images are not the pairs of these positions");
            EdgeList edges;
            {
                nb::gil_scoped_release release;
                edges = edges_within(view(positions, cell, periodic), cutoff, first.data(), target.data(),
                                     images.data());
            }
            return std::tuple(array(std::move(edges.count)), array(std::move(edges.target)),
                              array(std::move(edges.vectors), 3), edges.shortest_source, edges.shortest,
                              edges.shortest_length);
        },
        nb::arg("positions"), nb::arg("cell"), nb::arg("periodic"), nb::arg("cutoff"), nb::arg("first"),
        nb::arg("target"), nb::arg("images"),
        "Pairs within the cutoff -> count (n_atoms,), target, vectors (n_edges, 3), source, index and length of the "
        "shortest.");
}

} // namespace ideal::python
