"""Convergence of a code's cutoff and k-points on the user's own structure.

One setting is varied at a time, the other kept at its configured value, and each calculation is compared with the
finest of its series:

    dE = |E - E_ref| / n_atoms,   dF = max_i |F_i - F_i,ref|,   dS = max_ab |stress_ab - stress_ab,ref|

The recommended setting is the coarsest whose changes, and those of all finer ones, stay within the tolerances. The
finest setting itself cannot be judged: when only it is left, the series is not converged. The energy *difference*
between cells of different sizes converges with the k-points only, so that a third series can take the structure and
its repeats at the same density and compare their energies per atom.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import GPa

from ideal.config import CodeSection, LabelGateConfig
from ideal.errors import LabelError
from ideal.labelling.codes import CodeResult, make_code
from ideal.labelling.codes.kpoints import kpoint_grid
from ideal.labelling.gate import refuse_structure
from ideal.labelling.task import LOG, output_to

CUTOFFS = {"gpaw": "cutoff", "espresso": "ecutwfc", "cp2k": "cutoff", "abinit": "cutoff", "vasp": "cutoff"}
"""The field that holds the cutoff, by type of code; pyscf's `mesh_cutoff` is one where it is set."""
CUTOFF_FACTORS = (0.7, 0.85, 1.0, 1.2, 1.45)
KPOINT_FACTORS = (0.6, 0.8, 1.0, 1.25, 1.6)


@dataclass(frozen=True)
class Tolerance:
    """What counts as the same label.

    Attributes:
        energy: eV per atom.
        force: eV/Å, on any atom.
        stress: eV/Å³, any component.
    """

    energy: float = 2e-3
    force: float = 0.01
    stress: float = 0.5 * GPa


@dataclass(frozen=True)
class Point:
    """One calculation of a series.

    Attributes:
        value: of the setting that is varied.
        energy: eV per atom; None when the calculation failed.
        cause: why it failed; empty otherwise.
        seconds: wall time.
        detail: what the value means here, such as the grid of k-points.
        energy_change: from the finest point, eV per atom; None for the finest and for failures.
        force_change: largest change of a force, eV/Å.
        stress_change: largest change of a component, eV/Å³; None without stress.
    """

    value: float
    energy: float | None
    seconds: float
    detail: str = ""
    cause: str = ""
    energy_change: float | None = None
    force_change: float | None = None
    stress_change: float | None = None

    def within(self, tolerance: Tolerance) -> bool:
        """Whether energy, forces and stress differ from the finest by less than ``tolerance``."""
        if self.energy_change is None or self.force_change is None:
            return False
        small = self.energy_change <= tolerance.energy and self.force_change <= tolerance.force
        return small and (self.stress_change is None or self.stress_change <= tolerance.stress)


@dataclass(frozen=True)
class Series:
    """One setting varied.

    Attributes:
        setting: key below ``labelling.code``.
        unit: of the values.
        configured: the value in the configuration.
        points: from coarse to fine.
        recommended: the coarsest value that is converged; None when none is.
    """

    setting: str
    unit: str
    configured: float
    points: tuple[Point, ...]
    recommended: float | None


def series_of(config: CodeSection, atoms: Atoms) -> list[tuple[str, str, list[float]]]:
    """Which settings of a code can be converged on a structure: setting, unit, values from coarse to fine.

    Values of the k-point length that give the same grid on this structure are tried once.

    Raises:
        LabelError: the code has neither a cutoff nor k-points.

    Example:
        >>> from ase.build import bulk
        >>> from ideal.config import GpawConfig
        >>> [name for name, _, _ in series_of(GpawConfig(kpoint_length=10), bulk("Si"))]
        ['cutoff', 'kpoint_length']
    """
    found: list[tuple[str, str, list[float]]] = []
    cutoff = CUTOFFS.get(str(getattr(config, "type", "")))
    if cutoff is None and getattr(config, "mesh_cutoff", None) is not None:
        cutoff = "mesh_cutoff"
    if cutoff is not None:
        found.append((cutoff, "eV", [round(getattr(config, cutoff) * factor, 1) for factor in CUTOFF_FACTORS]))
    length = getattr(config, "kpoint_length", 0.0)
    if length > 0 and np.any(atoms.pbc):
        by_grid: dict[tuple[int, int, int], float] = {}
        for factor in sorted(KPOINT_FACTORS, key=lambda factor: abs(factor - 1)):
            by_grid.setdefault(kpoint_grid(atoms, length * factor), round(length * factor, 2))
        if len(by_grid) > 1:
            found.append(("kpoint_length", "Å", sorted(by_grid.values())))
    if not found:
        raise LabelError(
            f"labelling.code.type {getattr(config, 'type', '?')} has no cutoff and no k-points to converge on this "
            f"structure; codes with a cutoff: {', '.join(CUTOFFS)}"
        )
    return found


