"""One calculator for several configurations, each of which keeps its own results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes

from ideal.models.calculator import is_same_structure


class OwnResults(Calculator):
    """Asks another calculator for energy and forces, and remembers them for its own configuration.

    Args:
        shared: evaluates; it may be asked for other configurations in between.

    Example:
        >>> for image in images:
        ...     image.calc = OwnResults(calculator)
        >>> energies = [image.get_potential_energy() for image in images]  # each image is evaluated once
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]  # type: ignore[misc]

    def __init__(self, shared: BaseCalculator) -> None:
        super().__init__()
        self._shared = shared

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What differs from the structure last evaluated."""
        return [] if is_same_structure(self.atoms, atoms) else super().check_state(atoms, tol=tol)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate ``atoms`` (ASE calls this)."""
        super().calculate(atoms, list(properties), list(system_changes))
        energy = float(self._shared.get_property("energy", self.atoms))
        forces = self._shared.get_property("forces", self.atoms)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
