"""The energy surface E - tau u as an ASE calculator, around the calculator of E.

    E_bias = E - tau u         F_bias = F + tau s dU/dr         stress_bias = stress - tau dU/dstrain / V

with U the uncertainty of the structure and s_i factors of the elements (van der Oord et al. 2023,
10.1038/s41524-023-01104-6, eqs. 1 and 11; Zaverkin et al. 2024, 10.1038/s41524-024-01254-1, eqs. 5 to 7). With s_i = 1
and no limit at work the forces and the stress are the exact derivatives of E_bias.

Where s_i differ the bias forces are no gradient, and their sum would push the whole: what accelerates the center of
mass is taken out of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes

from ideal.errors import SamplerError, UncertaintyError
from ideal.models.calculator import is_same_structure
from ideal.records import FloatArray
from ideal.uncertainty.base import TotalUncertainty


class BiasedSurface(Calculator):
    """A calculator of biased energy, forces and stress; with ``tau`` 0 those of the surface below, to the bit.

    Args:
        physical: calculator of the surface below.
        uncertainty: of the structure.
        factors: on the bias forces, by element; 1 for the others.
        max_force: largest bias force on an atom, eV/Å; tau is smaller where it would be larger.

    Raises:
        SamplerError: on evaluation: an atom's uncertainty is infinite, or cannot be taken.

    Example:
        >>> surface = BiasedSurface(model_calculator, PowerMean(uncertainty))
        >>> surface.set_strength(tau=0.5)
        >>> atoms.calc = surface
        >>> atoms.get_potential_energy()
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(
        self,
        physical: BaseCalculator,
        uncertainty: TotalUncertainty,
        factors: Mapping[str, float] | None = None,
        max_force: float = np.inf,
    ) -> None:
        super().__init__()
        self._uncertainty = uncertainty
        self._factors = dict(factors or {})
        self._max_force = max_force
        self._raw: tuple[float, FloatArray, FloatArray] | None = None
        self._tau = 0.0
        self._stress_tau: float | None = None
        self.set_physical(physical)

    @property
    def physical(self) -> BaseCalculator:
        """The calculator of the surface below."""
        return self._physical

    def set_physical(self, calculator: BaseCalculator) -> None:
        """Take another surface below; the uncertainty is evaluated anew too."""
        self._physical = calculator
        given = getattr(calculator, "implemented_properties", self.implemented_properties)
        self.implemented_properties = [name for name in type(self).implemented_properties if name in given]
        self._raw = None
        self.reset()

    @property
    def tau(self) -> float:
        """Strength, eV per unit of the uncertainty."""
        return self._tau

    @property
    def stress_tau(self) -> float | None:
        """Strength of the bias stress; None: as ``tau``."""
        return self._stress_tau

    def set_strength(self, tau: float, stress_tau: float | None = None) -> None:
        """Change the strength; nothing is evaluated again."""
        if (tau, stress_tau) != (self._tau, self._stress_tau):
            self._tau, self._stress_tau = tau, stress_tau
            self.results = {}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What differs from the structure last evaluated."""
        return [] if is_same_structure(self.atoms, atoms) else super().check_state(atoms, tol=tol)

    def gradient(self, atoms: Atoms) -> tuple[float, FloatArray, FloatArray]:
        """u, du/d(positions) (n_atoms, 3) and du/d(strain) (3, 3) of ``atoms``."""
        if self._raw is None or self.check_state(atoms):
            self.reset()
            self.atoms = atoms.copy()
            try:
                self._raw = self._uncertainty.total_gradient(atoms)
            except UncertaintyError as error:
                raise SamplerError(f"the bias has no gradient here: {error}") from error
        return self._raw

    def strength_at(self, atoms: Atoms) -> float:
        """tau as it is used for ``atoms``: smaller where a bias force would exceed its limit."""
        if self._tau == 0:
            return 0.0
        largest = float(np.linalg.norm(self._driven(atoms, self.gradient(atoms)[1]), axis=1).max(initial=0.0))
        return min(self._tau, self._max_force / largest) if largest > 0 else self._tau

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate ``atoms`` (ASE calls this)."""
        if system_changes:
            self._raw = None
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        wanted = {"energy", "forces", *properties} - {"free_energy"}
        results: dict[str, Any] = {name: self._physical.get_property(name, self.atoms) for name in sorted(wanted)}
        if self._tau != 0 or self._stress_tau:
            self._add_bias(self.atoms, results)
        self.results |= results | {"free_energy": results["energy"]}

    def _add_bias(self, atoms: Atoms, results: dict[str, Any]) -> None:
        u, gradient, strain = self.gradient(atoms)
        tau = self.strength_at(atoms)
        results["energy"] = results["energy"] - tau * u
        results["forces"] = results["forces"] + tau * self._driven(atoms, gradient)
        if "stress" in results:
            of_stress = tau if self._stress_tau is None else self._stress_tau
            results["stress"] = results["stress"] - of_stress * voigt(strain) / atoms.get_volume()

    def _driven(self, atoms: Atoms, gradient: FloatArray) -> FloatArray:
        """The gradient with the elements' factors, without what pushes the whole."""
        if not self._factors:
            return gradient
        factors = np.array([self._factors.get(symbol, 1.0) for symbol in atoms.symbols])
        if (factors == 1).all():
            return gradient
        driven = gradient * factors[:, None]
        shares = atoms.get_masses() * factors
        if atoms.constraints or not shares.any():
            return driven
        return driven - shares[:, None] / shares.sum() * driven.sum(axis=0)


def voigt(tensor: FloatArray) -> FloatArray:
    """(3, 3) symmetric as (6,): xx, yy, zz, yz, xz, xy."""
    return tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
