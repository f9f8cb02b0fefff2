#include "ideal/distribution.hpp"

#include "ideal/errors.hpp"
#include "kernel.hpp"
#include "parallel.hpp"

#include <cmath>
#include <string>

namespace ideal {
namespace {

constexpr std::size_t rows_per_piece = 64; // of the scatter matrix, a multiple of every kernel's tile

void add_squares(Distribution& d, const double* rows, std::size_t n_rows, std::size_t stride, int threads) {
    const auto& kernels = detail::kernels();
    const std::size_t n = d.dimension, n_pieces = (n + rows_per_piece - 1) / rows_per_piece;
    detail::parallel_for(n_pieces, threads, [&](std::size_t, std::size_t piece) {
        const std::size_t begin = (n_pieces - 1 - piece) * rows_per_piece; // long rows first
        const std::size_t end = std::min(n, begin + rows_per_piece);
        kernels.metric.rank_update(d.scatter.data(), n, static_cast<int>(n), static_cast<int>(begin),
                                   static_cast<int>(end), rows, stride, n_rows, 1.0);
    });
}

/// The rank-one part of Chan's rule, and the mean.
void shift_mean(Distribution& d, const double* delta, std::size_t other_count) {
    const double n = static_cast<double>(d.count), m = static_cast<double>(other_count), factor = n * m / (n + m);
    for (std::size_t i = 0; i < d.dimension; ++i) {
        double* row = d.scatter.data() + i * d.dimension;
        for (std::size_t j = 0; j <= i; ++j) row[j] += factor * delta[i] * delta[j];
    }
    for (std::size_t i = 0; i < d.dimension; ++i) d.mean[i] += delta[i] * (m / (n + m));
    d.count += other_count;
}

} // namespace

Distribution::Distribution(std::size_t dimension_)
    : dimension(dimension_), mean(dimension_, 0.0), scatter(dimension_ * dimension_, 0.0) {}

void Distribution::add_batch(double* batch, std::size_t n_rows, std::size_t stride, int threads) {
    if (n_rows == 0) return;
    std::vector<double> batch_mean(dimension, 0.0);
    // Two passes: the mean of the differences to the first row keeps all digits when rows are nearly equal.
    for (std::size_t k = 1; k < n_rows; ++k)
        for (std::size_t j = 0; j < dimension; ++j) batch_mean[j] += batch[k * stride + j] - batch[j];
    for (std::size_t j = 0; j < dimension; ++j) batch_mean[j] = batch[j] + batch_mean[j] / static_cast<double>(n_rows);
    detail::kernels().metric.subtract(batch, stride, static_cast<int>(n_rows), batch_mean.data(),
                                      static_cast<int>(dimension));
    add_squares(*this, batch, n_rows, stride, threads);
    for (std::size_t j = 0; j < dimension; ++j) batch_mean[j] -= mean[j];
    shift_mean(*this, batch_mean.data(), n_rows);
}

void Distribution::merge(const Distribution& other) {
    if (other.dimension != dimension)
        throw UncertaintyError("cannot merge distributions of dimension " + std::to_string(dimension) + " and " +
                               std::to_string(other.dimension) + "; use the same descriptor for both");
    if (other.count == 0) return;
    std::vector<double> delta(dimension);
    for (std::size_t j = 0; j < dimension; ++j) delta[j] = other.mean[j] - mean[j];
    for (std::size_t i = 0; i < dimension; ++i)
        for (std::size_t j = 0; j <= i; ++j) scatter[i * dimension + j] += other.scatter[i * dimension + j];
    shift_mean(*this, delta.data(), other.count);
}

} // namespace ideal
