// How a metric is applied to a chunk of centers: the full form, and low rank + residual (equations: ideal/metric.hpp).
#pragma once

#include "ideal/aligned.hpp"
#include "ideal/metric.hpp"
#include "kernel.hpp"

#include <cstddef>
#include <vector>

namespace ideal::detail {

/// What one thread needs between values and gradient of a chunk; grows, never shrinks.
struct MetricScratch {
    AlignedVector<double> centered, y, z, active;
    AlignedVector<float> y_single, z_single;
};

class MetricForm {
public:
    virtual ~MetricForm() = default;
    /// Unc of each row of features (n_rows, stride), which may be overwritten.
    virtual void squared(double* features, std::size_t stride, int n_rows, MetricScratch& scratch,
                         double* unc) const = 0;
    /// After squared(): row k of `adjoint` = slope_k d(Unc of row rows_k)/d(features). Rows ascend; scratch is used up.
    virtual void adjoint(const int* rows, const double* slope, int n_rows, std::size_t stride, MetricScratch& scratch,
                         double* adjoint) const = 0;
};

class FullForm : public MetricForm {
public:
    /// covariance (n, n), lower triangle.
    FullForm(std::vector<double> mean, std::vector<double> covariance, double ridge);
    void squared(double* features, std::size_t stride, int n_rows, MetricScratch& scratch, double* unc) const override;
    void adjoint(const int* rows, const double* slope, int n_rows, std::size_t stride, MetricScratch& scratch,
                 double* adjoint) const override;
    double effective_dimension() const { return effective_dimension_; }

private:
    std::vector<double> mean_;
    AlignedVector<double> forward_, backward_;
    double effective_dimension_ = 0;
};

class LowRankForm : public MetricForm {
public:
    /// rank 0: as the tolerance asks for.
    LowRankForm(std::vector<double> mean, const std::vector<double>& covariance, double ridge,
                const std::vector<FeatureRun>& runs, std::size_t rank, double tolerance);
    void squared(double* features, std::size_t stride, int n_rows, MetricScratch& scratch, double* unc) const override;
    void adjoint(const int* rows, const double* slope, int n_rows, std::size_t stride, MetricScratch& scratch,
                 double* adjoint) const override;

    /// Unc with its correlation part in float32, and bounds on what squared() would give (to rounding in float64).
    /// Features are left as they are.
    void squared_single(const double* features, std::size_t stride, int n_rows, MetricScratch& scratch, double* unc,
                        double* low, double* high) const;
    /// After squared_single(): Unc of the rows (ascending) as squared() gives it.
    void confirm(const int* rows, int n_rows, MetricScratch& scratch, double* unc) const;

    double effective_dimension() const { return effective_dimension_; }
    std::size_t rank() const { return rank_; }
    double lower() const { return lower_; }
    double upper() const { return upper_; }
    /// Products per center, to compare with n^2 / 2 of the full form.
    double cost() const;

private:
    struct Block {
        std::size_t begin, size; // of the centered features, block after block
        std::size_t first, kept; // of y
        AlignedVector<double> forward, backward;
    };
    struct Spectrum;
    void choose(const Spectrum& spectrum, double least_variance, std::size_t rank);
    void build(const Spectrum& spectrum);
    void center(const double* features, std::size_t stride, int n_rows, double* centered) const;
    void project(const double* features, std::size_t stride, int n_rows, MetricScratch& scratch) const;
    double residual(const double* centered, const double* y) const;
    std::size_t centered_stride() const { return dimension_ + overrun; }
    std::size_t y_stride() const { return (rank_ + 31) / 32 * 32 + overrun; }

    std::size_t dimension_, rank_ = 0;
    double ridge_, effective_dimension_ = 0, lower_ = 1, upper_ = 1;
    std::vector<FeatureRun> order_; // runs of features, block after block
    std::vector<double> mean_;      // in that order
    std::vector<Block> blocks_;
    // y is scaled to unit variance, y_i = (T v)_i / sqrt(s_i + ridge); weight_i = (s_i + ridge) / ridge.
    std::vector<double> weight_;
    AlignedVector<double> forward_, backward_; // inverse Cholesky factor of the correlation matrix of y
    AlignedVector<float> forward_single_;
    double single_error_ = 0; // |z in float32 - z| <= single_error |y|
};

} // namespace ideal::detail
