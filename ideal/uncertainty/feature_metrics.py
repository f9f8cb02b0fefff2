"""How far feature vectors lie from the ones that were learned: two measures of Zaverkin et al. (2024).

    posterior (eq. 4)   q = lambda^2 phi^T (Phi^T Phi + lambda^2 1)^-1 phi        Phi: all learned vectors, row by row
    nearest   (eq. 3)   q = min_j |phi - phi_j|^2                                 phi_j: learned vectors of phi's group

lambda^2 is ``regularization`` times the mean of |phi|^2 over the learned vectors. Vectors belong to groups (elements).
Every metric knows what q is usual in a group: the mean of q over its learned vectors (posterior, exactly, under the
present Phi), or the mean squared distance of a kept vector to its nearest neighbor (nearest, where q itself is 0 on
what was learned).

Metrics are immutable: learning returns a new one, so that others may go on evaluating the old one in another thread.

Npj Comput. Mater. 10, 83 (2024), doi:10.1038/s41524-024-01254-1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr, solve_triangular

from ideal.errors import UncertaintyError
from ideal.records import FloatArray

StrArray = NDArray[np.str_]

SAME = 1e-12
"""Vectors whose squared distance is below this fraction of their squared length are the same."""

_CHUNK = 1024


class FeatureMetric(Protocol):
    """What `GradientFeatures` needs."""

    @property
    def counts(self) -> dict[str, int]:
        """Vectors learned, per group."""
        ...

    def learn(self, features: FloatArray, groups: StrArray) -> Self:
        """A metric that knows the vectors (n, p) of groups (n,) too."""
        ...

    def squared(self, features: FloatArray, groups: StrArray) -> FloatArray:
        """q of vectors (n, p): (n,); infinite in unknown groups."""
        ...

    def scale(self, groups: StrArray) -> FloatArray:
        """(n,) usual q of each group; 0 where nothing is known."""
        ...

    def slope(self, features: FloatArray, groups: StrArray) -> FloatArray:
        """dq/dphi, (n, p); 0 in unknown groups."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays."""
        ...

    def restored(self, arrays: Mapping[str, np.ndarray]) -> Self:
        """The metric of that state."""
        ...


@dataclass(frozen=True)
class PosteriorMetric:
    """Eq. 4 in square-root form.

    Per group the upper triangular R with R^T R = Phi^T Phi is kept. k new vectors update it by a QR decomposition of R
    over the new rows: no sum of squares is ever formed, and any number of updates loses no accuracy.

    Attributes:
        size: p, length of a vector.
        regularization: lambda^2 over the mean squared length of the learned vectors.
        factors: R (p, p) by group.
        learned: number of vectors by group.
    """

    size: int
    regularization: float
    factors: Mapping[str, FloatArray] = field(default_factory=dict)
    learned: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Vectors learned, per group."""
        return dict(self.learned)

    def learn(self, features: FloatArray, groups: StrArray) -> PosteriorMetric:
        """A metric that knows the vectors (n, p) of groups (n,) too."""
        factors, learned = dict(self.factors), dict(self.learned)
        for group in np.unique(groups).tolist():
            rows = features[groups == group]
            old = factors.get(group, np.zeros((0, self.size)))
            factors[group] = _triangular(np.concatenate([old, rows]), self.size)
            learned[group] = learned.get(group, 0) + len(rows)
        return PosteriorMetric(self.size, self.regularization, factors, learned)

    def squared(self, features: FloatArray, groups: StrArray) -> FloatArray:
        """Eq. 4: (n,); infinite in unknown groups."""
        result = np.full(len(features), np.inf)
        known = self.scale(groups) > 0
        if known.any():
            _, square, factor = self._solved
            half = solve_triangular(factor, features[known].T, trans="T", check_finite=False)
            result[known] = square * (half**2).sum(axis=0)
        return result

    def scale(self, groups: StrArray) -> FloatArray:
        """(n,) mean of eq. 4 over the learned vectors of each group; 0 where nothing is known."""
        scales, _, _ = self._solved
        return np.array([scales.get(group, 0.0) for group in groups.tolist()])

    def slope(self, features: FloatArray, groups: StrArray) -> FloatArray:
        """dq/dphi = 2 lambda^2 (Phi^T Phi + lambda^2)^-1 phi, (n, p)."""
        result = np.zeros_like(features)
        known = self.scale(groups) > 0
        if known.any():
            _, square, factor = self._solved
            half = solve_triangular(factor, features[known].T, trans="T", check_finite=False)
            result[known] = 2 * square * solve_triangular(factor, half, check_finite=False).T
        return result

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays."""
        result: dict[str, np.ndarray] = {}
        for group, factor in self.factors.items():
            result[f"{group}.factor"] = factor
            result[f"{group}.count"] = np.array([self.learned[group]], dtype=np.int64)
        return result

    def restored(self, arrays: Mapping[str, np.ndarray]) -> PosteriorMetric:
        """The metric of that state; UncertaintyError when it is damaged."""
        factors, learned = {}, {}
        for group, (factor, count) in _states(arrays, {"factor": (self.size, self.size), "count": (1,)}).items():
            factors[group] = factor
            learned[group] = int(count[0])
        return PosteriorMetric(self.size, self.regularization, factors, learned)

    @cached_property
    def _solved(self) -> tuple[dict[str, float], float, FloatArray]:
        """Mean q per group, lambda^2, and upper triangular R with R^T R = Phi^T Phi + lambda^2 1."""
        n = sum(self.learned.values())
        square = sum(float((factor**2).sum()) for factor in self.factors.values()) / max(n, 1) * self.regularization
        if square == 0:
            return {}, 0.0, np.eye(self.size)
        rows = [*self.factors.values(), np.sqrt(square) * np.eye(self.size)]
        total = _triangular(np.concatenate(rows), self.size)
        scales = {}
        for group, factor in self.factors.items():
            half = solve_triangular(total, factor.T, trans="T", check_finite=False)
            scales[group] = square * float((half**2).sum()) / self.learned[group]
        return scales, square, total


