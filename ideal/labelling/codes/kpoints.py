"""Brillouin-zone sampling from a length, so that cells of different sizes are consistent.

Along an axis of period L the grid has n = ceil(kpoint_length / L) points: about one point per 2π / kpoint_length of
the reciprocal vector. L is the distance between the lattice planes, 2π/|b|, which equals the cell vector's length
for orthogonal cells and is shorter for triclinic ones. The points are those of Monkhorst and Pack
(doi:10.1103/PhysRevB.13.5188): odd grids hold Gamma, even grids are shifted by half a step and do not.
"""

from __future__ import annotations

import math

import numpy as np
from ase import Atoms

TINY = 1e-6


def kpoint_grid(atoms: Atoms, kpoint_length: float) -> tuple[int, int, int]:
    """Number of k-points along each reciprocal vector.

    Args:
        atoms: the cell; axes without periodicity get one point.
        kpoint_length: Å; 0 gives Gamma only.

    Example:
        >>> from ase.build import bulk
        >>> kpoint_grid(bulk("Li", cubic=True) * (2, 2, 3), 20.0)
        (3, 3, 2)
    """
    reciprocal = np.asarray(atoms.cell.reciprocal())
    grid = [1, 1, 1]
    for axis in range(3):
        if atoms.pbc[axis]:
            grid[axis] = max(1, math.ceil(kpoint_length * float(np.linalg.norm(reciprocal[axis])) - TINY))
    return grid[0], grid[1], grid[2]


def kpoint_shift(grid: tuple[int, int, int]) -> tuple[int, int, int]:
    """1 along axes whose grid is shifted by half a step (even number of points), else 0, as Quantum ESPRESSO wants."""
    return tuple(int(n % 2 == 0) for n in grid)  # type: ignore[return-value]


def describe_sampling(kpoint_length: float) -> str:
    """How the Brillouin zone is sampled, in words for `ReferenceCode.check`.

    Args:
        kpoint_length: Å; 0 gives Gamma only.

    Example:
        >>> describe_sampling(16.0)
        'k-points from 16 Å'
    """
    return f"k-points from {kpoint_length:g} Å" if kpoint_length else "Gamma point"
