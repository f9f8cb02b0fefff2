// The border between portable code and the kernels that are compiled once per instruction set.
//
// Only plain pointers and plain structs cross it. A kernel translation unit must not instantiate any standard library
// template: the linker would merge its copy (compiled for AVX-512, say) with everybody's and the program would die on
// older processors.
#pragma once

#include "kernel_metric.hpp"
#include "kernel_model.hpp"

#include <cstddef>

namespace ideal::detail {

constexpr int max_l = 12;
/// Rows of the radial table that an interval needs: quintic splines.
constexpr int spline_terms = 6;
/// Doubles that vector code may read or write past the end of an array.
constexpr int overrun = 32;

/// Constants of the recurrences for real spherical harmonics on the unit sphere,
///   Y_lm = Pi_l^|m|(z) Re (x + iy)^m (m >= 0) or Pi_l^|m|(z) Im (x + iy)^|m| (m < 0),
///   Pi_m^m = start[m],   Pi_l^m = up[l][m] z Pi_{l-1}^m - back[l][m] Pi_{l-2}^m,
///   d Pi_l^m / dz = slope[l][m] Pi_l^{m+1}.
struct HarmonicConstants {
    double start[max_l + 2];
    double up[max_l + 1][max_l + 2];
    double back[max_l + 1][max_l + 2];
    double slope[max_l + 1][max_l + 2];
};

/// Everything a kernel must know of the descriptor.
struct BasisView {
    int n_species;
    int n_max;
    /// n_max rounded up to a width that fills vectors.
    int n_padded;
    int l_max;
    /// (l_max + 1)^2.
    int n_harmonics;
    /// Doubles of a row of the table: (l_max + 1) n_padded rounded up to 8.
    int row_stride;
    /// The radial functions without taper are cardinal quintic splines on nodes r = k spacing; up to the support there
    /// are n_intervals intervals.
    int n_intervals;
    double spacing, inverse_spacing;
    /// (n_intervals + 6, row_stride) coefficients of f_nl, l slowest: interval k uses the rows k ... k + 5. The square
    /// root of the power spectrum's prefactor is in.
    const double* table;
    /// The taper falls from 1 at taper_begin to 0 at taper_begin + 1 / inverse_taper_width; no taper: both zero.
    double taper_begin, inverse_taper_width;
    const HarmonicConstants* harmonics;
    /// Channels of the expansion coefficients: the species and, where the compression uses it, their sum.
    int n_channels;
    /// Pairs of channels whose product is kept, (n_pairs, 2); a channel with itself gives n' >= n only.
    const int* pairs;
    int n_pairs;
    /// (n_species) factor on each species' coefficients, or null.
    const double* weights;
};

/// The neighbors of one center, sorted by species. Arrays are readable `overrun` doubles past the end.
struct NeighborView {
    int count;
    /// (n_species + 1) where each species starts.
    const int* first;
    /// Unit vectors, distances (Å) and their inverses.
    const double *x, *y, *z, *r, *inverse_r;
};

/// What is searched for the neighbors of one slot.
struct SearchView {
    /// Coordinates and species of all slots; readable `overrun` past the end of a range.
    const double *x, *y, *z;
    const int* species;
    /// Runs of slots as pairs (begin, end).
    const int* ranges;
    int n_ranges;
    /// The center, which is not its own neighbor.
    int slot;
    double cutoff_squared;
    /// A neighbor's shell is species * n_shells + min(n_shells - 1, shells_per_square r^2).
    int n_shells;
    double shells_per_square;
};

/// Neighbors as they are found; room for all candidates and `overrun` more.
struct HitsView {
    int *slot, *shell;
    double *x, *y, *z; // displacements
};

/// Kernels for one padded n. Expansion coefficients c are (n_channels, n_harmonics, n_padded); harmonic (l, m) has the
/// index l^2 + l + m. `present` holds a flag per channel: the coefficients of the others are zero, whatever stands there.
struct BasisKernels {
    /// c += the neighbors' contribution, for the species.
    void (*expand)(const BasisView&, const NeighborView&, double* c);
    /// Applies the weights and forms the sum.
    void (*combine)(const BasisView&, const unsigned char* present, double* c);
    /// c -> features, writing up to `overrun` doubles past them.
    void (*power_spectrum)(const BasisView&, const unsigned char* present, const double* c, double* features);
    /// dL/d(features) -> dL/dc (overwritten, where present), for c as it was before `combine`.
    void (*power_spectrum_adjoint)(const BasisView&, const unsigned char* present, const double* c,
                                   const double* adjoint, double* c_adjoint);
    /// dL/dc -> dL/d(neighbor position), written up to `overrun` past the end.
    void (*expand_adjoint)(const BasisView&, const NeighborView&, const double* c_adjoint, double* gx, double* gy,
                           double* gz);
};

struct Kernels {
    const char* name;

    /// nullptr for an n_padded without kernels.
    const BasisKernels* (*basis_kernels)(int n_padded);

    /// Writes the neighbors to hits and the least squared distance to nearest_squared; returns how many there are.
    int (*select)(const SearchView&, const HitsView& hits, double* nearest_squared);
    /// In place: displacements x, y, z -> unit vectors; r and inverse_r written.
    void (*normalize)(int count, double* x, double* y, double* z, double* r, double* inverse_r);
    /// Sums over the neighbors of gradients g: (3) of g, and (6) of the symmetric part of d g^T, d = r (x, y, z), in
    /// the order xx, yy, zz, yz, xz, xy.
    void (*reduce)(const NeighborView&, const double* gx, const double* gy, const double* gz, double* total,
                   double* strain);

    MetricKernels metric;
    ModelKernels model;
};

const Kernels& baseline_kernels();
#ifdef IDEAL_X86_KERNELS
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

/// The variant in use.
const Kernels& kernels();

} // namespace ideal::detail
