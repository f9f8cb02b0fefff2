"""A cluster instead of a cell, for molecular codes: whole molecules, and hydrogen where a bond had to be cut.

Molecules that reach into the sphere around the center are taken whole. Of a network (silicon, a large solute, a
polymer) the atoms within the radius are taken, then those outside that would be bonded to two of them; every other
bond to the outside is capped by a hydrogen atom along the bond, at the sum of the covalent radii.
"""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii

from ideal.embedding.composition import Crop
from ideal.embedding.crop import Surroundings
from ideal.embedding.molecules import bonds, same_group
from ideal.records import BoolArray, FloatArray, IntArray

HYDROGEN = 1
MAX_ROUNDS = 3
"""How often atoms bonded to two inner ones are taken in; rings close within three rounds."""


def cut_cluster(surroundings: Surroundings, radius: float) -> tuple[Crop, BoolArray]:
    """The cluster around the center, before its outer atoms and caps are optimized.

    Args:
        surroundings: the atoms near the center; gathered at least 3 Å beyond ``radius``.
        radius: atoms within it are taken, Å.

    Returns:
        A crop without periodicity, and which of its atoms (n,) are caps; a cap's parent is the atom it stands for.
    """
    numbers, vectors, group = surroundings.numbers, surroundings.vectors, surroundings.group
    near = (vectors**2).sum(axis=1) < radius**2
    molecule = np.bincount(group)[group] > 1
    inside = np.where(molecule, same_group(group, near), near)
    pairs = bonds(numbers, vectors)
    for _ in range(MAX_ROUNDS):
        cut = _cut_bonds(pairs, inside)
        twice = np.flatnonzero(np.bincount(cut[:, 1], minlength=len(numbers)) > 1)
        if not len(twice):
            break
        inside[twice] = True
    cut = _cut_bonds(pairs, inside)
    caps = _caps(numbers, vectors, cut)
    chosen = np.flatnonzero(inside)
    all_vectors = np.concatenate([vectors[chosen], caps])
    is_cap = np.arange(len(all_vectors)) >= len(chosen)
    low, high = all_vectors.min(axis=0), all_vectors.max(axis=0)
    n_atoms = len(all_vectors)
    crop = Crop(
        numbers=np.concatenate([numbers[chosen], np.full(len(caps), HYDROGEN)]),
        vectors=all_vectors,
        parents=np.concatenate([surroundings.parents[chosen], surroundings.parents[cut[:, 1]]]),
        core=np.concatenate([surroundings.core[chosen], np.zeros(len(caps), dtype=bool)]),
        added=is_cap,
        cell=np.diag(high - low + 10.0),
        cut=np.zeros(3, dtype=bool),
        pbc=np.zeros(3, dtype=bool),
        corner=low - 5.0,
        removed=0,
        n_cut=n_atoms,
    )
    return crop, is_cap


def _cut_bonds(pairs: IntArray, inside: BoolArray) -> IntArray:
    """Bonds (n, 2) from an inner to an outer atom, the inner one first."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return np.asarray(both[inside[both[:, 0]] & ~inside[both[:, 1]]])


def _caps(numbers: IntArray, vectors: FloatArray, cut: IntArray) -> FloatArray:
    """Positions (n, 3) of the hydrogen atoms."""
    inner, outer = cut.T
    bond = vectors[outer] - vectors[inner]
    length = covalent_radii[numbers[inner]] + covalent_radii[HYDROGEN]
    return np.asarray(vectors[inner] + bond * (length / np.maximum(np.linalg.norm(bond, axis=1), 1e-9))[:, None])
