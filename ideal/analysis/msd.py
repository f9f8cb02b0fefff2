"""Mean squared displacement.

    MSD(t) = 1/N sum_i |r_i(t) - r_i(0)|^2

Ballistic motion grows as t^2, diffusion as 6 D t, a crystal stays at a plateau. Positions are unwrapped first: between
two frames every atom is taken to have moved to the nearest of its images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ideal.errors import IdealError
from ideal.records import FloatArray


def unwrap(positions: ArrayLike, cells: ArrayLike, pbc: ArrayLike = True) -> FloatArray:
    """Displacement of every atom since the first frame, across periodic boundaries.

    The step between two frames is taken in scaled coordinates, to the nearest image, and turned into Å by the later
    frame's cell: a uniform change of the cell alone displaces nothing. Exact while no atom moves farther than half
    the cell's smallest height between two frames.

    Args:
        positions: (n_frames, n_atoms, 3), Å, wrapped or not.
        cells: (3, 3) or (n_frames, 3, 3), Å, one vector per row. All zero where no axis is periodic.
        pbc: periodicity of the three axes.

    Returns:
        (n_frames, n_atoms, 3), Å; zero in the first frame.

    Raises:
        IdealError: shapes do not fit, or a periodic axis has no length.
    """
    positions = np.asarray(positions, dtype=float)
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise IdealError(f"unwrap: positions have the shape {positions.shape}; expected (n_frames, n_atoms, 3)")
    cells = np.asarray(cells, dtype=float)
    if cells.shape not in ((3, 3), (len(positions), 3, 3)):
        raise IdealError(f"unwrap: cells have the shape {cells.shape}; expected (3, 3) or ({len(positions)}, 3, 3)")
    cells = np.broadcast_to(cells, (len(positions), 3, 3))
    periodic = np.broadcast_to(np.asarray(pbc, dtype=bool), 3)
    displacements = np.zeros_like(positions)
    if not periodic.any():
        return positions - positions[:1]
    complete = _complete_cells(cells, periodic)
    scaled = np.einsum("fni,fij->fnj", positions, np.linalg.inv(complete))
    steps = np.diff(scaled, axis=0)
    steps[..., periodic] -= np.rint(steps[..., periodic])
    displacements[1:] = np.cumsum(np.einsum("fni,fij->fnj", steps, complete[1:]), axis=0)
    return displacements


def mean_squared_displacement(
    positions: ArrayLike,
    cells: ArrayLike,
    pbc: ArrayLike = True,
    *,
    average_origins: bool = False,
    remove_drift: bool = False,
) -> FloatArray:
    """Mean squared displacement of all atoms.

    Args:
        positions: (n_frames, n_atoms, 3), Å, wrapped or not.
        cells: (3, 3) or (n_frames, 3, 3), Å.
        pbc: periodicity of the three axes.
        average_origins: average over all time origins (a stationary trajectory with equal spacing in time);
            otherwise the first frame is the only origin.
        remove_drift: subtract the mean displacement of all atoms.

    Returns:
        (n_frames,) Å²; with ``average_origins`` the index is the lag in frames.

    Raises:
        IdealError: as `unwrap`.

    Example:
        >>> import numpy as np
        >>> positions = np.arange(4.0)[:, None, None] * np.array([[0.5, 0.0, 0.0]])
        >>> mean_squared_displacement(positions, np.eye(3) * 1.2).tolist()
        [0.0, 0.25, 1.0, 2.25]
    """
    displacements = unwrap(positions, cells, pbc)
    if remove_drift:
        displacements = displacements - displacements.mean(axis=1, keepdims=True)
    if not average_origins:
        return (displacements**2).sum(axis=2).mean(axis=1)
    n_frames = len(displacements)
    result = np.zeros(n_frames)
    for lag in range(1, n_frames):
        moved = displacements[lag:] - displacements[:-lag]
        result[lag] = (moved**2).sum(axis=2).mean()
    return result


def _complete_cells(cells: FloatArray, periodic: np.ndarray) -> FloatArray:
    """Cells with a vector along every axis: open axes without one get a unit vector normal to the others."""
    from ase.geometry import complete_cell

    lengths = np.linalg.norm(cells, axis=2)
    missing = periodic & (lengths < 1e-12).any(axis=0)
    if missing.any():
        axes = ", ".join("xyz"[axis] for axis in np.flatnonzero(missing))
        raise IdealError(f"unwrap: the periodic axis {axes} has no cell vector; give the cell or pbc=False for it")
    if (lengths > 1e-12).all():
        return cells
    return np.array([complete_cell(cell) for cell in cells])
