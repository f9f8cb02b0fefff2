// The kernels of the metric: products with packed matrices, covariance updates, factorization. Included by
// kernel_impl.hpp only.
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

void difference(const double* __restrict v, const double* __restrict mean, int n, double* __restrict out) {
    for (int i = 0; i < n; ++i) out[i] = v[i] - mean[i];
}

void to_single(const double* __restrict v, int n, float* __restrict out) {
    for (int i = 0; i < n; ++i) out[i] = static_cast<float>(v[i]);
}

// ---- products with packed matrices ---------------------------------------------------------------------------------

/// A native vector of T, and the width of the panels.
template <class T>
struct Native;
template <>
struct Native<double> {
    static constexpr int width = lanes, panel = panel_width;
    typedef double type __attribute__((vector_size(8 * lanes)));
    typedef double memory __attribute__((vector_size(8 * lanes), aligned(8), may_alias));
};
template <>
struct Native<float> {
    static constexpr int width = 2 * lanes, panel = panel_width_single;
    typedef float type __attribute__((vector_size(8 * lanes)));
    typedef float memory __attribute__((vector_size(8 * lanes), aligned(4), may_alias));
};

constexpr int tile_rows = registers > 16 ? 12 : 6; // by two vectors of columns: accumulators fill the register file

template <class T, int rows>
IDEAL_INLINE void multiply_tile(const T* A, std::size_t stride, const T* P, std::size_t n_terms, T* out,
                                std::size_t out_stride) {
    using N = Native<T>;
    using V = typename N::type;
    using M = typename N::memory;
    V sum[rows][2];
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < 2; ++j) sum[i][j] = V{};
    for (std::size_t k = 0; k < n_terms; ++k) {
        V right[2];
        for (int j = 0; j < 2; ++j) right[j] = *reinterpret_cast<const M*>(P + k * N::panel + j * N::width);
        for (int i = 0; i < rows; ++i) {
            const T left = A[i * stride + k];
            for (int j = 0; j < 2; ++j) sum[i][j] += left * right[j];
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < 2; ++j) *reinterpret_cast<M*>(out + i * out_stride + j * N::width) = sum[i][j];
}

template <class T>
void multiply_panel(const T* A, std::size_t stride, int n_rows, const T* panel, std::size_t n_terms, T* out,
                    std::size_t out_stride) {
    using N = Native<T>;
    static_assert(N::panel % (2 * N::width) == 0, "a tile is two vectors wide");
    for (int column = 0; column < N::panel; column += 2 * N::width) {
        const T* P = panel + column;
        T* C = out + column;
        int i = 0;
        for (; i + tile_rows <= n_rows; i += tile_rows)
            multiply_tile<T, tile_rows>(A + i * stride, stride, P, n_terms, C + i * out_stride, out_stride);
        for (; i + 4 <= n_rows; i += 4)
            multiply_tile<T, 4>(A + i * stride, stride, P, n_terms, C + i * out_stride, out_stride);
        for (; i < n_rows; ++i)
            multiply_tile<T, 1>(A + i * stride, stride, P, n_terms, C + i * out_stride, out_stride);
    }
}

void multiply(const double* rows, std::size_t stride, int n_rows, const double* packed, int n_terms, int n_columns,
              double* out, std::size_t out_stride) {
    for (int panel = 0; panel < divided_up(n_columns, panel_width); ++panel) {
        const double* P = packed + static_cast<std::size_t>(panel) * n_terms * panel_width;
        multiply_panel(rows, stride, n_rows, P, n_terms, out + panel * panel_width, out_stride);
    }
}

template <class T>
IDEAL_INLINE void triangular(const T* rows, std::size_t stride, int n_rows, const T* packed, int n, bool lower, T* out,
                             std::size_t out_stride) {
    constexpr int width = Native<T>::panel;
    for (int panel = 0; panel < divided_up(n, width); ++panel) {
        const std::size_t n_terms = packed_panel_rows(n, panel, lower, width);
        const T* A = rows + (lower ? 0 : panel * width);
        multiply_panel(A, stride, n_rows, packed, n_terms, out + panel * width, out_stride);
        packed += n_terms * width;
    }
}

