// Mean and covariance of a growing set of vectors, in one pass and without cancellation.
//
// Two sets merge by Chan's rule (T. F. Chan, G. H. Golub, R. J. LeVeque, Am. Stat. 37, 242 (1983)):
//   delta = mean_b - mean_a,  M2 = M2_a + M2_b + n_a n_b / (n_a + n_b) delta delta^T,
// and a batch is a set whose M2 is formed about its own mean. The textbook sum(v v^T) - n mean mean^T is never formed:
// on nearly perfect crystals it is not positive definite.
#pragma once

#include <cstddef>
#include <vector>

namespace ideal {

struct Distribution {
    /// Length of a vector.
    std::size_t dimension = 0;
    /// How many vectors have been seen.
    std::size_t count = 0;
    /// (dimension) their mean.
    std::vector<double> mean;
    /// (dimension, dimension) sum of (v - mean)(v - mean)^T, row-major. Only the lower triangle is kept up to date.
    std::vector<double> scatter;

    Distribution() = default;
    explicit Distribution(std::size_t dimension);

    /// Learn a batch of vectors (rows of stride `stride` doubles). The batch is used as scratch: its rows are centered
    /// in place.
    void add_batch(double* batch, std::size_t n_rows, std::size_t stride, int threads = 1);

    /// Learn everything the other distribution has learnt.
    void merge(const Distribution& other);
};

} // namespace ideal
