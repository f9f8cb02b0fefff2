"""Radial distribution function.

    g(r) = <dN(r)/dr> / (4 pi r^2 rho),    rho = N_b / V

dN(r) counts the neighbors of species b between r and r + dr around an atom of species a, averaged over atoms and
frames. It is 1 at every r in an ideal gas. Periodic images count as neighbors: any cell shape and size will do. Where
an axis is open (slab, cluster) the density is not defined, and dN/dr itself is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.neighborlist import neighbor_list

from ideal.errors import IdealError, did_you_mean
from ideal.records import FloatArray


@dataclass(frozen=True)
class RadialDistribution:
    """A radial distribution function.

    Attributes:
        r: (n_bins,) centers of the bins, Å.
        values: (n_bins,) g(r) where `normalized`, else dN/dr in neighbors per atom and Å.
        normalized: true for g(r): every frame was periodic along three axes.
        n_frames: frames averaged over.
    """

    r: FloatArray
    values: FloatArray
    normalized: bool
    n_frames: int


def radial_distribution(
    frames: Sequence[Atoms], r_max: float, bins: int = 200, pair: tuple[str, str] | None = None
) -> RadialDistribution:
    """Average radial distribution function of some frames.

    Args:
        frames: configurations; their number of atoms and cells may differ.
        r_max: largest distance in Å. Beyond half the cell's smallest height an atom meets its own images.
        bins: number of equal bins between 0 and ``r_max``.
        pair: symbols of the central and the neighboring species; None: all atoms.

    Returns:
        The average over all frames.

    Raises:
        IdealError: no frames, ``r_max`` or ``bins`` not positive, or no atom of a species.

    Example:
        >>> from ase.build import bulk
        >>> distribution = radial_distribution([bulk("Li", cubic=True)], r_max=5.0)
        >>> bool(distribution.r[distribution.values.argmax()] > 2.9)
        True
    """
    if not frames:
        raise IdealError("radial_distribution: no frames; give at least one")
    if not (np.isfinite(r_max) and r_max > 0) or bins < 1:
        raise IdealError(f"radial_distribution: r_max {r_max} Å, bins {bins}: both must be positive")
    edges = np.linspace(0.0, r_max, bins + 1)
    shell_volumes = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    normalized = all(frame.pbc.all() for frame in frames)
    total = np.zeros(bins)
    for frame in frames:
        centers, neighbors = _species_masks(frame, pair)
        i, j, distances = neighbor_list("ijd", frame, r_max)
        counted = np.histogram(distances[centers[i] & neighbors[j]], bins=edges)[0] / centers.sum()
        if normalized:
            total += counted / (shell_volumes * neighbors.sum() / frame.get_volume())
        else:
            total += counted / np.diff(edges)
    return RadialDistribution(
        r=0.5 * (edges[1:] + edges[:-1]),
        values=total / len(frames),
        normalized=normalized,
        n_frames=len(frames),
    )


def _species_masks(frame: Atoms, pair: tuple[str, str] | None) -> tuple[np.ndarray, np.ndarray]:
    if pair is None:
        everyone = np.ones(len(frame), dtype=bool)
        if not len(frame):
            raise IdealError("radial_distribution: a frame has no atoms; leave it out")
        return everyone, everyone
    masks = []
    for symbol in pair:
        mask = frame.numbers == atomic_numbers.get(symbol, -1)
        if not mask.any():
            raise IdealError(
                f"radial_distribution: no atom {symbol!r} in {frame.get_chemical_formula()}; "
                + did_you_mean(symbol, set(frame.symbols))
            )
        masks.append(mask)
    return masks[0], masks[1]
