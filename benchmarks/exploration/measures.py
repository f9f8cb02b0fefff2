"""How much of a space was seen, and how fast: the measures of Zaverkin et al. (2024), Methods.

Coverage: a complete k-ary tree over the bounded space (k = 4 for two angles, each halved per level) to depth L = 5;
a node of level l that was visited earns k^-l, so that every level is worth 1; the sum over the L + 1 levels is divided
by L + 1. Autocorrelation time: eq. 30,

    ACT = 1/2 + sum_k A(k) (1 - k/N),

the sum ended before the first negative A(k) as TensorFlow Probability's effective sample size does, which they used.

Npj Comput. Mater. 10, 83 (2024), doi:10.1038/s41524-024-01254-1.
"""

from __future__ import annotations

import numpy as np

from ideal.records import FloatArray

DEPTH = 5


def coverage(angles: FloatArray, depth: int = DEPTH) -> float:
    """Weighted share of the tree's nodes that were visited, 0 to 1.

    Args:
        angles: (n, d) in radians; taken modulo 2 pi.
        depth: L.

    Example:
        >>> round(coverage(np.zeros((1, 2))), 3)  # the root, and 1/4, 1/16, ... of the levels below
        0.222
    """
    points = np.mod(np.asarray(angles, dtype=np.float64).reshape(-1, np.shape(angles)[-1]) + np.pi, 2 * np.pi)
    if not len(points):
        return 0.0
    dimensions = points.shape[1]
    finest = np.minimum((points / (2 * np.pi) * 2**depth).astype(np.int64), 2**depth - 1)
    shares = []
    for level in range(depth + 1):
        nodes = np.unique(finest >> (depth - level), axis=0)
        shares.append(len(nodes) / 2 ** (dimensions * level))
    return float(np.mean(shares))


def autocorrelation(series: FloatArray) -> FloatArray:
    """A(k) of every column of (n, m) for k = 0 ... n - 1 (eq. 29), by fast Fourier transform; (n, m).

    Constant columns give NaN: they have no autocorrelation.
    """
    series = np.asarray(series, dtype=np.float64)
    n = len(series)
    deviations = series - series.mean(axis=0)
    spectrum = np.fft.rfft(deviations, 2 * n, axis=0)
    products = np.fft.irfft(spectrum * spectrum.conj(), 2 * n, axis=0)[:n] / np.arange(n, 0, -1)[:, None]
    with np.errstate(invalid="ignore"):
        return products / np.where(products[0] > 0, products[0], np.nan)


def autocorrelation_time(series: FloatArray, interval: float = 1.0) -> float:
    """ACT of (n, m), the mean over columns that vary, in the unit of ``interval``, the time between rows.

    Example:
        >>> independent = np.random.default_rng(0).normal(size=(20000, 2))
        >>> round(autocorrelation_time(independent), 1)
        0.5
    """
    correlations = autocorrelation(series)
    n = len(correlations)
    weights = 1 - np.arange(n) / n
    times = []
    for column in correlations.T[np.isfinite(correlations[0])]:
        negative = np.flatnonzero(column < 0)
        end = negative[0] if negative.size else n
        times.append(0.5 + float(column[1:end] @ weights[1:end]))
    if not times:
        raise ValueError("every series is constant and has no autocorrelation time; give trajectories that move")
    return interval * float(np.mean(times))


def rms(values: FloatArray) -> float:
    """Root mean square of all elements, in their unit."""
    return float(np.sqrt((values**2).mean()))
