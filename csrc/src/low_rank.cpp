// The low rank + residual form of the metric: equations in ideal/metric.hpp.
#include "ideal/errors.hpp"
#include "linear_algebra.hpp"
#include "metric_form.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

namespace ideal::detail {

/// Sigma in the eigenbases of its diagonal blocks.
struct LowRankForm::Spectrum {
    std::vector<Eigensystem> blocks;
    std::vector<double> covariance; // (n, n), block after block, eigenvalues of a block descend
};

namespace {

/// One block unless told otherwise would be as costly as the full form: blocks of about this size.
constexpr std::size_t default_block = 128;

std::vector<FeatureRun> equal_runs(std::size_t n) {
    const std::size_t n_blocks = (n + default_block - 1) / default_block;
    std::vector<FeatureRun> runs;
    for (std::size_t b = 0; b < n_blocks; ++b)
        runs.push_back({b * n / n_blocks, (b + 1) * n / n_blocks - b * n / n_blocks, b});
    return runs;
}

} // namespace

LowRankForm::LowRankForm(std::vector<double> mean, const std::vector<double>& covariance, double ridge,
                         const std::vector<FeatureRun>& runs, std::size_t rank, double tolerance)
    : dimension_(mean.size()), ridge_(ridge), order_(runs.empty() ? equal_runs(mean.size()) : runs) {
    const std::size_t n = dimension_;
    std::stable_sort(order_.begin(), order_.end(),
                     [](const FeatureRun& a, const FeatureRun& b) { return a.block < b.block; });
    std::vector<std::size_t> source; // of each feature in the new order
    std::size_t last_block = 0;
    for (const FeatureRun& run : order_) {
        if (blocks_.empty() || run.block != last_block) blocks_.push_back({source.size(), 0, 0, 0, {}, {}});
        last_block = run.block;
        blocks_.back().size += run.size;
        for (std::size_t i = 0; i < run.size; ++i) source.push_back(run.begin + i);
    }
    if (source.size() != n) throw UncertaintyError("the blocks of a metric do not cover its features");
    mean_.resize(n);
    for (std::size_t i = 0; i < n; ++i) mean_[i] = mean[source[i]];

    Spectrum spectrum;
    std::vector<double> ordered(n * n + overrun);
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j) ordered[i * n + j] = covariance[source[i] * n + source[j]];
    std::vector<AlignedVector<double>> packed;
    for (const Block& block : blocks_) {
        std::vector<double> own(block.size * block.size);
        for (std::size_t i = 0; i < block.size; ++i)
            std::copy_n(&ordered[(block.begin + i) * n + block.begin], block.size, &own[i * block.size]);
        spectrum.blocks.push_back(eigensystem(std::move(own), static_cast<int>(block.size)));
        const int size = static_cast<int>(block.size);
        packed.push_back(pack(spectrum.blocks.back().vectors.data(), 1, block.size, size, size));
    }
    const std::size_t stride = n + overrun;
    std::vector<double> half(n * stride + overrun);
    for (int side = 0; side < 2; ++side) { // Q Sigma Q^T, Q the eigenvectors of all blocks
        for (std::size_t b = 0; b < blocks_.size(); ++b) {
            const Block& block = blocks_[b];
            const int size = static_cast<int>(block.size);
            kernels().metric.multiply(ordered.data() + block.begin, n, static_cast<int>(n), packed[b].data(), size,
                                      size, half.data() + block.begin, stride);
        }
        for (std::size_t i = 0; i < n; ++i)
            for (std::size_t j = 0; j < n; ++j) ordered[j * n + i] = half[i * stride + j];
    }
    spectrum.covariance = std::move(ordered);

    if (rank > 0) {
        choose(spectrum, 0, rank);
        build(spectrum);
        return;
    }
    // u / u_full is within about (1 - sqrt h)^(+-1/2), and h is about the largest variance dropped over the ridge.
    const double root = 1 - 1 / ((1 + tolerance) * (1 + tolerance));
    double least_variance = root * root * ridge;
    for (int attempt = 0;; ++attempt) {
        if (attempt == 8) least_variance = 0; // keep everything: exact
        choose(spectrum, least_variance, n);
        build(spectrum);
        const double error = std::max(std::sqrt(upper_) - 1, 1 - std::sqrt(lower_));
        if (error <= tolerance || least_variance == 0) return;
        least_variance *= std::isfinite(error) ? std::max(0.1, 0.9 * std::pow(tolerance / error, 2)) : 0.1;
    }
}

