"""The gate: what is refused before a calculation, and what a result must satisfy to become a label.

Every rule returns a reason in words; a refused structure or result becomes a `FailedLabel`, never a number. The net
force rule catches under-resolved grids (Gaussian codes with too coarse a density grid return net forces of 0.5-24
eV/Å without a word). It holds for every structure: the codes are asked for forces without constraints, and without
outer fields the forces on all atoms sum to zero.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from ideal.config import LabelGateConfig
from ideal.records import FloatArray

MAX_STRESS = 10.0
"""Largest stress component that is believed, eV/Å³ (1,600 GPa)."""

MIN_CELL_HEIGHT = 0.5
"""Smallest distance between lattice planes along a periodic axis, Å."""


def refuse_structure(atoms: Atoms, gate: LabelGateConfig) -> str | None:
    """Why ``atoms`` must not be sent to a code; None when they may.

    Example:
        >>> from ase import Atoms
        >>> refuse_structure(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.1]]), LabelGateConfig())
        'atoms 0 (H) and 1 (H) are 0.100 Å apart, below labelling.gate.min_distance 0.5 Å'
    """
    if len(atoms) == 0:
        return "the structure has no atoms"
    bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
    if len(bad):
        return f"the position of atom {bad[0]} ({atoms.symbols[bad[0]]}) is {atoms.positions[bad[0]].tolist()}"
    if not np.isfinite(atoms.cell.array).all():
        return f"the cell is not finite: {atoms.cell.array.tolist()}"
    if atoms.pbc.any():
        complete = atoms.cell.complete()
        if abs(complete.volume) < MIN_CELL_HEIGHT**3 or not atoms.cell.array[atoms.pbc].any(axis=1).all():
            return (
                f"the cell {atoms.cell.array.tolist()} has no extent along a periodic axis (pbc {atoms.pbc.tolist()})"
            )
        heights = 1.0 / np.linalg.norm(complete.reciprocal(), axis=1)[atoms.pbc]
        if heights.min() < MIN_CELL_HEIGHT:
            return f"the cell is only {heights.min():.3f} Å high along a periodic axis (at least {MIN_CELL_HEIGHT} Å)"
    if gate.min_distance > 0:
        first, second, distance = neighbor_list("ijd", atoms, gate.min_distance)
        if len(distance):
            k = int(np.argmin(distance))
            i, j = int(first[k]), int(second[k])
            i, j = min(i, j), max(i, j)
            return (
                f"atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) are {distance[k]:.3f} Å apart, below "
                f"labelling.gate.min_distance {gate.min_distance:g} Å"
            )
    return None


def refuse_result(
    atoms: Atoms, energy: float, forces: FloatArray, stress: FloatArray | None, gate: LabelGateConfig
) -> str | None:
    """Why a code's result must not become a label; None when it may.

    Args:
        atoms: the structure.
        energy: eV.
        forces: (n_atoms, 3), eV/Å.
        stress: (6,), eV/Å³, or None.
        gate: the limits.

    Example:
        >>> from ase import Atoms
        >>> refuse_result(Atoms("H"), float("nan"), np.zeros((1, 3)), None, LabelGateConfig())
        'the energy is nan eV'
    """
    if not np.isfinite(energy):
        return f"the energy is {energy} eV"
    if forces.shape != (len(atoms), 3):
        return f"forces of shape {forces.shape} came back for {len(atoms)} atoms"
    if not np.isfinite(forces).all():
        return f"the force on atom {int(np.flatnonzero(~np.isfinite(forces).all(axis=1))[0])} is not finite"
    if stress is not None:
        if stress.shape != (6,):
            return f"a stress of shape {stress.shape} came back instead of (6,)"
        if not np.isfinite(stress).all():
            return f"the stress is not finite: {stress.tolist()}"
        if np.abs(stress).max() > MAX_STRESS:
            return f"a stress component is {np.abs(stress).max():.3g} eV/Å³, above {MAX_STRESS:g} eV/Å³"
    largest = float(np.linalg.norm(forces, axis=1).max())
    if largest > gate.max_force:
        return f"the largest force is {largest:.3g} eV/Å, above labelling.gate.max_force {gate.max_force:g} eV/Å"
    net = float(np.abs(forces.sum(axis=0)).max())
    if net > gate.max_net_force:
        return (
            f"the net force is {net:.3f} eV/Å, above labelling.gate.max_net_force {gate.max_net_force:g} eV/Å: "
            "the code's grid or cutoff is too coarse; raise it"
        )
    return None
