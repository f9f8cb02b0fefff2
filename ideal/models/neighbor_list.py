"""Who is whose neighbor: the core's cell list, reused while no atom has moved further than half a skin.

Edges are sorted by source, target and periodic image, and their vectors are formed in float64 from positions and
integer images, so that a result never depends on when the list was made: not across a restart either.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms

from ideal import _core
from ideal.errors import TrainingError
from ideal.records import FloatArray, IntArray

SHORTEST_DISTANCE = 0.1
"""Atoms nearer than this (Å) are taken to be coincident: no potential means anything there."""

_ROUNDING = 1e-6


class Edges(NamedTuple):
    """All ordered pairs within the cutoff, sorted by source.

    Attributes:
        counts: (n_atoms,) int64, edges of each atom.
        target: (n_edges,) int32.
        vectors: (n_edges, 3) float64, from source to target, Å.
    """

    counts: IntArray
    target: IntArray
    vectors: FloatArray


class _Pairs(NamedTuple):
    """A list made with a skin, and the structure that it was made of."""

    positions: FloatArray
    cell: FloatArray
    periodic: FloatArray
    arrays: tuple[IntArray, IntArray, IntArray]


class NeighborList:
    """The edges of structures that follow each other, as in dynamics.

    Args:
        cutoff: Å.
        skin: Å; the list is made anew when an atom has moved by more than half of it, or the cell has changed.

    Attributes:
        builds: how often a list was made.

    Example:
        >>> from ase.build import bulk
        >>> atoms = bulk("Li", "bcc", a=3.5)
        >>> neighbors = NeighborList(3.1)
        >>> len(neighbors(atoms).target)
        8
        >>> atoms.positions += 0.1
        >>> len(neighbors(atoms).target), neighbors.builds
        (8, 1)
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        self.cutoff = float(cutoff)
        self.skin = float(skin)
        self.builds = 0
        self._pairs: _Pairs | None = None

    def __call__(self, atoms: Atoms) -> Edges:
        """The edges of a structure; errors as for `find_edges`."""
        positions, cell, periodic = _checked(atoms)
        pairs = self._pairs  # read once: another thread may replace it
        if pairs is None or not self._serves(pairs, positions, cell, periodic):
            arrays = _core.list_pairs(positions, cell, periodic, self.cutoff + self.skin)
            pairs = _Pairs(positions.copy(), cell, periodic, arrays)
            self._pairs = pairs
            self.builds += 1
        return _edges(positions, cell, periodic, self.cutoff, pairs.arrays)

    def _serves(self, pairs: _Pairs, positions: FloatArray, cell: FloatArray, periodic: FloatArray) -> bool:
        if pairs.positions.shape != positions.shape or not np.array_equal(pairs.periodic, periodic):
            return False
        if not np.array_equal(pairs.cell, cell):
            return False
        moved = positions - pairs.positions
        return bool(np.einsum("ij,ij->i", moved, moved).max(initial=0.0) <= (0.5 * self.skin) ** 2)


def find_edges(atoms: Atoms, cutoff: float) -> Edges:
    """All ordered pairs within ``cutoff`` (Å) of any structure: any cell, any periodicity, images of small cells.

    Raises:
        TrainingError: positions or cell are not finite, a periodic axis has no length, two atoms coincide.

    Example:
        >>> from ase.build import bulk
        >>> find_edges(bulk("Li", "bcc", a=3.5), 3.1).counts
        array([8])
    """
    positions, cell, periodic = _checked(atoms)
    pairs = _core.list_pairs(positions, cell, periodic, float(cutoff) + _ROUNDING)
    return _edges(positions, cell, periodic, float(cutoff), pairs)


def _edges(
    positions: FloatArray,
    cell: FloatArray,
    periodic: FloatArray,
    cutoff: float,
    pairs: tuple[IntArray, IntArray, IntArray],
) -> Edges:
    counts, target, vectors, source, edge, length = _core.edges_within(positions, cell, periodic, cutoff, *pairs)
    if edge >= 0 and length < SHORTEST_DISTANCE:
        raise TrainingError(
            f"atoms {source} and {target[edge]} are {length:.3g} Å apart (at least {SHORTEST_DISTANCE} Å wanted); "
            "remove one of them, or lower the time step that led to it"
        )
    return Edges(counts, target, vectors)


def _checked(atoms: Atoms) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Positions, complete cell and periodicity as the core wants them."""
    positions = np.ascontiguousarray(atoms.positions, dtype=np.float64)
    cell = _lattice(atoms)
    if not np.isfinite(positions).all():
        atom = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise TrainingError(
            f"the position of atom {atom} is {positions[atom].tolist()}, not finite; correct the structure or lower "
            "the time step that led to it"
        )
    return positions, cell, np.array(atoms.pbc, dtype=bool)


def _lattice(atoms: Atoms) -> FloatArray:
    """(3, 3) cell with missing axes completed, Å."""
    cell = np.asarray(atoms.cell.array, dtype=np.float64)
    if not np.isfinite(cell).all():
        raise TrainingError("the cell holds values that are not finite; correct the structure")
    lengths = np.linalg.norm(cell, axis=1)
    if (lengths[atoms.pbc] == 0).any():
        axis = int(np.flatnonzero(atoms.pbc & (lengths == 0))[0])
        raise TrainingError(f"axis {axis} is periodic but its cell vector is zero; set the cell or pbc[{axis}] = False")
    complete = np.ascontiguousarray(atoms.cell.complete().array, dtype=np.float64)
    if abs(np.linalg.det(complete)) < 1e-6:
        raise TrainingError(f"the cell {cell.tolist()} has no volume; give three independent cell vectors")
    return complete
