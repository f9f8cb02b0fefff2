// The metric's part of the border between portable code and the kernels: see kernel.hpp.
#pragma once

#include <cstddef>

namespace ideal::detail {

/// Columns of a packed panel of the matrix products, in float64 and in float32.
constexpr int panel_width = 16;
constexpr int panel_width_single = 32;
/// Rows of a block of the factorization.
constexpr int factor_block = 64;

/// Packed matrices are panels of `panel_width` columns, one after another; within a panel, row by row. Outputs are
/// written in whole panels: rows must have room for the number of columns rounded up to the panel width.
struct MetricKernels {
    /// rows -= mean.
    void (*subtract)(double* rows, std::size_t stride, int n_rows, const double* mean, int n);
    /// out = rows * P for a packed matrix P (n_terms, n_columns).
    void (*multiply)(const double* rows, std::size_t stride, int n_rows, const double* packed, int n_terms,
                     int n_columns, double* out, std::size_t out_stride);
    /// out = rows * P for a packed triangular matrix P (n, n): `lower` packs columns k that use rows j <= k, else rows
    /// j >= k.
    void (*multiply_triangular)(const double* rows, std::size_t stride, int n_rows, const double* packed, int n,
                                bool lower, double* out, std::size_t out_stride);
    /// The same in float32, `lower` only.
    void (*multiply_triangular_single)(const float* rows, std::size_t stride, int n_rows, const float* packed, int n,
                                       float* out, std::size_t out_stride);
    /// out[i] = v[i] - mean[i], and out[i] = v[i] rounded.
    void (*difference)(const double* v, const double* mean, int n, double* out);
    void (*to_single)(const double* v, int n, float* out);
    /// Sums of (weighted) squares of n numbers, in float64 all.
    double (*sum_of_squares)(const double* v, int n);
    double (*weighted_squares)(const double* weight, const double* v, int n);
    double (*sum_of_squares_single)(const float* v, int n);

    /// Lower triangle of C (rows `c_stride` apart), rows [row_begin, row_end) (multiples of 16, or n):
    /// C += sign X^T X, X (n_rows, stride), sign 1 or -1.
    void (*rank_update)(double* C, std::size_t c_stride, int n, int row_begin, int row_end, const double* X,
                        std::size_t stride, std::size_t n_rows, double sign);
    /// A (n, n), lower triangle -> its Cholesky factor in place; false if A is not positive definite. `scratch` holds
    /// factor_block (n + overrun).
    bool (*cholesky)(double* A, int n, double* scratch);
    /// L (n, n) lower -> W = L^-1 (lower; the upper triangle is zeroed), and W packed for rows * W (`lower` = false).
    void (*invert_lower)(const double* L, double* W, double* packed, int n);
};

/// Size of a packed triangular matrix and the start of its panels: panel p holds the columns [p w, (p + 1) w), w =
/// panel width, of the rows it needs, each row w numbers. (static: every translation unit keeps its own copy, see
/// kernel.hpp.)
static inline std::size_t packed_panel_rows(int n, int panel, bool lower, int width = panel_width) {
    const int needed = lower ? (panel + 1) * width : n - panel * width;
    return static_cast<std::size_t>(needed < n ? needed : n);
}

} // namespace ideal::detail
