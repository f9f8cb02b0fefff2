// The metric's part of the border between portable code and the kernels: see kernel.hpp.
#pragma once

#include <cstddef>

namespace ideal::detail {

/// Columns of a packed panel of the matrix products.
constexpr int panel_width = 16;

struct MetricKernels {
    /// rows -= mean.
    void (*subtract)(double* rows, std::size_t stride, int n_rows, const double* mean, int n);
    /// out = rows * P for a packed triangular matrix P (n, n): `lower` packs columns k that use rows j <= k, else rows
    /// j >= k.
    void (*multiply)(const double* rows, std::size_t stride, int n_rows, const double* packed, int n, bool lower,
                     double* out, std::size_t out_stride);
    /// sum of squares of n numbers.
    double (*sum_of_squares)(const double* v, int n);

    /// Lower triangle of C, rows [row_begin, row_end) (multiples of 16, or n): C += X^T X, X (n_rows, stride).
    void (*rank_update)(double* C, int n, int row_begin, int row_end, const double* X, std::size_t stride,
                        std::size_t n_rows);
    /// A (n, n), lower triangle -> its Cholesky factor in place; false if A is not positive definite.
    bool (*cholesky)(double* A, int n);
    /// L (n, n) lower -> W = L^-1 (lower; the upper triangle is zeroed).
    void (*invert_lower)(const double* L, double* W, int n);
};

/// Size of a packed triangular matrix and the start of its panels: panel p holds the columns [p w, (p + 1) w), w =
/// panel_width, of the rows it needs, each row w doubles. (static: every translation unit keeps its own copy, see
/// above.)
static inline std::size_t packed_panel_rows(int n, int panel, bool lower) {
    const int needed = lower ? (panel + 1) * panel_width : n - panel * panel_width;
    return static_cast<std::size_t>(needed < n ? needed : n);
}

} // namespace ideal::detail
