"""Faces across which the material continues itself.

A crop that repeats along axis c with the period l = hi - lo puts the layer inside the face at lo next to the
layer inside the face at hi. The seam is good when the atoms on both sides of the plane t = lo, moved by l,
fall on atoms of the same species around t = hi, and the other way round: then every atom near a face sees
across it what it saw in the frame. The mismatch of a pair (lo, hi) is the root mean square of those nearest
same-species distances, each at most `SEAM_DEPTH`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ideal.embedding.crop import SEAM_DEPTH, Surroundings
from ideal.records import FloatArray

CANDIDATES = 80
"""Pairs of faces drawn per axis in each of the two rounds."""

LATERAL = 1.5
"""The compared layers reach this far (Å) beyond the core sideways."""

WHOLE_CLEARANCE = 0.3
"""A period comes no closer (Å) than this to the frame's own."""


@dataclass(frozen=True)
class Seams:
    """Pairs of faces of one axis, best first.

    Attributes:
        lo: (n,) heights of the low faces, Å.
        hi: (n,) heights of the high faces, Å.
        mismatch: (n,) Å.
    """

    lo: FloatArray
    hi: FloatArray
    mismatch: FloatArray

    def draw(self, rng: np.random.Generator, best: int) -> tuple[float, float]:
        """One of the ``best`` first pairs."""
        k = int(rng.integers(min(best, len(self.lo))))
        return float(self.lo[k]), float(self.hi[k])


def seam_table(
    surroundings: Surroundings, axis: int, longest: float, rng: np.random.Generator, candidates: int = CANDIDATES
) -> Seams:
    """Candidate faces of a cut axis, sorted by mismatch.

    The first round draws both margins from U(0, margin). The second stays near the four best periods of the first and
    draws the position of the core between the faces anew.

    Args:
        surroundings: the atoms near the center.
        axis: 0, 1 or 2.
        longest: the frame's own period along the axis (Å), infinite where it has none.
        rng: source of the draws.
        candidates: pairs per round.

    Returns:
        ``2 * candidates`` pairs.
    """
    r_core, margin = surroundings.r_core, surroundings.margin
    longest = longest - WHOLE_CLEARANCE

    def faces(period: FloatArray, share: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Faces with the extra length split by ``share``, neither side wider than the margin."""
        period = np.clip(period, 2 * r_core, min(longest, 2 * (r_core + margin)))
        extra = period - 2 * r_core
        least, most = np.maximum(0.0, extra - margin), np.minimum(extra, margin)
        low = -r_core - (least + share * (most - least))
        return low, low + period

    margins = rng.uniform(0.0, margin, (candidates, 2))
    period = 2 * r_core + margins.sum(axis=1)
    first = faces(period, rng.uniform(size=candidates))
    mismatch = _mismatch(surroundings, axis, *first)
    best = np.argsort(mismatch, kind="stable")[:4]
    near = (first[1] - first[0])[best][rng.integers(len(best), size=candidates)]
    second = faces(near + rng.normal(0.0, 0.08, candidates), rng.uniform(size=candidates))
    mismatch = np.concatenate([mismatch, _mismatch(surroundings, axis, *second)])
    lo, hi = np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
    order = np.argsort(mismatch, kind="stable")
    return Seams(lo[order], hi[order], mismatch[order])


def _mismatch(surroundings: Surroundings, axis: int, lo: FloatArray, hi: FloatArray) -> FloatArray:
    """Root mean square mismatch (n,) of face pairs, Å; `SEAM_DEPTH` where the layers hold no atom."""
    lateral = np.ones(len(surroundings.numbers), dtype=bool)
    for c, other in enumerate(surroundings.axes):
        height = surroundings.heights[:, c]
        if c == axis:
            continue
        if other.kind == "cut":
            lateral &= np.abs(height) < surroundings.r_core + LATERAL
        else:
            lateral &= (height >= other.lo) & (height < other.hi)
    direction = surroundings.directions[axis]
    total, count = np.zeros(len(lo)), np.zeros(len(lo))
    for species in np.unique(surroundings.numbers):
        same = surroundings.numbers == species
        points = surroundings.vectors[same]
        tree = cKDTree(points)
        inside = np.flatnonzero(lateral[same])
        height = surroundings.heights[same][inside, axis]
        for plane, shift in ((lo, hi - lo), (hi, lo - hi)):
            candidate, atom = np.nonzero(np.abs(height[None, :] - plane[:, None]) < SEAM_DEPTH)
            moved = points[inside[atom]] + shift[candidate, None] * direction
            distance, _ = tree.query(moved, distance_upper_bound=SEAM_DEPTH)
            squared = np.minimum(distance, SEAM_DEPTH) ** 2
            total += np.bincount(candidate, weights=squared, minlength=len(lo))
            count += np.bincount(candidate, minlength=len(lo))
    return np.where(count > 0, np.sqrt(total / np.maximum(count, 1)), SEAM_DEPTH)
