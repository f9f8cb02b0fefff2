"""The model against the held-out file: what the parity plots before and after show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.units import GPa

from ideal.models.base import Potential
from ideal.records import Label


def evaluate_held_out(potential: Potential, labels: Sequence[Label]) -> dict[str, Any]:
    """Reference and predicted values of labelled structures, and the mean absolute errors.

    Args:
        potential: the model.
        labels: structures that it never learned from; at least one.

    Returns:
        ``reference`` and ``predicted``, each with ``energies_per_atom`` (eV), ``forces`` (eV/Å, one (n, 3) list per
        structure) and ``stresses`` (eV/Å³, Voigt, null where there is none); ``mae`` with ``energy_mae`` (eV/atom),
        ``force_mae`` (eV/Å, per component) and ``stress_mae`` (GPa, null without reference stresses).

    Raises:
        TrainingError: a structure holds an element that the model does not know.

    Example:
        >>> evaluate_held_out(potential, labels)["mae"]["force_mae"]
        0.021
    """
    evaluations = potential.evaluate_batch([label.atoms for label in labels])
    energy_errors, force_errors, stress_errors = [], [], []
    sides: dict[str, dict[str, list[Any]]] = {
        side: {"energies_per_atom": [], "forces": [], "stresses": []} for side in ("reference", "predicted")
    }
    for label, evaluation in zip(labels, evaluations, strict=True):
        n_atoms = len(label.atoms)
        reference, predicted = label.energy / n_atoms, evaluation.energy / n_atoms
        known = label.stress is not None and evaluation.stress is not None
        for side, energy, forces, stress in (
            ("reference", reference, label.forces, label.stress),
            ("predicted", predicted, evaluation.forces, evaluation.stress),
        ):
            sides[side]["energies_per_atom"].append(float(energy))
            sides[side]["forces"].append(np.asarray(forces).tolist())
            sides[side]["stresses"].append(np.asarray(stress).tolist() if known else None)
        energy_errors.append(abs(predicted - reference))
        force_errors.append(np.abs(np.asarray(evaluation.forces) - label.forces).ravel())
        if label.stress is not None and evaluation.stress is not None:
            stress_errors.append(np.abs(np.asarray(evaluation.stress) - label.stress) / GPa)
    mae = {
        "energy_mae": float(np.mean(energy_errors)),
        "force_mae": float(np.concatenate(force_errors).mean()),
        "stress_mae": float(np.concatenate(stress_errors).mean()) if stress_errors else None,
    }
    return {"n_structures": len(labels), "mae": mae, **sides}
