// Dense linear algebra that runs once per rebuilt metric. Matrices are row-major.
#pragma once

#include "ideal/aligned.hpp"

#include <cstddef>
#include <vector>

namespace ideal::detail {

/// Eigenvalues, largest first, and eigenvectors (rows) of a symmetric matrix A (n, n), by Householder's reduction and
/// implicit QL steps (Golub and Van Loan, Matrix Computations, sec. 8.3).
struct Eigensystem {
    std::vector<double> values;
    std::vector<double> vectors;
};
Eigensystem eigensystem(std::vector<double> A, int n);

/// A (n, n), lower triangle -> Cholesky factor in place; false if A is not positive definite.
bool cholesky(std::vector<double>& A, int n);

/// Upper bound of the largest eigenvalue of a positive semidefinite A (n, n; lower triangle read), at most some percent
/// too high: an estimate from power iteration that a Cholesky factorization of (bound 1 - A) certifies.
double largest_eigenvalue(const std::vector<double>& A, int n);


/// Pack P (n_terms, n_columns), P[i][j] = A[i * row_step + j * column_step]; see kernel_metric.hpp.
AlignedVector<double> pack(const double* A, std::size_t row_step, std::size_t column_step, int n_terms, int n_columns);

/// Pack a lower triangular W (n, n) for rows * W^T.
template <class T>
AlignedVector<T> pack_lower(const std::vector<double>& W, int n);

/// W = L^-1 of a Cholesky factor, packed both ways.
struct PackedInverse {
    std::vector<double> inverse;    // (n, n) lower
    AlignedVector<double> forward;  // for rows * W^T
    AlignedVector<double> backward; // for rows * W
};
PackedInverse invert_lower(const std::vector<double>& L, int n);

} // namespace ideal::detail
