// Arrays at the border to Python: typed, contiguous, and checked against each other before a kernel sees them.
#pragma once

#include "ideal/structure.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ideal::python {

namespace nb = nanobind;

using Positions = nb::ndarray<const double, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Cell = nb::ndarray<const double, nb::shape<3, 3>, nb::c_contig, nb::device::cpu>;
using Periodic = nb::ndarray<const bool, nb::shape<3>, nb::c_contig, nb::device::cpu>;
using Indices = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using NumpyArray = nb::ndarray<nb::numpy, double>;

static_assert(sizeof(std::int64_t) == sizeof(std::ptrdiff_t), "center indices are passed on as std::ptrdiff_t");

/// A new NumPy array of zeros.
inline std::pair<NumpyArray, double*> zeros(std::initializer_list<std::size_t> shape) {
    std::size_t size = 1;
    for (std::size_t n : shape) size *= n;
    double* data = new double[size]();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<double*>(p); });
    return {NumpyArray(data, shape.size(), shape.begin(), owner), data};
}

inline Structure view(const Positions& positions, const Numbers& numbers, const Cell& cell, const Periodic& periodic) {
    if (numbers.shape(0) != positions.shape(0))
        throw nb::value_error("positions and numbers must have the same length");
    Structure structure;
    structure.n_atoms = positions.shape(0);
    structure.positions = positions.data();
    structure.numbers = numbers.data();
    for (std::size_t k = 0; k < 9; ++k) structure.cell[k] = cell.data()[k];
    for (std::size_t k = 0; k < 3; ++k) structure.periodic[k] = periodic.data()[k];
    return structure;
}

inline Centers view(const std::optional<Indices>& centers, std::size_t n_atoms) {
    if (!centers) return {nullptr, n_atoms};
    return {reinterpret_cast<const std::ptrdiff_t*>(centers->data()), centers->shape(0)};
}

inline const double* checked(const Values& values, std::size_t size, const char* name) {
    if (values.shape(0) != size)
        throw nb::value_error((std::string(name) + " must hold one number per center").c_str());
    return values.data();
}

} // namespace ideal::python
