#include "linear_algebra.hpp"

#include "ideal/errors.hpp"
#include "kernel.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace ideal::detail {
namespace {

struct Tridiagonal {
    std::vector<double> diagonal, below;
    std::vector<double> basis; // rows: A = basis^T T basis
};

Tridiagonal tridiagonalize(std::vector<double>& A, int n) {
    const std::size_t stride = n;
    std::vector<std::vector<double>> reflectors;
    std::vector<double> p(n);
    Tridiagonal t{std::vector<double>(n), std::vector<double>(n, 0.0), std::vector<double>(stride * stride, 0.0)};
    for (int k = 0; k + 2 < n; ++k) {
        std::vector<double> v(n, 0.0);
        double square = 0, scale = 0;
        for (int i = k + 1; i < n; ++i) scale = std::max(scale, std::abs(A[i * stride + k]));
        if (scale > 0)
            for (int i = k + 1; i < n; ++i) {
                v[i] = A[i * stride + k] / scale;
                square += v[i] * v[i];
            }
        const double norm = std::sqrt(square), alpha = v[k + 1] > 0 ? -norm : norm;
        v[k + 1] -= alpha;
        const double v_norm = std::sqrt(square - 2 * alpha * (v[k + 1] + alpha) + alpha * alpha);
        if (scale == 0 || v_norm == 0) {
            t.below[k] = scale == 0 ? 0.0 : A[(k + 1) * stride + k];
            reflectors.emplace_back();
            continue;
        }
        for (int i = k + 1; i < n; ++i) v[i] /= v_norm;
        t.below[k] = alpha * scale;
        double product = 0;
        for (int i = k + 1; i < n; ++i) {
            const double* row = A.data() + i * stride;
            double sum = 0;
            for (int j = k + 1; j < n; ++j) sum += row[j] * v[j];
            p[i] = sum;
            product += sum * v[i];
        }
        for (int i = k + 1; i < n; ++i) p[i] = 2 * (p[i] - product * v[i]);
        for (int i = k + 1; i < n; ++i) {
            double* row = A.data() + i * stride;
            const double vi = v[i], pi = p[i];
            for (int j = k + 1; j < n; ++j) row[j] -= vi * p[j] + pi * v[j];
        }
        reflectors.push_back(std::move(v));
    }
    for (int i = 0; i < n; ++i) t.diagonal[i] = A[i * stride + i];
    if (n > 1) t.below[n - 2] = A[(n - 1) * stride + n - 2];
    // basis = H_last ... H_0, applied from the right to the identity: each row r -> r - 2 (r . v) v.
    for (int i = 0; i < n; ++i) t.basis[i * stride + i] = 1;
    for (int k = static_cast<int>(reflectors.size()) - 1; k >= 0; --k) {
        const std::vector<double>& v = reflectors[k];
        if (v.empty()) continue;
        for (int i = k + 1; i < n; ++i) {
            double* row = t.basis.data() + i * stride;
            double sum = 0;
            for (int j = k + 1; j < n; ++j) sum += row[j] * v[j];
            for (int j = k + 1; j < n; ++j) row[j] -= 2 * sum * v[j];
        }
    }
    return t;
}

/// Implicit QL on the tridiagonal matrix; rows of the basis rotate along.
void diagonalize(Tridiagonal& t, int n) {
    constexpr double epsilon = std::numeric_limits<double>::epsilon();
    auto &d = t.diagonal, &e = t.below;
    // Of a matrix of low rank, most of T is rounding error: it need not be resolved relative to itself.
    double largest = 0;
    for (int i = 0; i < n; ++i) largest = std::max(largest, std::abs(d[i]) + std::abs(e[i]));
    const double negligible = 1e-3 * epsilon * largest;
    for (int l = 0; l < n; ++l)
        for (int iteration = 0;; ++iteration) {
            int m = l;
            while (m + 1 < n &&
                   std::abs(e[m]) > std::max(negligible, epsilon * (std::abs(d[m]) + std::abs(d[m + 1]))))
                ++m;
            if (m == l) break;
            if (iteration == 100) throw UncertaintyError("the eigenvalues of a covariance matrix did not converge");
            double g = (d[l + 1] - d[l]) / (2 * e[l]);
            g = d[m] - d[l] + e[l] / (g + std::copysign(std::hypot(g, 1.0), g));
            double s = 1, c = 1, shift = 0;
            int i = m - 1;
            for (; i >= l; --i) {
                double f = s * e[i];
                const double b = c * e[i], r = std::hypot(f, g);
                e[i + 1] = r;
                if (r == 0) {
                    d[i + 1] -= shift;
                    e[m] = 0;
                    break;
                }
                s = f / r;
                c = g / r;
                g = d[i + 1] - shift;
                const double q = (d[i] - g) * s + 2 * c * b;
                shift = s * q;
                d[i + 1] = g + shift;
                g = c * q - b;
                double* __restrict low = t.basis.data() + static_cast<std::size_t>(i) * n;
                double* __restrict high = low + n;
                for (int k = 0; k < n; ++k) {
                    const double below = low[k], above = high[k];
                    high[k] = s * below + c * above;
                    low[k] = c * below - s * above;
                }
            }
            if (i >= l) continue; // a rotation vanished
            d[l] -= shift;
            e[l] = g;
            e[m] = 0;
        }
}

} // namespace

