"""The gate: what is refused before a calculation, and what a result must satisfy to become a label.

Every rule returns a reason in words: the value, the limit and the remedy; a refused structure or result becomes a
`FailedLabel`, never a number. The net force rule catches under-resolved grids (Gaussian codes with too coarse a density
grid return net forces of 0.5-24 eV/Å without a word). It holds for every structure: the codes are asked for forces
without constraints, and without outer fields the forces on all atoms sum to zero. The entropy rule catches occupations
that are no longer those of nearly cold electrons: the free energy then is a label of hot electrons.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from ase.units import GPa

from ideal.config import LabelGateConfig
from ideal.labelling.codes.base import CodeResult
from ideal.records import FailedLabel, FloatArray

MIN_CELL_HEIGHT = 0.5
"""Smallest distance between lattice planes along a periodic axis, Å."""

_FORCE = "the largest force is"
_SOURCE = "check the frame that it comes from (potential, time step)"


def refuse_structure(atoms: Atoms, gate: LabelGateConfig) -> str | None:
    """Why ``atoms`` must not be sent to a code; None when they may.

    Example:
        >>> from ase import Atoms
        >>> refuse_structure(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.1]]), LabelGateConfig())  # doctest: +ELLIPSIS
        'atoms 0 (H) and 1 (H) are 0.100 Å apart, below labelling.gate.min_distance 0.5 Å; ...'
    """
    if len(atoms) == 0:
        return "the structure has no atoms; at least one is needed"
    bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
    if len(bad):
        position = atoms.positions[bad[0]].tolist()
        return f"the position of atom {bad[0]} ({atoms.symbols[bad[0]]}) is {position}, not finite; {_SOURCE}"
    if not np.isfinite(atoms.cell.array).all():
        return f"the cell is not finite: {atoms.cell.array.tolist()}; correct the structure"
    if atoms.pbc.any():
        complete = atoms.cell.complete()
        if abs(complete.volume) < MIN_CELL_HEIGHT**3 or not atoms.cell.array[atoms.pbc].any(axis=1).all():
            return (
                f"the cell {atoms.cell.array.tolist()} has no extent along a periodic axis (pbc {atoms.pbc.tolist()}); "
                "correct the cell, or make that axis open"
            )
        heights = 1.0 / np.linalg.norm(complete.reciprocal(), axis=1)[atoms.pbc]
        if heights.min() < MIN_CELL_HEIGHT:
            return (
                f"the cell is only {heights.min():.3f} Å high along a periodic axis (at least {MIN_CELL_HEIGHT} Å); "
                "correct the cell, or make that axis open"
            )
    if gate.min_distance > 0:
        first, second, distance = neighbor_list("ijd", atoms, gate.min_distance)
        if len(distance):
            k = int(np.argmin(distance))
            i, j = int(first[k]), int(second[k])
            i, j = min(i, j), max(i, j)
            return (
                f"atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) are {distance[k]:.3f} Å apart, below "
                f"labelling.gate.min_distance {gate.min_distance:g} Å; {_SOURCE}; lower the limit where such bonds are "
                "real"
            )
    return None


def refuse_result(atoms: Atoms, result: CodeResult, gate: LabelGateConfig) -> str | None:
    """Why a code's result must not become a label; None when it may.

    Args:
        atoms: the structure.
        result: energy (eV), forces (n_atoms, 3) (eV/Å), stress (6,) (eV/Å³) or None, SCF flag, entropy (eV).
        gate: the limits.

    Example:
        >>> from ase import Atoms
        >>> refuse_result(Atoms("H"), CodeResult(float("nan"), np.zeros((1, 3)), None), LabelGateConfig())
        'the energy is nan eV, not finite; read the log for the first warning'
    """
    forces, stress = result.forces, result.stress
    if result.converged is False:
        return "the code says that its SCF did not converge; raise labelling.code.max_iterations or add retries"
    if not np.isfinite(result.energy):
        return f"the energy is {result.energy} eV, not finite; read the log for the first warning"
    if forces.shape != (len(atoms), 3):
        return f"forces of shape {forces.shape} came back for {len(atoms)} atoms; check the version of the code"
    if not np.isfinite(forces).all():
        worst = int(np.flatnonzero(~np.isfinite(forces).all(axis=1))[0])
        return f"the force on atom {worst} is not finite: {forces[worst].tolist()}; read the log for the first warning"
    if stress is not None and (reason := _refuse_stress(stress, gate)):
        return reason
    if reason := refuse_force(atoms, forces, "max_force", gate.max_force):
        return f"{reason}; {_SOURCE}; raise the limit for shocks and collisions"
    net = max(float(np.abs(forces.sum(axis=0)).max()), result.removed_net_force or 0.0)
    if net > gate.max_net_force:
        return (
            f"the net force is {net:.3f} eV/Å, above labelling.gate.max_net_force {gate.max_net_force:g} eV/Å: "
            "the code's grid or cutoff is too coarse; raise it (`ideal-run converge` finds it)"
        )
    if gate.max_entropy is not None and result.entropy is not None:
        entropy = result.entropy / len(atoms)
        if not np.isfinite(entropy) or entropy > gate.max_entropy:
            return (
                f"the entropy T S of the smeared electrons is {entropy:.3g} eV/atom, above labelling.gate.max_entropy "
                f"{gate.max_entropy:g} eV/atom: the label is one of hot electrons; lower labelling.code.smearing, or "
                "raise the limit where the electrons are meant to be hot"
            )
    return None


def refuse_force(atoms: Atoms, forces: FloatArray, rule: str, limit: float) -> str | None:
    """Which force exceeds a limit, in words; None where none does.

    Args:
        atoms: the structure.
        forces: (n_atoms, 3), eV/Å.
        rule: key of the limit in ``labelling.gate``.
        limit: eV/Å.

    Example:
        >>> refuse_force(Atoms("H"), np.array([[0.0, 0.0, 50.0]]), "max_force", 30.0)
        'the largest force is 50 eV/Å (atom 0, H), above labelling.gate.max_force 30 eV/Å'
    """
    norms = np.linalg.norm(forces, axis=1)
    worst = int(norms.argmax())
    if norms[worst] <= limit:
        return None
    where = f"(atom {worst}, {atoms.symbols[worst]})"
    return f"{_FORCE} {norms[worst]:.3g} eV/Å {where}, above labelling.gate.{rule} {limit:g} eV/Å"


def is_for_force(failure: FailedLabel) -> bool:
    """Whether a label was calculated well, and refused for a force that is too large (`refuse_force`).

    Example:
        >>> is_for_force(FailedLabel("", Atoms("H"), "the code says that its SCF did not converge"))
        False
    """
    return failure.circumstances.get("kind", "refused") == "refused" and _FORCE in failure.cause


def _refuse_stress(stress: FloatArray, gate: LabelGateConfig) -> str | None:
    if stress.shape != (6,):
        return f"a stress of shape {stress.shape} came back instead of (6,); check the version of the code"
    if not np.isfinite(stress).all():
        return f"the stress is not finite: {stress.tolist()}; read the log for the first warning"
    largest = float(np.abs(stress).max())
    if largest > gate.max_stress:
        return (
            f"a stress component is {largest:.3g} eV/Å³ ({largest / GPa:.0f} GPa), above labelling.gate.max_stress "
            f"{gate.max_stress:g} eV/Å³; raise the cutoff (`ideal-run converge`), or the limit for matter that dense"
        )
    return None