def converge(
    config: CodeSection,
    atoms: Atoms,
    tolerance: Tolerance | None = None,
    progress: Callable[[str, Point], None] | None = None,
    folder: Path | None = None,
) -> Iterator[Series]:
    """Vary each setting of a code on one structure.

    Args:
        config: the code; its values are the middle of each series.
        atoms: the structure. One with forces (rattled) says more than a perfect crystal.
        tolerance: what counts as converged.
        progress: called with the setting and each point as soon as it is calculated, without its changes.
        folder: where the calculations work; None: a temporary one.

    Yields:
        A series per setting.

    Raises:
        LabelError: the structure is refused by the gate, or the code has nothing to converge.
    """
    tolerance = tolerance or Tolerance()
    if reason := refuse_structure(atoms, LabelGateConfig()):
        raise LabelError(f"the structure cannot be labelled: {reason}")
    known: dict[str, tuple[Point, CodeResult | None]] = {}
    for setting, unit, values in series_of(config, atoms):
        runs = []
        for value in values:
            changed = type(config).model_validate(config.model_dump() | {setting: value})
            key = repr(changed)
            if key not in known:
                known[key] = _calculate(changed, atoms, value, folder)
            point, result = known[key]
            detail = " x ".join(map(str, kpoint_grid(atoms, value))) if setting == "kpoint_length" else ""
            point = Point(value, point.energy, point.seconds, detail, point.cause)
            runs.append((point, result))
            if progress is not None:
                progress(setting, point)
        points = _compared(runs, len(atoms))
        yield Series(setting, unit, float(getattr(config, setting)), points, _recommended(points, tolerance))


def cell_sizes(
    config: CodeSection, atoms: Atoms, repeats: Sequence[tuple[int, int, int]], folder: Path | None = None
) -> Iterator[Point]:
    """Energy per atom of the structure and of its repeats, which are the same matter: their scatter is sampling error.

    Args:
        config: the code.
        atoms: the structure.
        repeats: numbers of repeats along each axis; (1, 1, 1) is the reference.

    Yields:
        A point per cell: ``value`` is the number of atoms, the changes are those from the first cell's.
    """
    reference: CodeResult | None = None
    for repeat in repeats:
        cell = atoms * repeat
        point, result = _calculate(config, cell, float(len(cell)), folder)
        grid = kpoint_grid(cell, float(getattr(config, "kpoint_length", 0.0)))
        changes: dict[str, Any] = {}
        if result is not None and reference is not None and point.energy is not None:
            shift = np.tile(reference.forces, (len(cell) // len(atoms), 1)) - result.forces
            changes["energy_change"] = abs(point.energy - reference.energy / len(atoms))
            changes["force_change"] = float(np.linalg.norm(shift, axis=1).max())
            if result.stress is not None and reference.stress is not None:
                changes["stress_change"] = float(np.abs(result.stress - reference.stress).max())
        elif result is not None:
            reference = result
        yield Point(point.value, point.energy, point.seconds, " x ".join(map(str, grid)), point.cause, **changes)


def _calculate(config: CodeSection, atoms: Atoms, value: float, folder: Path | None) -> tuple[Point, CodeResult | None]:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ideal-converge-", dir=folder) as work:
        try:
            with output_to(Path(work) / LOG):
                result = make_code(config).compute(atoms, Path(work))
        except LabelError as error:
            return Point(value, None, time.perf_counter() - start, cause=str(error)), None
    return Point(value, result.energy / len(atoms), time.perf_counter() - start), result


def _compared(runs: list[tuple[Point, CodeResult | None]], n_atoms: int) -> tuple[Point, ...]:
    """The points with their changes from the finest one that was calculated."""
    done = [(point, result) for point, result in runs if result is not None]
    if not done:
        raise LabelError(f"no calculation of the series succeeded: {runs[-1][0].cause}")
    finest = done[-1][1]
    assert finest is not None
    points = []
    for point, result in runs:
        if result is None or result is finest:
            points.append(point)
            continue
        stress = None
        if result.stress is not None and finest.stress is not None:
            stress = float(np.abs(result.stress - finest.stress).max())
        points.append(
            Point(
                point.value,
                point.energy,
                point.seconds,
                point.detail,
                point.cause,
                energy_change=abs(result.energy - finest.energy) / n_atoms,
                force_change=float(np.linalg.norm(result.forces - finest.forces, axis=1).max()),
                stress_change=stress,
            )
        )
    return tuple(points)


def _recommended(points: Sequence[Point], tolerance: Tolerance) -> float | None:
    """The coarsest value from which on every judged point is within the tolerance."""
    recommended = None
    judged = [point for point in points if point.energy_change is not None]
    for point in reversed(judged):
        if not point.within(tolerance):
            break
        recommended = point.value
    return recommended
