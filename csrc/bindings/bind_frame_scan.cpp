#include "arrays.hpp"

#include "ideal/frame_scan.hpp"

#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

namespace ideal::python {
namespace {

using IndexArray = nb::ndarray<nb::numpy, std::int64_t>;

/// A new NumPy array that takes over the vector's numbers.
template <typename Array, typename Number>
Array handed_over(std::vector<Number> numbers, std::initializer_list<std::size_t> shape) {
    auto* kept = new std::vector<Number>(std::move(numbers));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<Number>*>(p); });
    return Array(kept->data(), shape.size(), shape.begin(), owner);
}

using Vector = nb::ndarray<const double, nb::shape<3>, nb::c_contig, nb::device::cpu>;

std::array<double, 3> triple(const Vector& vector) { return {vector.data()[0], vector.data()[1], vector.data()[2]}; }

FrameScan scan(const Positions& positions, const Vector& origin, const Cell& lattice, const Cell& inverse,
               const Periodic& periodic, const Vector& starts) {
    FrameScan frame;
    frame.n_atoms = positions.shape(0);
    frame.positions = positions.data();
    frame.origin = triple(origin);
    std::copy_n(lattice.data(), 9, frame.lattice.begin());
    std::copy_n(inverse.data(), 9, frame.inverse.begin());
    std::copy_n(periodic.data(), 3, frame.periodic.begin());
    frame.starts = triple(starts);
    return frame;
}

std::tuple<std::vector<nb::ndarray<nb::numpy, unsigned char>>, NumpyArray, NumpyArray>
occupancy(const Positions& positions, const Vector& origin, const Cell& lattice, const Cell& inverse,
          const Periodic& periodic, const Vector& starts, const std::vector<std::size_t>& bins) {
    if (bins.size() != 3) throw nb::value_error("bins must hold three numbers");
    const FrameScan frame = scan(positions, origin, lattice, inverse, periodic, starts);
    std::array<std::vector<unsigned char>, 3> occupied;
    for (int k = 0; k < 3; ++k) occupied[k].resize(bins[k]);
    std::array<double, 3> low, high;
    {
        nb::gil_scoped_release release;
        frame.occupancy(occupied, low, high);
    }
    std::vector<nb::ndarray<nb::numpy, unsigned char>> marks;
    for (int k = 0; k < 3; ++k)
        marks.push_back(handed_over<nb::ndarray<nb::numpy, unsigned char>>(std::move(occupied[k]), {bins[k]}));
    return {marks, handed_over<NumpyArray>(std::vector<double>(low.begin(), low.end()), {3}),
            handed_over<NumpyArray>(std::vector<double>(high.begin(), high.end()), {3})};
}

std::tuple<IndexArray, NumpyArray, NumpyArray> within(const Positions& positions, const Vector& origin,
                                                      const Cell& lattice, const Cell& inverse,
                                                      const Periodic& periodic, const Vector& starts,
                                                      const Vector& low, const Vector& high, const Periodic& images) {
    const FrameScan frame = scan(positions, origin, lattice, inverse, periodic, starts);
    FrameScan::Selected found;
    {
        nb::gil_scoped_release release;
        found = frame.select(triple(low), triple(high), {images.data()[0], images.data()[1], images.data()[2]});
    }
    const std::size_t n = found.atoms.size();
    return {handed_over<IndexArray>(std::move(found.atoms), {n}),
            handed_over<NumpyArray>(std::move(found.fractional), {n, 3}),
            handed_over<NumpyArray>(std::move(found.vectors), {n, 3})};
}

} // namespace

void bind_frame_scan(nb::module_& module) {
    module.def("occupancy", &occupancy, nb::arg("positions"), nb::arg("origin"), nb::arg("lattice"),
               nb::arg("inverse"), nb::arg("periodic"), nb::arg("starts"), nb::arg("bins"),
               "Which bins of each axis hold an atom, and the lowest and highest fractional coordinates.");
    module.def("within", &within, nb::arg("positions"), nb::arg("origin"), nb::arg("lattice"), nb::arg("inverse"),
               nb::arg("periodic"), nb::arg("starts"), nb::arg("low"), nb::arg("high"), nb::arg("images"),
               "Atoms in a box of fractional coordinates, their coordinates and vectors from the origin.");
}

} // namespace ideal::python