/// Keep the `rank` largest eigenvalues of all blocks among those above `least_variance`; at least the largest one.
void LowRankForm::choose(const Spectrum& spectrum, double least_variance, std::size_t rank) {
    std::vector<double> all;
    for (const Eigensystem& block : spectrum.blocks) all.insert(all.end(), block.values.begin(), block.values.end());
    std::sort(all.begin(), all.end(), std::greater<>());
    rank = std::clamp<std::size_t>(rank, 1, dimension_);
    const double smallest =
        least_variance > 0 ? std::min(all.front(), std::max(least_variance, all[rank - 1])) : all[rank - 1];
    rank_ = 0;
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
        const auto& values = spectrum.blocks[b].values;
        blocks_[b].first = rank_;
        blocks_[b].kept = static_cast<std::size_t>(
            std::count_if(values.begin(), values.end(), [&](double value) { return value >= smallest; }));
        rank_ += blocks_[b].kept;
    }
}

void LowRankForm::build(const Spectrum& spectrum) {
    const std::size_t n = dimension_, q = rank_, r = n - q;
    std::vector<std::size_t> kept, dropped;
    weight_.clear();
    std::vector<double> scale;
    double dropped_trace = 0;
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
        Block& block = blocks_[b];
        const Eigensystem& own = spectrum.blocks[b];
        std::vector<double> T(block.kept * block.size);
        for (std::size_t k = 0; k < block.size; ++k) {
            if (k >= block.kept) {
                dropped.push_back(block.begin + k);
                dropped_trace += std::max(0.0, own.values[k]);
                continue;
            }
            kept.push_back(block.begin + k);
            const double variance = std::max(0.0, own.values[k]) + ridge_;
            weight_.push_back(variance / ridge_);
            scale.push_back(1 / std::sqrt(variance));
            for (std::size_t i = 0; i < block.size; ++i)
                T[k * block.size + i] = scale.back() * own.vectors[k * block.size + i];
        }
        const int size = static_cast<int>(block.size), n_kept = static_cast<int>(block.kept);
        block.forward = pack(T.data(), 1, block.size, size, n_kept);
        block.backward = pack(T.data(), block.size, 1, n_kept, size);
    }
    const auto sigma = [&](std::size_t i, std::size_t j) { return spectrum.covariance[i * n + j]; };
    std::vector<double> C(q * q);
    for (std::size_t i = 0; i < q; ++i)
        for (std::size_t j = 0; j <= i; ++j)
            C[i * q + j] = scale[i] * scale[j] * (sigma(kept[i], kept[j]) + (i == j ? ridge_ : 0.0));
    if (!cholesky(C, static_cast<int>(q)))
        throw UncertaintyError("the covariance with its ridge is not positive definite; use a larger ridge (1e-8 is "
                               "the default)");
    PackedInverse W = invert_lower(C, static_cast<int>(q));
    forward_ = std::move(W.forward);
    backward_ = std::move(W.backward);
    forward_single_ = pack_lower<float>(W.inverse, static_cast<int>(q));

    // d_eff = tr[Sigma E^-1]; and the norms of |W| that bound its rounding to and products in float32.
    double inverse_trace = 0, largest_row = 0;
    std::vector<double> column_sums(q, 0.0), column_squares(q, 0.0);
    for (std::size_t i = 0; i < q; ++i) {
        double row_sum = 0;
        for (std::size_t j = 0; j <= i; ++j) {
            const double w = std::abs(W.inverse[i * q + j]);
            row_sum += w;
            column_sums[j] += w;
            column_squares[j] += w * w;
        }
        largest_row = std::max(largest_row, row_sum);
    }
    for (std::size_t j = 0; j < q; ++j) inverse_trace += column_squares[j] * scale[j] * scale[j];
    effective_dimension_ = static_cast<double>(q) - ridge_ * inverse_trace + dropped_trace / ridge_;
    const double norm = std::sqrt(largest_row * *std::max_element(column_sums.begin(), column_sums.end()));
    single_error_ = norm * (static_cast<double>(q) + 4) * 1.01 * 0x1p-24;

    lower_ = upper_ = 1;
    if (r == 0) return;
    std::vector<double> D(r * r), H(r * r, 0.0);
    for (std::size_t i = 0; i < r; ++i)
        for (std::size_t j = 0; j <= i; ++j) D[i * r + j] = sigma(dropped[i], dropped[j]);
    const std::size_t stride = q + overrun + panel_width;
    std::vector<double> B(r * stride), solved(r * stride), transposed(q * (r + overrun));
    for (std::size_t i = 0; i < r; ++i)
        for (std::size_t j = 0; j < q; ++j) B[i * stride + j] = scale[j] * sigma(dropped[i], kept[j]);
    const auto& kernels = detail::kernels().metric;
    kernels.multiply_triangular(B.data(), stride, static_cast<int>(r), forward_.data(), static_cast<int>(q), true,
                                solved.data(), stride);
    for (std::size_t i = 0; i < r; ++i)
        for (std::size_t j = 0; j < q; ++j) transposed[j * (r + overrun) + i] = solved[i * stride + j];
    kernels.rank_update(H.data(), r, static_cast<int>(r), 0, static_cast<int>(r), transposed.data(), r + overrun, q,
                        1.0);
    const double h = largest_eigenvalue(H, static_cast<int>(r)) / ridge_;
    const double d = largest_eigenvalue(D, static_cast<int>(r)) / ridge_;
    lower_ = std::max(0.0, 1 - std::sqrt(h));
    double low = 0, high = 1; // (1 - a)(1 - a - a d) - a^2 h falls from 1 to -h
    for (int step = 0; step < 60; ++step) {
        const double a = 0.5 * (low + high);
        ((1 - a) * (1 - a - a * d) > a * a * h && 1 - a - a * d > 0 ? low : high) = a;
    }
    upper_ = low > 0 ? 1 / low : std::numeric_limits<double>::infinity();
}

