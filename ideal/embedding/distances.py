"""Interatomic distances in small periodic cells, and the shortest ones that a training set knows.

A pair of atoms is *in contact* when it is closer than `CONTACT` times the shortest distance of that species
pair in the training set; without a training set the covalent radii stand in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from ideal import _core
from ideal.records import FloatArray, IntArray

CONTACT = 0.8
"""Fraction of the shortest training distance below which two atoms are in contact."""

COVALENT_FRACTION = 0.85
"""Shortest distance assumed for a species pair that no training structure holds, in sums of covalent radii."""

SEARCH_RADIUS = 4.0
"""Distances (Å) beyond this are not looked for by `minimum_distances`: no species pair is in contact there."""


@dataclass(frozen=True)
class Pairs:
    """Directed neighbor pairs of a cell; every pair appears as (i, j) and as (j, i).

    Attributes:
        first: (n_pairs,) atom i.
        second: (n_pairs,) atom j, of which a periodic image may be meant.
        vectors: (n_pairs, 3) from i to that image of j, Å.
        distances: (n_pairs,) Å.
    """

    first: IntArray
    second: IntArray
    vectors: FloatArray
    distances: FloatArray


def heights(cell: FloatArray) -> FloatArray:
    """Distances (3,) between opposite faces of a parallelepiped given by the rows of ``cell`` (3, 3), Å."""
    return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0))


def periodic_pairs(positions: FloatArray, cell: FloatArray, pbc: Iterable[bool], cutoff: float) -> Pairs:
    """All pairs closer than ``cutoff`` in a cell of any shape, as small as it may be.

    Args:
        positions: (n_atoms, 3), Å; they may lie outside the cell.
        cell: (3, 3) lattice vectors as rows, Å; not singular (rows without periodicity only have to be independent).
        pbc: (3,) which axes are periodic.
        cutoff: Å.

    Returns:
        The pairs, sorted by the first atom; an atom is paired with its own periodic images, never with itself.

    Raises:
        UncertaintyError: a position is not finite, or the lattice vectors of periodic axes are dependent.

    Example:
        >>> periodic_pairs(np.zeros((1, 3)), 3.0 * np.eye(3), (True, True, True), 3.1).distances
        array([3., 3., 3., 3., 3., 3.])
    """
    structure = (
        np.ascontiguousarray(positions, dtype=np.float64),
        np.ascontiguousarray(cell, dtype=np.float64),
        np.array(tuple(pbc), dtype=bool),
        float(cutoff),
    )
    count, second, vectors, *_ = _core.edges_within(*structure, *_core.list_pairs(*structure))
    first = np.repeat(np.arange(len(positions)), count)
    return Pairs(first, second.astype(np.int64), vectors, np.sqrt((vectors**2).sum(axis=1)))


def minimum_distances(structures: Iterable[Atoms] | Atoms) -> dict[tuple[int, int], float]:
    """Shortest distance of every species pair in a set of structures.

    Args:
        structures: the training set.

    Returns:
        {(Z1, Z2): Å} with Z1 <= Z2; pairs that are never closer than `SEARCH_RADIUS` are left out.

    Example:
        >>> from ase.build import bulk
        >>> minimum_distances([bulk("Cu", "fcc", a=3.6)])
        {(29, 29): 2.5455844122715714}
    """
    shortest: dict[tuple[int, int], float] = {}
    for atoms in [structures] if isinstance(structures, Atoms) else structures:
        pairs = periodic_pairs(atoms.positions, np.asarray(atoms.cell.complete()), atoms.pbc, cutoff=SEARCH_RADIUS)
        low = np.minimum(atoms.numbers[pairs.first], atoms.numbers[pairs.second])
        high = np.maximum(atoms.numbers[pairs.first], atoms.numbers[pairs.second])
        for z1, z2 in {(int(a), int(b)) for a, b in zip(low, high, strict=True)}:
            distance = float(pairs.distances[(low == z1) & (high == z2)].min())
            shortest[z1, z2] = min(distance, shortest.get((z1, z2), np.inf))
    return dict(sorted(shortest.items()))


class ShortestDistances:
    """Look-up of the shortest distance of species pairs, for arrays of atomic numbers.

    Args:
        known: {(Z1, Z2): Å} from `minimum_distances`; pairs it lacks take `COVALENT_FRACTION` times the sum of the
            covalent radii.
    """

    def __init__(self, known: Mapping[tuple[int, int], float] | None = None) -> None:
        radii = np.asarray(covalent_radii)
        self._table = COVALENT_FRACTION * (radii[:, None] + radii[None, :])
        for (z1, z2), distance in (known or {}).items():
            self._table[z1, z2] = self._table[z2, z1] = distance

    def of(self, first: IntArray, second: IntArray) -> FloatArray:
        """Shortest distances (Å) of the pairs of atomic numbers ``first`` and ``second`` (broadcast)."""
        return np.asarray(self._table[first, second])

    def longest(self, numbers: IntArray) -> float:
        """The largest shortest distance (Å) among the species in ``numbers``."""
        species = np.unique(numbers)
        return float(self._table[np.ix_(species, species)].max())

    def contact(
        self, numbers: IntArray, names: IntArray, first: IntArray, second: IntArray, distances: FloatArray
    ) -> str:
        """Says which of some pairs is in contact, and most so; empty when none is.

        Args:
            numbers: (n_atoms,) atomic numbers.
            names: (n_atoms,) what the atoms are called.
            first, second: (n_pairs,) atoms.
            distances: (n_pairs,) Å.
        """
        if not len(distances):
            return ""
        limits = CONTACT * self.of(numbers[first], numbers[second])
        worst = int(np.argmin(distances / limits))
        if distances[worst] >= limits[worst]:
            return ""
        a, b = first[worst], second[worst]
        return (
            f"atoms {names[a]} and {names[b]} ({chemical_symbols[numbers[a]]}-{chemical_symbols[numbers[b]]}) are "
            f"{distances[worst]:.3f} Å apart, in contact below {limits[worst]:.3f} Å; the frame is not physical there"
        )


def contact_in(atoms: Atoms, shortest: ShortestDistances) -> str:
    """Says which two atoms of a structure are most in contact; empty when none are.

    Args:
        atoms: any cell.
        shortest: of the training set.

    Example:
        >>> contact_in(Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 1.2]]), ShortestDistances())
        'atoms 0 and 1 (Cu-Cu) are 1.200 Å apart, in contact below 1.795 Å; the frame is not physical there'
    """
    reach = CONTACT * shortest.longest(atoms.numbers)
    pairs = periodic_pairs(atoms.positions, np.asarray(atoms.cell.complete()), atoms.pbc, reach)
    return shortest.contact(atoms.numbers, np.arange(len(atoms)), pairs.first, pairs.second, pairs.distances)
