"""The statistics behind ``ideal-run calibrate``: a bound on the force error, and how well u tells true errors.

Every structure is judged by a bound that the others gave (cross-conformal: structures are divided into folds and never
split), and counts once whatever its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ideal.engine.comparing import Comparison
from ideal.errors import UncertaintyError
from ideal.records import BoolArray, FloatArray, IntArray, Label
from ideal.report.calibration_plot import CONFIDENCES
from ideal.uncertainty.assessment import Assessment, CalibrationCurve, assess, calibration_curve
from ideal.uncertainty.calibration import Calibration

FOLDS = 20


@dataclass(frozen=True)
class LabelledPairs:
    """All atoms of a labelled set; every array (n_atoms,).

    Attributes:
        u: uncertainty.
        error: norm of the force error vector, eV/Å.
        cell: number of the structure.
        weight: 1 over the number of its atoms.
        species: chemical symbol.
    """

    u: FloatArray
    error: FloatArray
    cell: IntArray
    weight: FloatArray
    species: NDArray[np.str_]

    @classmethod
    def of(cls, labels: Sequence[Label], comparisons: Sequence[Comparison]) -> LabelledPairs:
        """Join what was compared, structure by structure."""
        sizes = [len(comparison.u) for comparison in comparisons]
        return cls(
            u=np.concatenate([comparison.u for comparison in comparisons]),
            error=np.concatenate([comparison.error for comparison in comparisons]),
            cell=np.repeat(np.arange(len(sizes)), sizes),
            weight=np.repeat(1.0 / np.array(sizes), sizes),
            species=np.concatenate([label.atoms.get_chemical_symbols() for label in labels]),
        )


@dataclass(frozen=True)
class Study:
    """What a labelled set says about u.

    Attributes:
        calibration: fitted to all structures.
        asked: threshold of u that the tolerance asks for.
        threshold: the one that was judged.
        assessment: with the coverage of the cross-conformal bounds, where they are finite.
        n_unbounded: atoms beyond every u that the other structures showed: they have no bound.
        curve: observed against nominal coverage.
        folds: of the cross-conformal bounds.
        per_species: the assessment by element; empty unless asked for.
    """

    calibration: Calibration
    asked: float
    threshold: float
    assessment: Assessment
    n_unbounded: int
    curve: CalibrationCurve
    folds: int
    per_species: dict[str, Assessment]


def structures_needed(confidence: float) -> int:
    """The least number of structures for which every fold has a finite bound.

    Example:
        >>> structures_needed(0.9), structures_needed(0.99)
        (10, 105)
    """
    others = math.ceil(confidence / (1 - confidence) - 1e-9)  # cells that a finite bound takes
    return math.ceil(others * FOLDS / (FOLDS - 1))  # the largest fold is left out


def study(
    comparisons: Sequence[Comparison],
    pairs: LabelledPairs,
    *,
    force_error: float,
    confidence: float = 0.9,
    threshold: float | None = None,
    per_species: bool = False,
) -> Study:
    """Calibrate and assess.

    Args:
        comparisons: one per structure, at least `structures_needed`; the model knows none of them.
        pairs: the same, joined.
        force_error: tolerance, eV/Å.
        confidence: share of the environments that the bound shall hold for.
        threshold: judge this one; None: the one that the tolerance asks for.
        per_species: also by element.

    Raises:
        UncertaintyError: a number is out of range, or no u is finite.
    """
    finite = np.isfinite(pairs.u)
    if not finite.any():
        raise UncertaintyError(
            f"none of the {len(pairs.u)} atoms has a finite u: the distribution knows none of their species "
            f"({', '.join(np.unique(pairs.species))}); name another --uncertainty"
        )
    calibration = _fit(comparisons, confidence)
    asked = calibration.threshold(force_error)
    limit = asked if threshold is None else threshold
    # Neighbors in a file may be frames of one trajectory: a fold takes every n-th structure.
    folds = min(len(comparisons), FOLDS)
    fold = np.arange(len(comparisons)) % folds
    bound = np.empty(len(pairs.u))
    for number in range(folds):
        others = _fit([c for c, part in zip(comparisons, fold, strict=True) if part != number], confidence)
        here = fold[pairs.cell] == number
        bound[here] = others.bound(pairs.u[here])

    bounded = np.isfinite(bound)

    def hold(mask: BoolArray, with_bound: bool) -> Assessment:
        return assess(
            pairs.u[mask],
            pairs.error[mask],
            threshold=limit,
            force_error=force_error,
            weight=pairs.weight[mask],
            bound=bound[mask] if with_bound else None,
            cell=pairs.cell[mask],
        )

    def judged(mask: BoolArray) -> Assessment:
        found = hold(mask, with_bound=False)
        inside = mask & bounded
        return replace(found, coverage=hold(inside, with_bound=True).coverage) if inside.any() else found

    known = (pairs.u[finite], pairs.error[finite], pairs.cell[finite])
    names: list[str] = np.unique(pairs.species).tolist() if per_species else []
    return Study(
        calibration=calibration,
        asked=asked,
        threshold=limit,
        assessment=judged(np.ones(len(pairs.u), dtype=bool)),
        n_unbounded=int((~bounded).sum()),
        curve=calibration_curve(*known, confidences=CONFIDENCES),
        folds=folds,
        per_species={name: judged(pairs.species == name) for name in names},
    )


def _fit(comparisons: Sequence[Comparison], confidence: float) -> Calibration:
    """A calibration on a labelled set, which is its own population and does not age."""
    calibration = Calibration(confidence, run_cells=0, half_life=math.inf)
    for number, c in enumerate(comparisons):
        calibration.add(str(number), "validation", c.u, c.error, c.energy_error, c.stress_error)
    return calibration
