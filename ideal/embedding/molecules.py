"""Molecules: small groups of covalently bonded nonmetal atoms that a face must not cut.

Two nonmetal atoms closer than `BOND` times the sum of their covalent radii are bonded; metals bond to nothing here, so
that an ammonia molecule on iridium is a molecule and the iridium is not. Groups of more than `LARGEST` atoms (silica,
diamond, polymers) are networks: their bonds may be cut, the seam closes them.
"""

from __future__ import annotations

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ideal.records import BoolArray, FloatArray, IntArray

BOND = 1.25
"""Longest bond in sums of covalent radii."""

LARGEST = 40
"""Bonded groups with more atoms than this are networks."""

NONMETALS = np.array([atomic_numbers[s] for s in ["H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I"]])


def bonds(numbers: IntArray, positions: FloatArray) -> IntArray:
    """Bonded pairs (n_bonds, 2) of an open structure, each once.

    Args:
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3), Å.

    Example:
        >>> from ase.build import molecule
        >>> water = molecule("H2O")
        >>> bonds(water.numbers, water.positions).tolist()
        [[0, 1], [0, 2]]
    """
    able = np.flatnonzero(np.isin(numbers, NONMETALS))
    if len(able) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    radii = np.asarray(covalent_radii)[numbers[able]]
    pairs = cKDTree(positions[able]).query_pairs(2 * BOND * float(radii.max()), output_type="ndarray")
    distance = np.linalg.norm(positions[able[pairs[:, 0]]] - positions[able[pairs[:, 1]]], axis=1)
    found = able[pairs[distance < BOND * (radii[pairs[:, 0]] + radii[pairs[:, 1]])]]
    return np.asarray(found[np.lexsort((found[:, 1], found[:, 0]))], dtype=np.int64)


def groups(numbers: IntArray, positions: FloatArray) -> IntArray:
    """Molecule (n_atoms,) that every atom belongs to; atoms of networks and metals are groups of their own.

    Args:
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3) of an open structure, Å.
    """
    n_atoms = len(numbers)
    pairs = bonds(numbers, positions)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n_atoms, n_atoms))
    _, label = connected_components(graph, directed=False)
    network = np.bincount(label)[label] > LARGEST
    label = np.where(network, n_atoms + np.arange(n_atoms), label)
    return np.asarray(np.unique(label, return_inverse=True)[1], dtype=np.int64)


def representatives(group: IntArray, positions: FloatArray) -> IntArray:
    """The atom (n_atoms,) nearest to the middle of each atom's group: it stands for the whole molecule."""
    count = np.bincount(group)
    middle = np.stack([np.bincount(group, weights=positions[:, k]) for k in range(3)], axis=1) / count[:, None]
    distance = ((positions - middle[group]) ** 2).sum(axis=1)
    order = np.lexsort((distance, group))
    first = order[np.searchsorted(group[order], np.arange(len(count)))]
    return np.asarray(first[group], dtype=np.int64)


def same_group(group: IntArray, chosen: BoolArray) -> BoolArray:
    """All atoms (n_atoms,) of the groups of which at least one atom is chosen."""
    hit = np.zeros(int(group.max(initial=-1)) + 1, dtype=bool)
    hit[group[chosen]] = True
    return np.asarray(hit[group])