void multiply_triangular(const double* rows, std::size_t stride, int n_rows, const double* packed, int n, bool lower,
                         double* out, std::size_t out_stride) {
    triangular(rows, stride, n_rows, packed, n, lower, out, out_stride);
}

void multiply_triangular_single(const float* rows, std::size_t stride, int n_rows, const float* packed, int n,
                                float* out, std::size_t out_stride) {
    triangular(rows, stride, n_rows, packed, n, true, out, out_stride);
}

double sum_of_squares(const double* v, int n) {
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += v[i] * v[i];
    return sum;
}

double weighted_squares(const double* weight, const double* v, int n) {
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += weight[i] * v[i] * v[i];
    return sum;
}

double sum_of_squares_single(const float* v, int n) {
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += static_cast<double>(v[i]) * v[i];
    return sum;
}

// ---- covariance ----------------------------------------------------------------------------------------------------

template <int rows>
IDEAL_INLINE void rank_update_tile(double* C, std::size_t c_stride, const double* Xi, const double* Xj,
                                   std::size_t stride, std::size_t n_rows, double sign) {
    Lanes sum[rows][2];
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < 2; ++j) sum[i][j] = zero<lanes>();
    for (std::size_t k = 0; k < n_rows; ++k) {
        const Lanes right[2] = {load_lanes(Xj + k * stride), load_lanes(Xj + k * stride + lanes)};
        for (int i = 0; i < rows; ++i) {
            const double left = Xi[k * stride + i];
            for (int j = 0; j < 2; ++j) sum[i][j] += left * right[j];
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < 2; ++j) {
            double* at = C + i * c_stride + j * lanes;
            store<lanes>(at, load_lanes(at) + sign * sum[i][j]);
        }
}

/// `rows` rows of C from row i on, columns 0 ... i + rows - 1.
template <int rows>
void rank_update_rows(double* C, std::size_t c_stride, int n, int i, const double* X, std::size_t stride,
                      std::size_t n_rows, double sign) {
    constexpr int columns = 2 * lanes;
    int j = 0;
    for (; j < i + rows && j + columns <= n; j += columns)
        rank_update_tile<rows>(C + i * c_stride + j, c_stride, X + i, X + j, stride, n_rows, sign);
    for (; j < i + rows; ++j)
        for (int p = 0; p < rows; ++p) {
            double sum = 0;
            for (std::size_t q = 0; q < n_rows; ++q) sum += X[q * stride + i + p] * X[q * stride + j];
            C[(i + p) * c_stride + j] += sign * sum;
        }
}

void rank_update(double* C, std::size_t c_stride, int n, int row_begin, int row_end, const double* X,
                 std::size_t stride, std::size_t n_rows, double sign) {
    constexpr std::size_t depth = 128; // rows of X per pass: they stay in the second-level cache
    constexpr int rows = registers > 16 ? 8 : 4;
    for (std::size_t k = 0; k < n_rows; k += depth) {
        const std::size_t terms = n_rows - k < depth ? n_rows - k : depth;
        int i = row_begin;
        for (; i + rows <= row_end; i += rows)
            rank_update_rows<rows>(C, c_stride, n, i, X + k * stride, stride, terms, sign);
        for (; i < row_end; ++i) rank_update_rows<1>(C, c_stride, n, i, X + k * stride, stride, terms, sign);
    }
}

// ---- factorization -------------------------------------------------------------------------------------------------

