"""A plane in which similar environments lie close: PCA or t-SNE of descriptor rows.

PCA (the default) is linear and deterministic: distances mean the same everywhere on the map. t-SNE shows clusters, and
its distances between clusters mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ideal.errors import IdealError, did_you_mean
from ideal.records import FloatArray


@dataclass(frozen=True)
class FeatureMap:
    """Two coordinates per environment.

    Attributes:
        points: (n, 2) coordinates of each group's environments, by name of the group.
        method: "pca" or "tsne".
        explained: (2,) parts of the variance along the two axes for PCA, else None.
    """

    points: Mapping[str, FloatArray]
    method: str
    explained: FloatArray | None


def map_features(
    groups: Mapping[str, FloatArray],
    method: Literal["pca", "tsne"] = "pca",
    *,
    fit: str | None = None,
    max_points: int = 1500,
    seed: int = 0,
) -> FeatureMap:
    """Map groups of descriptor rows to one common plane.

    Args:
        groups: (n, n_features) rows by name of the group; empty groups stay empty.
        method: "pca" or "tsne".
        fit: the group that decides the axes of a PCA; None: all of them.
        max_points: larger groups are thinned to this many rows, drawn with ``seed``.
        seed: decides the draw, and the t-SNE.

    Returns:
        The coordinates of each group's rows.

    Raises:
        IdealError: an unknown method or group, rows of different lengths or not finite, fewer than three rows.

    Example:
        >>> import numpy as np
        >>> rows = np.random.default_rng(0).normal(size=(20, 5))
        >>> map_features({"training set": rows}).points["training set"].shape
        (20, 2)
    """
    if method not in ("pca", "tsne"):
        raise IdealError(f"map_features: unknown method {method!r}; {did_you_mean(method, ['pca', 'tsne'])}")
    if fit is not None and fit not in groups:
        raise IdealError(f"map_features: no group {fit!r}; {did_you_mean(fit, groups)}")
    widths = {rows.shape[1] for rows in groups.values() if len(rows)}
    if len(widths) > 1:
        raise IdealError(f"map_features: rows of {sorted(widths)} features; use one descriptor for all groups")
    rng = np.random.default_rng(seed)
    thinned = {name: _thin(np.asarray(rows, dtype=float), max_points, rng) for name, rows in groups.items()}
    fitted = [thinned[fit]] if fit is not None else [rows for rows in thinned.values() if len(rows)]
    if sum(map(len, fitted)) < 3:
        raise IdealError("map_features: fewer than three environments; a map needs more")
    if not all(np.isfinite(rows).all() for rows in thinned.values()):
        raise IdealError("map_features: a descriptor is not finite; leave that structure out")
    points, explained = _project(thinned, np.concatenate(fitted), method, seed)
    return FeatureMap(points=points, method=method, explained=explained)


def _project(
    groups: Mapping[str, FloatArray], fitted: FloatArray, method: str, seed: int
) -> tuple[dict[str, FloatArray], FloatArray | None]:
    if method == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(n_components=2, svd_solver="full").fit(fitted)
        points = {name: pca.transform(rows) if len(rows) else np.zeros((0, 2)) for name, rows in groups.items()}
        return points, pca.explained_variance_ratio_
    from sklearn.manifold import TSNE

    everything = np.concatenate([rows for rows in groups.values() if len(rows)])
    perplexity = min(30.0, (len(everything) - 1) / 3)
    flat = TSNE(n_components=2, init="pca", perplexity=perplexity, random_state=seed).fit_transform(everything)
    ends = np.cumsum([len(rows) for rows in groups.values()])
    parts = np.split(flat.astype(float), ends[:-1])
    return dict(zip(groups, parts, strict=True)), None


def _thin(rows: FloatArray, max_points: int, rng: np.random.Generator) -> FloatArray:
    if len(rows) <= max_points:
        return rows
    return rows[np.sort(rng.choice(len(rows), max_points, replace=False))]
