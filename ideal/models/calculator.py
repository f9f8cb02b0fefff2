"""The ASE calculator: energy, forces and stress of a potential, and the uncertainty of every atom.

Example:
    >>> from ideal import IdealCalculator
    >>> atoms.calc = IdealCalculator(model="run/model", uncertainty="run/uncertainty.safetensors")
    >>> atoms.get_potential_energy(), atoms.calc.results["max_uncertainty"]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from ideal.errors import ConfigError, TrainingError
from ideal.models.base import Potential

if TYPE_CHECKING:
    from ideal.config import DispersionConfig
    from ideal.labelling.codes.dispersion import Dispersion
    from ideal.uncertainty.base import AtomwiseUncertainty


class IdealCalculator(Calculator):
    """A potential as an ASE calculator.

    ``results`` holds energy, free_energy, energies, forces, stress (only with a cell and a periodic axis) and,
    when an uncertainty was given, uncertainty (n_atoms,) and max_uncertainty. A potential that learns in place is
    noticed: the next request computes anew.

    Args:
        model: a `Potential`, or what `load_potential` takes: a model folder or a matgl name.
        dispersion: dispersion added to the model's energy, forces and stress. Left out then: ``energies``, which it
            does not divide among the atoms, and the stress of a slab or wire, which it does not give.
        uncertainty: anything with ``atomic(atoms) -> (n_atoms,)``, or the path of a saved uncertainty of any kind.

    Raises:
        TrainingError: the model cannot be loaded; on evaluation: unknown element, coincident atoms, NaN positions.
        UncertaintyError: the uncertainty cannot be loaded.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012

    def __init__(
        self,
        model: str | Path | Potential,
        uncertainty: str | Path | AtomwiseUncertainty | None = None,
        dispersion: DispersionConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(model, str | Path):
            from ideal.models import load_potential

            model = load_potential(model)
        if isinstance(uncertainty, str | Path):
            from ideal.uncertainty.loading import load_uncertainty

            uncertainty = load_uncertainty(uncertainty)
        self.potential: Potential = model
        self.uncertainty: AtomwiseUncertainty | None = uncertainty
        self._dispersion = None if dispersion is None else _dispersion(dispersion)
        self._revision = model.revision
        if uncertainty is not None:
            self.implemented_properties = [*self.implemented_properties, "uncertainty", "max_uncertainty"]

    @property
    def has_dispersion(self) -> bool:
        """Whether dispersion is added to the model's energy."""
        return self._dispersion is not None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What differs from the structure last evaluated: everything, when the potential has changed since."""
        if self._revision != self.potential.revision:
            return list(all_changes)
        return [] if is_same_structure(self.atoms, atoms) else super().check_state(atoms, tol=tol)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate ``atoms`` (ASE calls this)."""
        super().calculate(atoms, list(properties), list(system_changes))
        self._revision = self.potential.revision
        structure: Atoms | None = self.atoms
        if structure is None:
            raise TrainingError("the calculator has no structure; set `atoms.calc` or pass `atoms`")
        evaluation = self.potential.evaluate(structure)
        results = {
            "energy": evaluation.energy,
            "free_energy": evaluation.energy,
            "energies": evaluation.energies,
            "forces": evaluation.forces,
        }
        if evaluation.stress is not None:
            results["stress"] = evaluation.stress
        if self._dispersion is not None:
            energy, forces, stress = self._dispersion.evaluate(structure)
            results["energy"] = results["free_energy"] = evaluation.energy + energy
            results["forces"] = evaluation.forces + forces
            del results["energies"]
            if evaluation.stress is not None and stress is None:
                del results["stress"]
            elif evaluation.stress is not None:
                results["stress"] = evaluation.stress + stress
        if self.uncertainty is not None:
            u = np.asarray(self.uncertainty.atomic(structure))
            results["uncertainty"] = u
            results["max_uncertainty"] = float(u.max())
        self.results = results


def is_same_structure(known: Atoms | None, atoms: Atoms) -> bool:
    """Whether positions, numbers, cell and periodicity are equal to the bit and neither has charges or moments.

    It spares ASE's comparison by tolerance, which takes a twentieth of a step of a small molecule's dynamics.
    """
    return (
        known is not None
        and np.array_equal(known.positions, atoms.positions)
        and np.array_equal(known.numbers, atoms.numbers)
        and np.array_equal(known.cell.array, atoms.cell.array)
        and np.array_equal(known.pbc, atoms.pbc)
        and not any(a.has(name) for a in (known, atoms) for name in ("initial_charges", "initial_magmoms"))
    )


def _dispersion(config: DispersionConfig) -> Dispersion:
    """The one implementation of dispersion, which corrects labels too."""
    from ideal.labelling.codes.dispersion import Dispersion

    if config.functional is None:
        raise ConfigError("dispersion: a model has no functional of its own; write `functional`, such as pbe")
    return Dispersion(config, config.functional.lower())