/// Cholesky factor of a block (n, n) within a matrix of row length `stride`.
bool cholesky_block(double* A, std::size_t stride, int n) {
    for (int i = 0; i < n; ++i) {
        double* row = A + i * stride;
        for (int j = 0; j <= i; ++j) {
            const double* other = A + j * stride;
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

/// X (n, stride), `vectors` vectors of columns from X on: L X_new = X_old, by forward substitution.
template <int vectors>
IDEAL_INLINE void solve_strip(const double* L, std::size_t l_stride, int n, double* X, std::size_t stride) {
    for (int j = 0; j < n; ++j) {
        Lanes sum[vectors];
        for (int v = 0; v < vectors; ++v) sum[v] = load_lanes(X + j * stride + v * lanes);
        for (int k = 0; k < j; ++k) {
            const double factor = L[j * l_stride + k];
            for (int v = 0; v < vectors; ++v) sum[v] -= factor * load_lanes(X + k * stride + v * lanes);
        }
        const double scale = 1 / L[j * l_stride + j];
        for (int v = 0; v < vectors; ++v) store<lanes>(X + j * stride + v * lanes, scale * sum[v]);
    }
}

/// In blocks: factor the diagonal block, solve for the panel below it (transposed in scratch), update the rest.
bool cholesky(double* A, int n, double* scratch) {
    const std::size_t stride = n, x_stride = static_cast<std::size_t>(n) + 4 * lanes;
    for (int begin = 0; begin < n; begin += factor_block) {
        const int size = smaller(factor_block, n - begin), rest = n - begin - size;
        double* diagonal = A + begin * (stride + 1);
        if (!cholesky_block(diagonal, stride, size)) return false;
        if (rest == 0) break;
        double* below = diagonal + size * stride;
        for (int i = 0; i < rest; ++i)
            for (int k = 0; k < size; ++k) scratch[k * x_stride + i] = below[i * stride + k];
        for (int k = 0; k < size; ++k)
            for (int i = rest; i < rest + 4 * lanes; ++i) scratch[k * x_stride + i] = 0;
        for (int i = 0; i < rest; i += 4 * lanes) solve_strip<4>(diagonal, stride, size, scratch + i, x_stride);
        for (int i = 0; i < rest; ++i)
            for (int k = 0; k < size; ++k) below[i * stride + k] = scratch[k * x_stride + i];
        rank_update(below + size, stride, rest, 0, rest, scratch, x_stride, size, -1.0);
    }
    return true;
}

/// Block row by block row: W_I = L_II^-1 (1 - L_I W_above), whose product runs over the panels packed so far.
void invert_lower(const double* L, double* W, double* packed, int n) {
    const std::size_t stride = n;
    const int n_panels = divided_up(n, panel_width);
    for (std::size_t i = 0; i < stride * stride; ++i) W[i] = 0;
    for (int begin = 0; begin < n; begin += factor_block) {
        const int size = smaller(factor_block, n - begin);
        double* panel_start = packed;
        for (int panel = 0; panel * panel_width < begin; ++panel) { // these are all full
            const int first = panel * panel_width;
            multiply_panel(L + begin * stride + first, stride, size, panel_start, begin - first,
                           W + begin * stride + first, stride);
            panel_start += packed_panel_rows(n, panel, false) * panel_width;
        }
        for (int i = begin; i < begin + size; ++i) {
            double* __restrict row = W + i * stride;
            const double* factor = L + i * stride;
            for (int j = 0; j < begin; ++j) row[j] = -row[j];
            row[i] = 1;
            int k = begin;
            for (; k + 4 <= i; k += 4) { // rows k ... k+3 reach to column k+3; their upper triangles are zero
                const double *w0 = W + k * stride, *w1 = w0 + n, *w2 = w1 + n, *w3 = w2 + n;
                const double f0 = factor[k], f1 = factor[k + 1], f2 = factor[k + 2], f3 = factor[k + 3];
                for (int j = 0; j < k + 4; ++j) row[j] -= f0 * w0[j] + f1 * w1[j] + f2 * w2[j] + f3 * w3[j];
            }
            for (; k < i; ++k) {
                const double* w = W + k * stride;
                for (int j = 0; j <= k; ++j) row[j] -= factor[k] * w[j];
            }
            const double scale = 1 / factor[i];
            for (int j = 0; j <= i; ++j) row[j] *= scale;
        }
        panel_start = packed;
        for (int panel = 0; panel < n_panels && panel * panel_width < begin + size; ++panel) {
            const int first = panel * panel_width;
            for (int i = larger(begin, first); i < begin + size; ++i)
                for (int j = 0; j < panel_width; ++j)
                    panel_start[static_cast<std::size_t>(i - first) * panel_width + j] =
                        first + j < n ? W[i * stride + first + j] : 0.0;
            panel_start += packed_panel_rows(n, panel, false) * panel_width;
        }
    }
}

MetricKernels metric_kernels() {
    return {subtract,
            multiply,
            multiply_triangular,
            multiply_triangular_single,
            difference,
            to_single,
            sum_of_squares,
            weighted_squares,
            sum_of_squares_single,
            rank_update,
            cholesky,
            invert_lower};
}

} // namespace
} // namespace ideal::detail
