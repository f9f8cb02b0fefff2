"""Conformal bounds on errors from pairs (u, error) that come in cells of correlated atoms.

With one score s = error / g(u) per atom, K cells that count alike and n_c atoms in cell c,

    F(s) = sum_c 1/(K + 1) sum_{i in c} 1/n_c [s_i <= s]            q = min {s : F(s) >= 1 - alpha}

bounds a further atom of a further cell, P(error <= q g(u)) >= 1 - alpha, however alike the atoms of one cell are: the
point at infinity, which pays for what was not seen, has the weight of a whole cell (hierarchical conformal prediction:
Lee, Barber, Willett, arXiv:2306.06342). With n_c = 1 it is the (1 - alpha)(n + 1)/n quantile of the scores.

g is the *shape*: how errors grow with u. g(u) = u is the customary choice (Zaverkin et al. 2024); but errors have a
floor that u knows nothing of, and far out they may grow faster than u, so that q u covers too seldom at one end and too
often at the other. `ErrorShape` follows the data instead: in bins of u that hold enough cells, the conformal
quantile of the error itself; between the bins log error is linear in log u and never falls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ideal.errors import UncertaintyError
from ideal.records import FloatArray

BIN_RATIO = 1.3
"""The largest u of a bin is at least this times the smallest: narrower bins follow noise."""

_TINY = 1e-12


def conformal_scale(u: ArrayLike, error: ArrayLike, cell: ArrayLike, confidence: float) -> float:
    """The q for the score error / u, all cells counting alike.

    Args:
        u: (n,) uncertainty, finite.
        error: (n,) force error, eV/Å.
        cell: (n,) number or name of the cell of each pair.
        confidence: 1 - alpha.

    Returns:
        eV/Å per unit of u; infinite with fewer than (1 - alpha) / alpha cells.

    Raises:
        UncertaintyError: shapes differ, or a number is negative or not a number.

    Example:
        >>> conformal_scale([1.0, 1.0, 1.0], [0.1, 0.2, 0.3], [0, 1, 2], confidence=0.5)
        0.2
    """
    values, errors = checked_pairs("conformal_scale", u, error)
    masses = cell_masses(*_numbered("conformal_scale", cell, values.size))
    return smallest_score(ratio(errors, values), masses, confidence)


def _numbered(name: str, cell: ArrayLike, n: int) -> tuple[NDArray[np.int64], FloatArray]:
    """The number of each pair's cell (n,), and the weights of cells that count alike (n_cells,)."""
    _, numbers = np.unique(np.asarray(cell), return_inverse=True)
    if numbers.shape != (n,):
        raise UncertaintyError(f"{name}: cell of shape {numbers.shape} for {n} pairs; give one each")
    return numbers.astype(np.int64), np.ones(numbers.max() + 1)


def cell_masses(cell: NDArray[np.int64], weight: FloatArray) -> FloatArray:
    """What F gives each pair; together they fall short of 1 by the mass at infinity.

    Args:
        cell: (n,) number of the cell of each pair, an index into ``weight``.
        weight: (n_cells,) how much each cell counts; a further cell counts 1.
    """
    sizes = np.bincount(cell, minlength=weight.size)
    total = 1 + weight[sizes > 0].sum()
    return (weight / np.maximum(sizes, 1) / total)[cell]


def smallest_score(scores: FloatArray, masses: FloatArray, level: float) -> float:
    """Smallest score up to which the masses add to ``level``; infinite where all of them do not."""
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(masses[order]) >= level - 1e-12
    return float(scores[order[int(np.argmax(reached))]]) if reached.any() else math.inf


