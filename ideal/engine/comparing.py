"""The model against labels that it has not learned: what calibration and audit are made of.

A comparison is taken when the answers of an ask are in and before anything of them is learned, and once for the
validation labels after pretraining. It is one line of ``pairs.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.units import GPa

from ideal.engine.events import plain
from ideal.models.base import Potential
from ideal.records import BoolArray, FloatArray, Label
from ideal.uncertainty.base import AtomwiseUncertainty
from ideal.uncertainty.calibration import Kind


@dataclass(frozen=True)
class Comparison:
    """One labelled cell under a model and a distribution that do not know it.

    Attributes:
        key: the label's key.
        kind: "validation", "selected" or "audit".
        trajectory: where the cell comes from; empty for validation labels.
        step: MD step.
        atom: index of the center in the frame; None for validation labels.
        u: (n_atoms,) uncertainty of the cell's atoms.
        error: (n_atoms,) norm of the force error vector, eV/Å.
        core: (n_atoms,) true for the atoms that are the frame's own.
        center: index of the center in the cell; None for validation labels.
        energy_error: predicted minus reference, eV/atom.
        stress_error: mean over the Voigt components of the absolute error, GPa; None without a reference stress.
        weight: environments that an audited atom stands for; None otherwise.
        threshold: u above which an atom counted as uncertain when the cell was asked for; None for validation labels.
    """

    key: str
    kind: Kind
    trajectory: str
    step: int
    atom: int | None
    u: FloatArray
    error: FloatArray
    core: BoolArray
    center: int | None
    energy_error: float
    stress_error: float | None
    weight: float | None
    threshold: float | None

    @property
    def center_error(self) -> float:
        """Force error of the atom that the cell was made for, eV/Å."""
        assert self.center is not None
        return float(self.error[self.center])

    def to_json(self) -> str:
        """One line of JSON without the line end; an infinite u is null there."""
        return json.dumps(plain({**vars(self), "purpose": self.kind}), ensure_ascii=False, allow_nan=False)


def compare(
    potential: Potential,
    uncertainty: AtomwiseUncertainty,
    labels: Sequence[Label],
    origins: Sequence[Mapping[str, Any]] | None = None,
) -> list[Comparison]:
    """Compare labels with the present model; one batched evaluation.

    Args:
        potential: the model; it has not learned the labels.
        uncertainty: the distribution; it has not learned them either.
        labels: reference calculations.
        origins: for each, what its request said: purpose, trajectory, step, atom, core (indices in the cell), center,
            threshold and, for audits, weight; None: validation labels.

    Raises:
        TrainingError, UncertaintyError: a label holds an element that the model or the distribution does not know.

    Example:
        >>> [comparison.error.max() for comparison in compare(potential, uncertainty, dataset.validation)]
        [0.031]
    """
    if not labels:
        return []
    evaluations = potential.evaluate_batch([label.atoms for label in labels])
    comparisons = []
    for label, evaluation, origin in zip(labels, evaluations, origins or [{}] * len(labels), strict=True):
        n_atoms = len(label.atoms)
        core = np.zeros(n_atoms, dtype=bool)
        core[origin.get("core", slice(None))] = True
        stress_error = None
        if label.stress is not None and evaluation.stress is not None:
            stress_error = float(np.abs(np.asarray(evaluation.stress) - label.stress).mean() / GPa)
        comparisons.append(
            Comparison(
                key=label.key,
                kind=origin.get("purpose", "validation"),
                trajectory=origin.get("trajectory", ""),
                step=origin.get("step", 0),
                atom=origin.get("atom"),
                u=uncertainty.atomic(label.atoms),
                error=np.linalg.norm(np.asarray(evaluation.forces) - label.forces, axis=1),
                core=core,
                center=origin.get("center"),
                energy_error=(evaluation.energy - label.energy) / n_atoms,
                stress_error=stress_error,
                weight=origin.get("weight"),
                threshold=origin.get("threshold"),
            )
        )
    return comparisons
