// The kernels around the neighbors of a center: finding them, summing what they receive. Included by
// kernel_descriptor_impl.hpp only.
#pragma once

#include "kernel_vector.hpp"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace ideal::detail {
namespace {

int select(const SearchView& in, const HitsView& hits, double* nearest_squared) {
    const double cx = in.x[in.slot], cy = in.y[in.slot], cz = in.z[in.slot];
    int count = 0;
#ifdef __AVX512F__
    const __m512d center_x = _mm512_set1_pd(cx), center_y = _mm512_set1_pd(cy), center_z = _mm512_set1_pd(cz);
    const __m512d limit = _mm512_set1_pd(in.cutoff_squared), scale = _mm512_set1_pd(in.shells_per_square);
    const __m256i own = _mm256_set1_epi32(in.slot), n_shells = _mm256_set1_epi32(in.n_shells);
    const __m256i last_shell = _mm256_set1_epi32(in.n_shells - 1), eight = _mm256_set1_epi32(8);
    __m512d nearest = _mm512_set1_pd(__builtin_inf());
    for (int range = 0; range < in.n_ranges; ++range) {
        const int begin = in.ranges[2 * range], end = in.ranges[2 * range + 1];
        __m256i slots = _mm256_add_epi32(_mm256_set1_epi32(begin), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
        for (int i = begin; i < end; i += 8, slots = _mm256_add_epi32(slots, eight)) {
            const __m512d dx = _mm512_sub_pd(_mm512_loadu_pd(in.x + i), center_x);
            const __m512d dy = _mm512_sub_pd(_mm512_loadu_pd(in.y + i), center_y);
            const __m512d dz = _mm512_sub_pd(_mm512_loadu_pd(in.z + i), center_z);
            const __m512d squared = _mm512_fmadd_pd(dx, dx, _mm512_fmadd_pd(dy, dy, _mm512_mul_pd(dz, dz)));
            __mmask8 within = _mm512_cmp_pd_mask(squared, limit, _CMP_LE_OQ) & _mm256_cmpneq_epi32_mask(slots, own);
            if (end - i < 8) within &= static_cast<__mmask8>((1u << (end - i)) - 1);
            nearest = _mm512_mask_mov_pd(nearest, within & _mm512_cmp_pd_mask(squared, nearest, _CMP_LT_OQ), squared);
            const __m256i species = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in.species + i));
            const __m256i wanted = _mm512_maskz_cvttpd_epi32(0xff, _mm512_mul_pd(squared, scale));
            const __m256i shell = _mm256_min_epi32(wanted, last_shell);
            const __m256i key = _mm256_add_epi32(_mm256_mullo_epi32(species, n_shells), shell);
            // Compressed in registers and stored whole: compressing stores are slow on some processors.
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(hits.slot + count),
                                _mm256_maskz_compress_epi32(within, slots));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(hits.shell + count),
                                _mm256_maskz_compress_epi32(within, key));
            _mm512_storeu_pd(hits.x + count, _mm512_maskz_compress_pd(within, dx));
            _mm512_storeu_pd(hits.y + count, _mm512_maskz_compress_pd(within, dy));
            _mm512_storeu_pd(hits.z + count, _mm512_maskz_compress_pd(within, dz));
            count += __builtin_popcount(within);
        }
    }
    alignas(64) double least[8];
    _mm512_store_pd(least, nearest);
    *nearest_squared = least[0];
    for (int i = 1; i < 8; ++i)
        if (least[i] < *nearest_squared) *nearest_squared = least[i];
#else
    double nearest = __builtin_inf();
    for (int range = 0; range < in.n_ranges; ++range)
        for (int i = in.ranges[2 * range]; i < in.ranges[2 * range + 1]; ++i) {
            const double dx = in.x[i] - cx, dy = in.y[i] - cy, dz = in.z[i] - cz, squared = dx * dx + dy * dy + dz * dz;
            const bool within = squared <= in.cutoff_squared && i != in.slot;
            const int shell = static_cast<int>(squared * in.shells_per_square);
            hits.slot[count] = i;
            hits.shell[count] = in.species[i] * in.n_shells + (shell < in.n_shells ? shell : in.n_shells - 1);
            hits.x[count] = dx;
            hits.y[count] = dy;
            hits.z[count] = dz;
            nearest = within && squared < nearest ? squared : nearest;
            count += within; // without a branch: a third of the candidates hit, unpredictably
        }
    *nearest_squared = nearest;
#endif
    return count;
}

void normalize(int count, double* __restrict x, double* __restrict y, double* __restrict z, double* __restrict r,
               double* __restrict inverse_r) {
    for (int i = 0; i < count; ++i) r[i] = __builtin_sqrt(x[i] * x[i] + y[i] * y[i] + z[i] * z[i]);
    for (int i = 0; i < count; ++i) {
        inverse_r[i] = 1.0 / r[i];
        x[i] *= inverse_r[i];
        y[i] *= inverse_r[i];
        z[i] *= inverse_r[i];
    }
}

void reduce(const NeighborView& in, const double* gx, const double* gy, const double* gz, double* total,
            double* strain) {
    double x = 0, y = 0, z = 0, xx = 0, yy = 0, zz = 0, yz = 0, xz = 0, xy = 0;
    for (int j = 0; j < in.count; ++j) {
        const double r = in.r[j], dx = in.x[j] * r, dy = in.y[j] * r, dz = in.z[j] * r;
        x += gx[j];
        y += gy[j];
        z += gz[j];
        xx += dx * gx[j];
        yy += dy * gy[j];
        zz += dz * gz[j];
        yz += dy * gz[j] + dz * gy[j];
        xz += dx * gz[j] + dz * gx[j];
        xy += dx * gy[j] + dy * gx[j];
    }
    const double sums[9] = {x, y, z, xx, yy, zz, 0.5 * yz, 0.5 * xz, 0.5 * xy};
    for (int k = 0; k < 3; ++k) total[k] = sums[k];
    for (int k = 0; k < 6; ++k) strain[k] = sums[3 + k];
}

} // namespace
} // namespace ideal::detail