def ratio(error: FloatArray, size: FloatArray) -> FloatArray:
    """error / size; an error where the size is 0 cannot be bounded by any factor, no error always is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 0, error / size, 0.0)


def checked_pairs(name: str, u: ArrayLike, error: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """u and error as arrays of one shape (n,), n at least 1, not negative; u may be infinite.

    Raises:
        UncertaintyError: they are not.
    """
    values = np.asarray(u, dtype=np.float64)
    errors = np.asarray(error, dtype=np.float64)
    if values.ndim != 1 or values.shape != errors.shape or values.size == 0:
        raise UncertaintyError(
            f"{name}: u of shape {values.shape} and error of shape {errors.shape}; give one each per atom"
        )
    if np.isnan(values).any() or (values < 0).any():
        raise UncertaintyError(f"{name}: u is negative or not a number; score the cell again")
    if not np.isfinite(errors).all() or (errors < 0).any():
        raise UncertaintyError(
            f"{name}: a force error is negative, infinite or not a number; leave the cell out, or label it again"
        )
    return values, errors


@dataclass(frozen=True)
class ErrorShape:
    """How errors grow with u: a function g that never falls.

    Linear in the logarithms between the knots, constant below the first and, beyond the last, rising with the last
    slope but at least in proportion to u.

    Attributes:
        u: (n,) of the knots, rising; empty: g(u) = u.
        error: (n,) g at the knots, eV/Å, above 0, not falling.
    """

    u: FloatArray
    error: FloatArray

    @classmethod
    def proportional(cls) -> ErrorShape:
        """g(u) = u."""
        return cls(np.empty(0), np.empty(0))

    @classmethod
    def fit(
        cls, u: FloatArray, error: FloatArray, cell: NDArray[np.int64], weight: FloatArray, confidence: float
    ) -> ErrorShape:
        """The shape of pairs; g(u) = u where they do not fill two bins.

        Bins are made from the largest u down; each holds cells of a summed weight of at least 2 / alpha, so that its
        quantile does not hang on one of them.

        Args:
            u: (n,) uncertainty, finite.
            error: (n,) force error, eV/Å.
            cell: (n,) number of the cell, an index into ``weight``.
            weight: (n_cells,) how much each cell counts.
            confidence: 1 - alpha.
        """
        order = np.argsort(-u, kind="stable")
        u, error, cell = u[order], error[order], cell[order]
        needed = 2 / (1 - confidence) - 1e-9
        edges = [0]
        while (end := _bin_end(u, cell, weight, edges[-1], needed)) is not None:
            edges.append(end)
        if len(edges) < 3:
            return cls.proportional()
        edges[-1] = u.size  # what is left below joins the last bin
        knots: list[tuple[float, float, float]] = []
        for first, last in pairwise(edges):
            part = slice(first, last)
            quantile = smallest_score(error[part], cell_masses(cell[part], weight), confidence)
            size = float(weight[np.unique(cell[part])].sum())
            knots.append((max(float(np.median(u[part])), _TINY), quantile, size))
        knots.reverse()
        positions, errors, sizes = (np.array(column) for column in zip(*knots, strict=True))
        if not errors.max() > 0 or (np.diff(positions) <= 0).any():
            return cls.proportional()
        levels = np.log(np.maximum(errors, 1e-6 * errors.max()))
        return cls(positions, np.exp(_isotonic(levels, sizes)))

    def __call__(self, u: ArrayLike) -> FloatArray:
        """g(u), of the shape of ``u``; eV/Å, or u itself without knots."""
        values = np.asarray(u, dtype=np.float64)
        if self.u.size == 0:
            return values.copy()
        x, y = np.log(self.u), np.log(self.error)
        position = np.log(np.maximum(values, _TINY))
        beyond = np.maximum(position - x[-1], 0.0)
        return np.exp(np.interp(position, x, y) + self._last_slope * beyond)

    def largest_u(self, error: float) -> float:
        """Largest u with g(u) <= error; below the first knot in proportion to ``error``."""
        if self.u.size == 0:
            return error
        if error < self.error[0]:
            return float(self.u[0] * error / self.error[0])
        last = int(np.searchsorted(self.error, error, side="right")) - 1
        if last == self.u.size - 1:
            slope = self._last_slope
        else:
            slope = math.log(self.error[last + 1] / self.error[last]) / math.log(self.u[last + 1] / self.u[last])
        return float(self.u[last] * (error / self.error[last]) ** (1 / slope))

    @property
    def _last_slope(self) -> float:
        x, y = np.log(self.u[-2:]), np.log(self.error[-2:])
        return max(1.0, float((y[1] - y[0]) / (x[1] - x[0])))


def _bin_end(u: FloatArray, cell: NDArray[np.int64], weight: FloatArray, start: int, needed: float) -> int | None:
    """Where the bin that starts at ``start`` (u falling) ends; None where too few cells are left."""
    cells, first = np.unique(cell[start:], return_index=True)
    order = np.argsort(first)
    enough = np.cumsum(weight[cells[order]]) >= needed
    if not enough.any():
        return None
    end = start + int(first[order[int(np.argmax(enough))]]) + 1
    wide = start + int(np.searchsorted(-u[start:], -u[start] / BIN_RATIO, side="right"))
    return max(end, wide)


def _isotonic(values: FloatArray, weight: FloatArray) -> FloatArray:
    """The non-falling sequence nearest to ``values`` (pool adjacent violators)."""
    blocks: list[list[float]] = []
    for value, size in zip(values.tolist(), weight.tolist(), strict=True):
        blocks.append([value, size, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            right, left = blocks.pop(), blocks.pop()
            total = left[1] + right[1]
            blocks.append([(left[0] * left[1] + right[0] * right[1]) / total, total, left[2] + right[2]])
    return np.concatenate([np.full(int(count), value) for value, _, count in blocks])


@dataclass(frozen=True)
class ErrorBound:
    """error <= factor g(u), for u up to ``limit``; nothing is known beyond.

    Attributes:
        shape: g.
        factor: q; infinite as long as the pairs allow no bound.
        limit: largest u that the bound speaks of.
    """

    shape: ErrorShape
    factor: float
    limit: float = math.inf

    def __call__(self, u: ArrayLike) -> FloatArray:
        """Bound on the error, eV/Å, of the shape of ``u``; infinite beyond the limit.

        Raises:
            UncertaintyError: u is negative or not a number.
        """
        values = np.asarray(u, dtype=np.float64)
        if np.isnan(values).any() or (values < 0).any():
            raise UncertaintyError("bound: u must not be negative or not a number; score the frame again")
        if not math.isfinite(self.factor):
            return np.full(values.shape, math.inf)
        known = values <= self.limit
        inside = np.where(known & np.isfinite(values), values, 0.0)
        return np.where(known & np.isfinite(values), self.factor * self.shape(inside), math.inf)

    def largest_u(self, error: float) -> float:
        """u up to which the bound stays within ``error``, at most the limit; 0 without a finite factor."""
        if math.isinf(self.factor):
            return 0.0
        return min(self.limit, self.shape.largest_u(error / self.factor) if self.factor > 0 else math.inf)


def fit_error_bound(u: ArrayLike, error: ArrayLike, cell: ArrayLike, confidence: float) -> ErrorBound:
    """The bound from cells that count alike, such as a labelled set.

    Args:
        u: (n,) uncertainty, finite.
        error: (n,) force error, eV/Å.
        cell: (n,) number or name of the cell of each pair.
        confidence: 1 - alpha.

    Raises:
        UncertaintyError: shapes differ, or a number is negative or not a number.

    Example:
        >>> bound = fit_error_bound([1.0] * 20, [0.1] * 20, range(20), confidence=0.9)
        >>> float(bound(2.0)), round(bound.largest_u(0.3), 9)
        (0.2, 3.0)
    """
    values, errors = checked_pairs("fit_error_bound", u, error)
    numbers, weight = _numbered("fit_error_bound", cell, values.size)
    shape = ErrorShape.fit(values, errors, numbers, weight, confidence)
    return ErrorBound(shape, smallest_score(ratio(errors, shape(values)), cell_masses(numbers, weight), confidence))


def join(parts: Sequence[Any], dtype: Any = np.float64) -> NDArray[Any]:
    """Concatenated arrays; an empty one where there are none."""
    return np.concatenate([np.empty(0, dtype=dtype), *parts]).astype(dtype, copy=False)