double LowRankForm::cost() const {
    double sum = 0.5 * static_cast<double>(rank_) * static_cast<double>(rank_);
    for (const Block& block : blocks_) sum += static_cast<double>(block.size) * static_cast<double>(block.kept);
    return sum;
}

void LowRankForm::center(const double* features, std::size_t stride, int n_rows, double* centered) const {
    const auto& kernels = detail::kernels().metric;
    for (int k = 0; k < n_rows; ++k) {
        const double* row = features + k * stride;
        double* out = centered + k * centered_stride();
        const double* mean = mean_.data();
        for (const FeatureRun& run : order_) {
            kernels.difference(row + run.begin, mean, static_cast<int>(run.size), out);
            out += run.size;
            mean += run.size;
        }
    }
}

void LowRankForm::project(const double* features, std::size_t stride, int n_rows, MetricScratch& scratch) const {
    scratch.centered.resize(centered_stride() * n_rows + overrun);
    scratch.y.resize(y_stride() * n_rows + overrun);
    center(features, stride, n_rows, scratch.centered.data());
    for (const Block& block : blocks_) // in order: each one's last panel reaches into the next one's room
        kernels().metric.multiply(scratch.centered.data() + block.begin, centered_stride(), n_rows,
                                  block.forward.data(), static_cast<int>(block.size), static_cast<int>(block.kept),
                                  scratch.y.data() + block.first, y_stride());
}

/// (|v - mean|^2 - |T (v - mean)|^2) / ridge. Both are at most the trace / ridge = 1e8 times Unc, so rounding leaves
/// 1e-8 of Unc at worst.
double LowRankForm::residual(const double* centered, const double* y) const {
    const auto& kernels = detail::kernels().metric;
    return std::max(0.0, kernels.sum_of_squares(centered, static_cast<int>(dimension_)) / ridge_ -
                             kernels.weighted_squares(weight_.data(), y, static_cast<int>(rank_)));
}

void LowRankForm::squared(double* features, std::size_t stride, int n_rows, MetricScratch& scratch,
                          double* unc) const {
    project(features, stride, n_rows, scratch);
    scratch.z.resize(y_stride() * n_rows + overrun);
    const auto& kernels = detail::kernels().metric;
    const int q = static_cast<int>(rank_);
    kernels.multiply_triangular(scratch.y.data(), y_stride(), n_rows, forward_.data(), q, true, scratch.z.data(),
                                y_stride());
    for (int k = 0; k < n_rows; ++k)
        unc[k] = kernels.sum_of_squares(scratch.z.data() + k * y_stride(), q) +
                 residual(scratch.centered.data() + k * centered_stride(), scratch.y.data() + k * y_stride());
}

