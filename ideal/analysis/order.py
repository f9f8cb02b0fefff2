"""Steinhardt bond order: how crystalline the surroundings of every atom are.

    q_lm(i) = 1/N_i sum_j Y_lm(r_ij),      q_l(i) = sqrt(4 pi / (2l + 1) sum_m |q_lm(i)|^2)

Averaged over an atom and its neighbors (Lechner and Dellago 2008, doi:10.1063/1.2977970) q_6 separates crystal from
liquid: 0.51 in perfect bcc, 0.57 in perfect fcc, about 0.2 in a liquid. Averaged over all bonds (Steinhardt 1983,
doi:10.1103/PhysRevB.28.784) it vanishes for a liquid as 1/sqrt(number of bonds).

Neighbors are those of the solid-angle criterion (van Meel 2012, doi:10.1063/1.4729313), which has no parameter: the m
nearest ones, m the smallest number with sum_{j <= m} r_j / (m - 2) <= r_{m+1}. It finds 14 in bcc and 12 in fcc.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from scipy.special import sph_harm_y

from ideal.errors import IdealError
from ideal.records import FloatArray, IntArray

_SEARCH_SHELLS = 2.0  # first search radius in units of the mean spacing; doubled until every atom has its neighbors


@dataclass(frozen=True)
class SteinhardtOrder:
    """Bond order of one frame.

    Attributes:
        local: (n_atoms,) q_l of every atom.
        averaged: (n_atoms,) q_l averaged over the atom and its neighbors.
        overall: q_l of the mean over all bonds.
        n_neighbors: (n_atoms,) neighbors of every atom.
    """

    local: FloatArray
    averaged: FloatArray
    overall: float
    n_neighbors: IntArray


def steinhardt(atoms: Atoms, l: int = 6) -> SteinhardtOrder:  # noqa: E741
    """Steinhardt bond order of every atom.

    Args:
        atoms: a frame; every atom needs at least four others (or images) around it.
        l: angular momentum; 6 tells crystals from liquids.

    Returns:
        The order of every atom and of the frame.

    Raises:
        IdealError: too few atoms for a neighborhood, or ``l`` negative.

    Example:
        >>> from ase.build import bulk
        >>> order = steinhardt(bulk("Li", cubic=True))
        >>> order.n_neighbors.tolist(), round(order.overall, 3)
        ([14, 14], 0.511)
    """
    if l < 0:
        raise IdealError(f"steinhardt: l {l} is negative; write 4 or 6")
    i, j, vectors = _solid_angle_bonds(atoms)
    n_atoms = len(atoms)
    n_neighbors = np.bincount(i, minlength=n_atoms)
    distances = np.linalg.norm(vectors, axis=1)
    polar = np.arccos(np.clip(vectors[:, 2] / distances, -1.0, 1.0))
    azimuth = np.arctan2(vectors[:, 1], vectors[:, 0])
    harmonics = sph_harm_y(l, np.arange(-l, l + 1)[None], polar[:, None], azimuth[:, None])
    bonds = np.zeros((n_atoms, 2 * l + 1), dtype=complex)
    np.add.at(bonds, i, harmonics)
    per_atom = bonds / n_neighbors[:, None]
    averaged = per_atom.copy()
    np.add.at(averaged, i, per_atom[j])
    averaged /= (n_neighbors + 1)[:, None]
    norm = np.sqrt(4.0 * np.pi / (2 * l + 1))
    return SteinhardtOrder(
        local=norm * np.linalg.norm(per_atom, axis=1),
        averaged=norm * np.linalg.norm(averaged, axis=1),
        overall=float(norm * np.linalg.norm(bonds.sum(axis=0) / n_neighbors.sum())),
        n_neighbors=n_neighbors,
    )


def _solid_angle_bonds(atoms: Atoms) -> tuple[IntArray, IntArray, FloatArray]:
    """Directed bonds (center, neighbor, vector) of the solid-angle criterion."""
    n_atoms = len(atoms)
    if n_atoms == 0 or (n_atoms < 5 and not atoms.pbc.any()):
        raise IdealError(f"steinhardt: {n_atoms} atoms have no neighborhoods; at least 5 are needed")
    radius = _SEARCH_SHELLS * _spacing(atoms)
    for _ in range(12):
        i, j, distances, vectors = neighbor_list("ijdD", atoms, radius)
        order = np.lexsort((distances, i))
        i, j, distances, vectors = i[order], j[order], distances[order], vectors[order]
        keep = _nearest_by_solid_angle(i, distances, n_atoms)
        if keep is not None:
            return i[keep], j[keep], vectors[keep]
        radius *= 1.4
    raise IdealError(
        f"steinhardt: an atom has no closed neighborhood within {radius:.1f} Å; "
        "leave isolated atoms out, or give a frame with more atoms"
    )


def _nearest_by_solid_angle(i: IntArray, distances: FloatArray, n_atoms: int) -> np.ndarray | None:
    """Mask of the bonds to keep, or None when the list is too short for some atom. Sorted by center, then distance."""
    counts = np.bincount(i, minlength=n_atoms)
    if counts.min() < 4:
        return None
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.arange(len(i)) - starts[i]
    table = np.full((n_atoms, counts.max()), np.inf)
    table[i, rank] = distances
    m = np.arange(1, counts.max())  # candidate numbers of neighbors; table[:, m] is the next one
    sums = np.cumsum(np.where(np.isfinite(table), table, 0.0), axis=1)[:, :-1]
    fits = (m >= 3) & np.isfinite(table[:, 1:]) & (sums <= np.maximum(m - 2, 1e-9) * table[:, 1:])
    if not fits.any(axis=1).all():
        return None
    chosen = m[fits.argmax(axis=1)]
    return rank < chosen[i]


def _spacing(atoms: Atoms) -> float:
    """A length of the order of the distance between neighbors, Å."""
    if atoms.pbc.all():
        return float((atoms.get_volume() / len(atoms)) ** (1.0 / 3.0))
    i, distances = neighbor_list("id", atoms, 6.0)
    if not len(i):
        raise IdealError("steinhardt: no two atoms are within 6 Å of each other; give a condensed frame")
    nearest = np.full(len(atoms), np.inf)
    np.minimum.at(nearest, i, distances)
    return float(np.median(nearest[np.isfinite(nearest)]))
