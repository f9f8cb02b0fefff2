// The kernels of the metric: packed triangular products, covariance updates, factorization. Included by kernel_impl.hpp
// only.
#pragma once

#include "kernel_vector.hpp"

namespace ideal::detail {
namespace {

void subtract(double* rows, std::size_t stride, int n_rows, const double* mean, int n) {
    for (int i = 0; i < n_rows; ++i) {
        double* row = rows + i * stride;
        for (int j = 0; j < n; ++j) row[j] -= mean[j];
    }
}

constexpr int tile_columns = 2 * lanes < panel_width ? 2 * lanes : panel_width;
constexpr int tile_vectors = tile_columns / lanes;
constexpr int tile_rows = registers > 16 ? 12 : 6;

template <int rows>
IDEAL_INLINE void multiply_tile(const double* A, std::size_t stride, const double* P, std::size_t n_terms, double* out,
                                std::size_t out_stride) {
    Lanes sum[rows][tile_vectors];
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < tile_vectors; ++j) sum[i][j] = zero<lanes>();
    for (std::size_t k = 0; k < n_terms; ++k) {
        Lanes right[tile_vectors];
        for (int j = 0; j < tile_vectors; ++j) right[j] = load_lanes(P + k * panel_width + j * lanes);
        for (int i = 0; i < rows; ++i) {
            const double left = A[i * stride + k];
            for (int j = 0; j < tile_vectors; ++j) sum[i][j] += left * right[j];
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < tile_vectors; ++j) store<lanes>(out + i * out_stride + j * lanes, sum[i][j]);
}

void multiply(const double* rows, std::size_t stride, int n_rows, const double* packed, int n, bool lower, double* out,
              std::size_t out_stride) {
    const int n_panels = divided_up(n, panel_width);
    for (int panel = 0; panel < n_panels; ++panel) {
        const std::size_t n_terms = packed_panel_rows(n, panel, lower);
        const int first_term = lower ? 0 : panel * panel_width;
        for (int column = 0; column < panel_width; column += tile_columns) {
            const double* P = packed + column;
            const double* A = rows + first_term;
            double* C = out + panel * panel_width + column;
            int i = 0;
            for (; i + tile_rows <= n_rows; i += tile_rows)
                multiply_tile<tile_rows>(A + i * stride, stride, P, n_terms, C + i * out_stride, out_stride);
            for (; i + 4 <= n_rows; i += 4)
                multiply_tile<4>(A + i * stride, stride, P, n_terms, C + i * out_stride, out_stride);
            for (; i < n_rows; ++i)
                multiply_tile<1>(A + i * stride, stride, P, n_terms, C + i * out_stride, out_stride);
        }
        packed += n_terms * panel_width;
    }
}

double sum_of_squares(const double* v, int n) {
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += v[i] * v[i];
    return sum;
}

template <int rows>
IDEAL_INLINE void rank_update_tile(double* C, int n, const double* Xi, const double* Xj, std::size_t stride,
                                   std::size_t n_rows) {
    Lanes sum[rows][2];
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < 2; ++j) sum[i][j] = load_lanes(C + static_cast<std::size_t>(i) * n + j * lanes);
    for (std::size_t k = 0; k < n_rows; ++k) {
        const Lanes right[2] = {load_lanes(Xj + k * stride), load_lanes(Xj + k * stride + lanes)};
        for (int i = 0; i < rows; ++i) {
            const double left = Xi[k * stride + i];
            for (int j = 0; j < 2; ++j) sum[i][j] += left * right[j];
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < 2; ++j) store<lanes>(C + static_cast<std::size_t>(i) * n + j * lanes, sum[i][j]);
}

void rank_update(double* C, int n, int row_begin, int row_end, const double* X, std::size_t stride,
                 std::size_t n_rows) {
    constexpr std::size_t depth = 128; // rows of X per pass: they stay in the second-level cache
    constexpr int rows = registers > 16 ? 8 : 4, columns = 2 * lanes;
    for (std::size_t k = 0; k < n_rows; k += depth) {
        const std::size_t terms = n_rows - k < depth ? n_rows - k : depth;
        const double* block = X + k * stride;
        int i = row_begin;
        for (; i + rows <= row_end; i += rows) {
            int j = 0;
            for (; j < i + rows && j + columns <= n; j += columns)
                rank_update_tile<rows>(C + static_cast<std::size_t>(i) * n + j, n, block + i, block + j, stride, terms);
            for (; j < i + rows; ++j)
                for (int p = 0; p < rows; ++p) {
                    double sum = 0;
                    for (std::size_t q = 0; q < terms; ++q) sum += block[q * stride + i + p] * block[q * stride + j];
                    C[static_cast<std::size_t>(i + p) * n + j] += sum;
                }
        }
        for (; i < row_end; ++i)
            for (int j = 0; j <= i; ++j) {
                double sum = 0;
                for (std::size_t q = 0; q < terms; ++q) sum += block[q * stride + i] * block[q * stride + j];
                C[static_cast<std::size_t>(i) * n + j] += sum;
            }
    }
}

bool cholesky(double* A, int n) {
    for (int i = 0; i < n; ++i) {
        double* row = A + static_cast<std::size_t>(i) * n;
        for (int j = 0; j <= i; ++j) {
            const double* other = A + static_cast<std::size_t>(j) * n;
            double sum = 0;
            for (int k = 0; k < j; ++k) sum += row[k] * other[k];
            if (j < i) {
                row[j] = (row[j] - sum) / other[j];
            } else {
                const double pivot = row[i] - sum;
                if (!(pivot > 0)) return false;
                row[i] = __builtin_sqrt(pivot);
            }
        }
    }
    return true;
}

void invert_lower(const double* L, double* W, int n) {
    for (int i = 0; i < n; ++i) {
        double* __restrict row = W + static_cast<std::size_t>(i) * n;
        const double* factor = L + static_cast<std::size_t>(i) * n;
        for (int j = 0; j < n; ++j) row[j] = 0;
        row[i] = 1;
        int k = 0;
        for (; k + 4 <= i; k += 4) { // rows k ... k+3 reach to column k+3; their upper triangles are zero
            const double *w0 = W + static_cast<std::size_t>(k) * n, *w1 = w0 + n, *w2 = w1 + n, *w3 = w2 + n;
            const double f0 = factor[k], f1 = factor[k + 1], f2 = factor[k + 2], f3 = factor[k + 3];
            for (int j = 0; j < k + 4; ++j) row[j] -= f0 * w0[j] + f1 * w1[j] + f2 * w2[j] + f3 * w3[j];
        }
        for (; k < i; ++k) {
            const double* w = W + static_cast<std::size_t>(k) * n;
            for (int j = 0; j <= k; ++j) row[j] -= factor[k] * w[j];
        }
        const double scale = 1 / factor[i];
        for (int j = 0; j <= i; ++j) row[j] *= scale;
    }
}

MetricKernels metric_kernels() {
    return {subtract, multiply, sum_of_squares, rank_update, cholesky, invert_lower};
}

} // namespace
} // namespace ideal::detail