/// 2 slope [T^T (W^T z - weight y) + (v - mean) / ridge], y and T scaled.
void LowRankForm::adjoint(const int* rows, const double* slope, int n_rows, std::size_t stride,
                          MetricScratch& scratch, double* adjoint) const {
    const auto& kernels = detail::kernels().metric;
    const int q = static_cast<int>(rank_);
    for (int k = 0; k < n_rows; ++k) // active rows move to the front
        std::copy_n(scratch.z.data() + rows[k] * y_stride(), rank_, scratch.z.data() + k * y_stride());
    scratch.active.resize(std::max(y_stride(), centered_stride()) * n_rows + overrun);
    kernels.multiply_triangular(scratch.z.data(), y_stride(), n_rows, backward_.data(), q, false,
                                scratch.active.data(), y_stride());
    for (int k = 0; k < n_rows; ++k) {
        double* z = scratch.z.data() + k * y_stride();
        const double* a = scratch.active.data() + k * y_stride();
        const double* y = scratch.y.data() + rows[k] * y_stride();
        for (std::size_t i = 0; i < rank_; ++i) z[i] = a[i] - weight_[i] * y[i];
    }
    for (const Block& block : blocks_)
        kernels.multiply(scratch.z.data() + block.first, y_stride(), n_rows, block.backward.data(),
                         static_cast<int>(block.kept), static_cast<int>(block.size),
                         scratch.active.data() + block.begin, centered_stride());
    for (int k = 0; k < n_rows; ++k) {
        const double* in = scratch.active.data() + k * centered_stride();
        const double* centered = scratch.centered.data() + rows[k] * centered_stride();
        double* out = adjoint + k * stride;
        for (const FeatureRun& run : order_) {
            for (std::size_t i = 0; i < run.size; ++i)
                out[run.begin + i] = 2 * slope[k] * (in[i] + centered[i] / ridge_);
            in += run.size;
            centered += run.size;
        }
    }
}

void LowRankForm::squared_single(const double* features, std::size_t stride, int n_rows, MetricScratch& scratch,
                                 double* unc, double* low, double* high) const {
    project(features, stride, n_rows, scratch);
    const std::size_t size = y_stride() * n_rows + 2 * overrun;
    scratch.y_single.resize(size);
    scratch.z_single.resize(size);
    const auto& kernels = detail::kernels().metric;
    const int q = static_cast<int>(rank_);
    for (int k = 0; k < n_rows; ++k)
        kernels.to_single(scratch.y.data() + k * y_stride(), q, scratch.y_single.data() + k * y_stride());
    kernels.multiply_triangular_single(scratch.y_single.data(), y_stride(), n_rows, forward_single_.data(), q,
                                       scratch.z_single.data(), y_stride());
    for (int k = 0; k < n_rows; ++k) {
        const double* y = scratch.y.data() + k * y_stride();
        const double length = std::sqrt(kernels.sum_of_squares_single(scratch.z_single.data() + k * y_stride(), q));
        const double error = single_error_ * std::sqrt(kernels.sum_of_squares(y, q));
        const double rest = residual(scratch.centered.data() + k * centered_stride(), y);
        const double least = std::max(0.0, length - error);
        unc[k] = length * length + rest;
        low[k] = (least * least + rest) * (1 - 1e-9);
        high[k] = ((length + error) * (length + error) + rest) * (1 + 1e-9);
    }
}

void LowRankForm::confirm(const int* rows, int n_rows, MetricScratch& scratch, double* unc) const {
    const auto& kernels = detail::kernels().metric;
    const int q = static_cast<int>(rank_);
    scratch.z.resize(y_stride() * n_rows + overrun);
    scratch.active.resize(y_stride() * n_rows + overrun);
    for (int k = 0; k < n_rows; ++k)
        std::copy_n(scratch.y.data() + rows[k] * y_stride(), rank_, scratch.active.data() + k * y_stride());
    kernels.multiply_triangular(scratch.active.data(), y_stride(), n_rows, forward_.data(), q, true, scratch.z.data(),
                                y_stride());
    for (int k = 0; k < n_rows; ++k)
        unc[k] =
            kernels.sum_of_squares(scratch.z.data() + k * y_stride(), q) +
            residual(scratch.centered.data() + rows[k] * centered_stride(), scratch.y.data() + rows[k] * y_stride());
}

} // namespace ideal::detail
