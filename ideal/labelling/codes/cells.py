"""Cells for codes that know periodic cells only."""

from __future__ import annotations

import numpy as np
from ase import Atoms

VACUUM = 6.0
"""Empty space on each side of the atoms along an axis without periodicity, Å."""


def fully_periodic(atoms: Atoms, vacuum: float = VACUUM) -> Atoms:
    """A copy that is periodic along all three axes.

    Along an axis without periodicity the cell vector is set perpendicular to the periodic ones, as long as the atoms'
    extent plus ``vacuum`` (Å) on each side. Atoms keep their order; the whole is moved, which no force notices.

    Example:
        >>> from ase.build import molecule
        >>> fully_periodic(molecule("H2")).cell.lengths().round(2).tolist()
        [12.0, 12.0, 12.74]
    """
    whole = atoms.copy()
    open_axes = [axis for axis in range(3) if not whole.pbc[axis]]
    if open_axes:
        cell = whole.cell.array.copy()
        cell[open_axes] = 0.0
        whole.cell = cell
        whole.cell = whole.cell.complete()
        whole.center(vacuum=vacuum, axis=open_axes)
        whole.pbc = True
    return whole


def has_stress(atoms: Atoms) -> bool:
    """Whether a stress means anything: periodic along all three axes."""
    return bool(np.all(atoms.pbc))