@dataclass(frozen=True)
class NearestMetric:
    """Eq. 3: the squared distance to the nearest kept vector of the same group.

    All distinct vectors are kept up to ``max_points`` per group; beyond, a subset that is spread as widely as possible:
    greedy farthest-point selection (eq. 27), as the paper has it. A group of fewer than two distinct vectors is
    unknown.

    Attributes:
        size: p, length of a vector.
        max_points: vectors kept per group.
        points: kept vectors (m, p) by group.
        learned: number of vectors learned by group, kept or not.
    """

    size: int
    max_points: int
    points: Mapping[str, FloatArray] = field(default_factory=dict)
    learned: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Vectors learned, per group."""
        return dict(self.learned)

    def learn(self, features: FloatArray, groups: StrArray) -> NearestMetric:
        """A metric that knows the vectors (n, p) of groups (n,) too."""
        points, learned = dict(self.points), dict(self.learned)
        for group in np.unique(groups).tolist():
            rows = features[groups == group]
            kept = _distinct(points.get(group, np.zeros((0, self.size))), rows)
            points[group] = _farthest(kept, self.max_points) if len(kept) > self.max_points else kept
            learned[group] = learned.get(group, 0) + len(rows)
        return NearestMetric(self.size, self.max_points, points, learned)

    def squared(self, features: FloatArray, groups: StrArray) -> FloatArray:
        """Eq. 3: (n,); infinite in unknown groups."""
        offsets, known = self._offsets(features, groups)
        return np.where(known, (offsets**2).sum(axis=1), np.inf)

    def scale(self, groups: StrArray) -> FloatArray:
        """(n,) mean squared distance of each group's kept vectors to their nearest; 0 where nothing is known."""
        return np.array([self._scales.get(group, 0.0) for group in groups.tolist()])

    def slope(self, features: FloatArray, groups: StrArray) -> FloatArray:
        """dq/dphi = 2 (phi - phi_nearest), (n, p)."""
        return 2 * self._offsets(features, groups)[0]

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays."""
        result: dict[str, np.ndarray] = {}
        for group, points in self.points.items():
            result[f"{group}.points"] = points
            result[f"{group}.count"] = np.array([self.learned[group]], dtype=np.int64)
        return result

    def restored(self, arrays: Mapping[str, np.ndarray]) -> NearestMetric:
        """The metric of that state; UncertaintyError when it is damaged."""
        points, learned = {}, {}
        for group, (kept, count) in _states(arrays, {"points": (None, self.size), "count": (1,)}).items():
            points[group] = kept
            learned[group] = int(count[0])
        return NearestMetric(self.size, self.max_points, points, learned)

    def _offsets(self, features: FloatArray, groups: StrArray) -> tuple[FloatArray, np.ndarray]:
        """phi - phi_nearest (n, p), 0 in unknown groups, and which ones are known (n,)."""
        known = self.scale(groups) > 0
        offsets = np.zeros_like(features)
        for group in np.unique(groups[known]).tolist():
            here = np.flatnonzero(groups == group)
            points = self.points[group]
            lengths = (points**2).sum(axis=1)
            for start in range(0, len(here), _CHUNK):
                part = here[start : start + _CHUNK]
                nearest = (lengths - 2 * features[part] @ points.T).argmin(axis=1)
                offsets[part] = features[part] - points[nearest]
        return offsets, known

    @cached_property
    def _scales(self) -> dict[str, float]:
        result = {}
        for group, points in self.points.items():
            if len(points) > 1:
                nearest = np.empty(len(points))
                for start in range(0, len(points), _CHUNK):
                    distances = _squared_distances(points[start : start + _CHUNK], points)
                    rows = np.arange(len(distances))
                    distances[rows, start + rows] = np.inf
                    nearest[start : start + _CHUNK] = distances.min(axis=1)
                result[group] = float(nearest.mean())
        return result


def _triangular(rows: FloatArray, size: int) -> FloatArray:
    """Upper triangular R (size, size) with R^T R = rows^T rows."""
    (factor,) = qr(rows, mode="r", check_finite=False)
    result = np.zeros((size, size))
    n = min(size, len(rows))
    result[:n] = factor[:n]
    return result


def _squared_distances(a: FloatArray, b: FloatArray) -> FloatArray:
    """(len(a), len(b))."""
    result: FloatArray = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.maximum(result, 0.0)


def _distinct(kept: FloatArray, rows: FloatArray) -> FloatArray:
    """``kept`` and those rows that equal none of them nor an earlier row."""
    limit = SAME * (rows**2).sum(axis=1)
    if len(kept):
        new = np.concatenate(
            [
                _squared_distances(rows[start : start + _CHUNK], kept).min(axis=1)
                for start in range(0, len(rows), _CHUNK)
            ]
        )
        rows, limit = rows[new > limit], limit[new > limit]
    chosen: list[int] = []
    for start in range(0, len(rows), _CHUNK):
        distances = _squared_distances(rows[start : start + _CHUNK], rows)
        for index, row in enumerate(distances, start):
            if not (row[chosen] <= limit[index]).any():
                chosen.append(index)
    return np.concatenate([kept, rows[chosen]])


def _farthest(points: FloatArray, n: int) -> FloatArray:
    """n points, each next one the farthest from those already chosen (eq. 27), in their old order."""
    chosen = [0]
    nearest = _squared_distances(points, points[:1])[:, 0]
    while len(chosen) < n:
        chosen.append(int(nearest.argmax()))
        np.minimum(nearest, _squared_distances(points, points[chosen[-1] :][:1])[:, 0], out=nearest)
    return points[np.sort(chosen)]


def _states(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int | None, ...]]
) -> dict[str, list[np.ndarray]]:
    """Arrays by group, in the order of ``shapes``, checked."""
    result: dict[str, list[np.ndarray]] = {}
    for group in sorted({name.rpartition(".")[0] for name in arrays}):
        result[group] = []
        for name, shape in shapes.items():
            array = arrays.get(f"{group}.{name}")
            fits = (
                array is not None
                and array.ndim == len(shape)
                and all(wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True))
                and bool(np.isfinite(array).all())
            )
            if array is None or not fits:
                found_shape = None if array is None else array.shape
                raise UncertaintyError(f"the state is damaged: {group}.{name} is {found_shape}, wanted {shape}, finite")
            result[group].append(array)
    return result
