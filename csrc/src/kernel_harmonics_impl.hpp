// Real spherical harmonics and their adjoint; lanes are neighbors. Included by kernel_descriptor_impl.hpp only.
#pragma once

#include "kernel_vector.hpp"

namespace ideal::detail {
namespace {

/// Neighbors that go through the pipeline together; their harmonics and radial rows stay in the first-level cache.
constexpr int batch = 32;

constexpr int max_harmonics = (max_l + 1) * (max_l + 1);

/// Y[(l^2 + l + m) * batch + lane]; L < 0: degree known at run time only.
template <int L>
void harmonics(const BasisView& basis, const double* px, const double* py, const double* pz, double* Y) {
    const int l_max = L >= 0 ? L : basis.l_max;
    const HarmonicConstants& k = *basis.harmonics;
    const Lanes x = load_lanes(px), y = load_lanes(py), z = load_lanes(pz);
    Lanes cosine = zero<lanes>() + 1.0, sine = zero<lanes>(); // Re and Im of (x + iy)^m
    for (int m = 0; m <= l_max; ++m) {
        if (m > 0) {
            const Lanes next = cosine * x - sine * y;
            sine = cosine * y + sine * x;
            cosine = next;
        }
        Lanes below = zero<lanes>(), p = zero<lanes>() + k.start[m];
        for (int l = m; l <= l_max; ++l) {
            if (l > m) {
                const Lanes next = k.up[l][m] * z * p - k.back[l][m] * below;
                below = p;
                p = next;
            }
            double* center = Y + (l * l + l) * batch;
            store<lanes>(center + m * batch, p * cosine);
            if (m > 0) store<lanes>(center - m * batch, p * sine);
        }
    }
}

/// From a = dL/dY_lm and b = dL/dr's share per harmonic (both (harmonic, lane)) to dL/d(position).
template <int L>
void harmonics_adjoint(const BasisView& basis, const double* px, const double* py, const double* pz,
                       const double* p_inverse_r, const double* a, const double* b, double* gx, double* gy,
                       double* gz) {
    const int l_max = L >= 0 ? L : basis.l_max;
    constexpr int size = (L >= 0 ? L : max_l) + 2;
    const HarmonicConstants& k = *basis.harmonics;
    const Lanes x = load_lanes(px), y = load_lanes(py), z = load_lanes(pz), inverse_r = load_lanes(p_inverse_r);
    Lanes sx = zero<lanes>(), sy = sx, sz = sx, radial = sx;
    Lanes cosine = zero<lanes>() + 1.0, sine = zero<lanes>(), cosine_below = sine, sine_below = sine;
    Lanes pi[size], pi_next[size]; // Pi_l^m and Pi_l^{m+1}, l = 0 ... l_max
    auto associated = [&](int m, Lanes* out) {
        for (int l = 0; l < m && l <= l_max; ++l) out[l] = zero<lanes>();
        if (m > l_max) return;
        out[m] = zero<lanes>() + k.start[m];
        for (int l = m + 1; l <= l_max; ++l) {
            out[l] = k.up[l][m] * z * out[l - 1];
            if (l > m + 1) out[l] -= k.back[l][m] * out[l - 2];
        }
    };
    associated(0, pi);
    for (int m = 0; m <= l_max; ++m) {
        associated(m + 1, pi_next);
        if (m > 0) {
            cosine_below = cosine;
            sine_below = sine;
            const Lanes next = cosine * x - sine * y;
            sine = cosine * y + sine * x;
            cosine = next;
        }
        Lanes tc = zero<lanes>(), ts = tc, uc = tc, us = tc, rc = tc, rs = tc;
        for (int l = m; l <= l_max; ++l) {
            const int plus = (l * l + l + m) * lanes, minus = (l * l + l - m) * lanes;
            const Lanes slope = k.slope[l][m] * pi_next[l];
            const Lanes ac = load_lanes(a + plus);
            tc += ac * pi[l];
            uc += ac * slope;
            rc += load_lanes(b + plus) * pi[l];
            if (m > 0) {
                const Lanes as = load_lanes(a + minus);
                ts += as * pi[l];
                us += as * slope;
                rs += load_lanes(b + minus) * pi[l];
            }
        }
        if (m > 0) {
            sx += double(m) * (tc * cosine_below + ts * sine_below);
            sy += double(m) * (ts * cosine_below - tc * sine_below);
        }
        sz += uc * cosine + us * sine;
        radial += rc * cosine + rs * sine;
        for (int l = 0; l <= l_max; ++l) pi[l] = pi_next[l];
    }
    const Lanes along = radial - (sx * x + sy * y + sz * z) * inverse_r;
    store<lanes>(gx, along * x + sx * inverse_r);
    store<lanes>(gy, along * y + sy * inverse_r);
    store<lanes>(gz, along * z + sz * inverse_r);
}

using HarmonicsFunction = void (*)(const BasisView&, const double*, const double*, const double*, double*);
using HarmonicsAdjointFunction = void (*)(const BasisView&, const double*, const double*, const double*, const double*,
                                          const double*, const double*, double*, double*, double*);

HarmonicsFunction harmonics_for(int l_max) {
    switch (l_max) {
    case 3: return harmonics<3>;
    case 4: return harmonics<4>;
    case 6: return harmonics<6>;
    case 8: return harmonics<8>;
    default: return harmonics<-1>;
    }
}

HarmonicsAdjointFunction harmonics_adjoint_for(int l_max) {
    switch (l_max) {
    case 3: return harmonics_adjoint<3>;
    case 4: return harmonics_adjoint<4>;
    case 6: return harmonics_adjoint<6>;
    case 8: return harmonics_adjoint<8>;
    default: return harmonics_adjoint<-1>;
    }
}

} // namespace
} // namespace ideal::detail