Eigensystem eigensystem(std::vector<double> A, int n) {
    Tridiagonal t = tridiagonalize(A, n);
    diagonalize(t, n);
    std::vector<int> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int a, int b) { return t.diagonal[a] > t.diagonal[b]; });
    Eigensystem result{std::vector<double>(n), std::vector<double>(static_cast<std::size_t>(n) * n)};
    for (int k = 0; k < n; ++k) {
        result.values[k] = t.diagonal[order[k]];
        std::copy_n(t.basis.begin() + static_cast<std::ptrdiff_t>(order[k]) * n, n,
                    result.vectors.begin() + static_cast<std::ptrdiff_t>(k) * n);
    }
    return result;
}

bool cholesky(std::vector<double>& A, int n) {
    std::vector<double> scratch(static_cast<std::size_t>(factor_block) * (n + overrun));
    return kernels().metric.cholesky(A.data(), n, scratch.data());
}

double largest_eigenvalue(const std::vector<double>& A, int n) {
    const std::size_t stride = n;
    double trace = 0;
    for (int i = 0; i < n; ++i) trace += A[i * stride + i];
    if (!(trace > 0)) return 0;
    std::vector<double> v(n, 1.0), product(n);
    double estimate = 0;
    for (int iteration = 0; iteration < 40; ++iteration) {
        const double norm = std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
        if (norm == 0) break;
        std::fill(product.begin(), product.end(), 0.0);
        for (int i = 0; i < n; ++i) { // both triangles from the lower one
            const double* row = A.data() + i * stride;
            const double own = v[i] / norm;
            double sum = 0;
            for (int j = 0; j < i; ++j) {
                sum += row[j] * v[j];
                product[j] += row[j] * own;
            }
            product[i] += sum / norm + row[i] * own;
        }
        estimate = std::sqrt(std::inner_product(product.begin(), product.end(), product.begin(), 0.0));
        v = product;
    }
    for (double bound = std::max(1.03 * estimate, 1e-12 * trace); bound < trace; bound *= 1.15) {
        std::vector<double> difference(stride * stride);
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < i; ++j) difference[i * stride + j] = -A[i * stride + j];
            difference[i * stride + i] = bound - A[i * stride + i];
        }
        if (cholesky(difference, n)) return bound;
    }
    return trace;
}

AlignedVector<double> pack(const double* A, std::size_t row_step, std::size_t column_step, int n_terms, int n_columns) {
    const int n_panels = (n_columns + panel_width - 1) / panel_width;
    AlignedVector<double> packed;
    packed.reserve(static_cast<std::size_t>(n_terms) * n_panels * panel_width + overrun);
    for (int panel = 0; panel < n_panels; ++panel)
        for (int i = 0; i < n_terms; ++i)
            for (int j = panel * panel_width; j < (panel + 1) * panel_width; ++j)
                packed.push_back(j < n_columns ? A[i * row_step + j * column_step] : 0.0);
    packed.resize(packed.size() + overrun, 0.0);
    return packed;
}

template <class T>
AlignedVector<T> pack_lower(const std::vector<double>& W, int n) {
    constexpr int width = sizeof(T) == sizeof(double) ? panel_width : panel_width_single;
    AlignedVector<T> packed;
    packed.reserve(static_cast<std::size_t>(n) * (n + 2 * width) / 2 + 2 * overrun);
    for (int panel = 0; panel * width < n; ++panel) {
        const std::size_t n_terms = packed_panel_rows(n, panel, true, width);
        for (std::size_t term = 0; term < n_terms; ++term)
            for (int column = panel * width; column < (panel + 1) * width; ++column)
                packed.push_back(column < n ? static_cast<T>(W[static_cast<std::size_t>(column) * n + term]) : T(0));
    }
    packed.resize(packed.size() + 2 * overrun, T(0));
    return packed;
}
template AlignedVector<double> pack_lower<double>(const std::vector<double>&, int);
template AlignedVector<float> pack_lower<float>(const std::vector<double>&, int);

PackedInverse invert_lower(const std::vector<double>& L, int n) {
    PackedInverse result;
    result.inverse.resize(static_cast<std::size_t>(n) * n);
    std::size_t size = 0;
    for (int panel = 0; panel * panel_width < n; ++panel) size += packed_panel_rows(n, panel, false) * panel_width;
    result.backward.resize(size + overrun, 0.0);
    kernels().metric.invert_lower(L.data(), result.inverse.data(), result.backward.data(), n);
    result.forward = pack_lower<double>(result.inverse, n);
    return result;
}

} // namespace ideal::detail
