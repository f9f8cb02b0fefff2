"""Two atoms whose distance has a double well in closed form, and the free energy of that distance."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes

MIDDLE, HALF = 3.0, 0.5


class DoubleWell(Calculator):
    """E(d) = barrier ((d - 3 Å)^2 / 0.25 Å^2 - 1)^2 + tilt (d - 3 Å) for the distance d of the first two atoms."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]

    def __init__(self, barrier: float = 0.15, tilt: float = 0.0) -> None:
        super().__init__()
        self.barrier, self.tilt = barrier, tilt

    def profile(self, distance: np.ndarray) -> np.ndarray:
        """Energy in eV at distances in Å."""
        x = (distance - MIDDLE) / HALF
        return self.barrier * (x**2 - 1) ** 2 + self.tilt * (distance - MIDDLE)

    def density(self, distance: np.ndarray, temperature: float) -> np.ndarray:
        """Canonical density of the distance, not normalized: d^2 exp(-E / kT)."""
        return distance**2 * np.exp(-self.profile(distance) / (units.kB * temperature))

    def calculate(self, atoms: Atoms, properties: list[str], system_changes: list[str] = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        vector = atoms.positions[1] - atoms.positions[0]
        distance = float(np.linalg.norm(vector))
        x = (distance - MIDDLE) / HALF
        slope = self.barrier * 4 * x * (x**2 - 1) / HALF + self.tilt
        forces = np.zeros((len(atoms), 3))
        forces[0], forces[1] = slope * vector / distance, -slope * vector / distance
        energy = float(self.profile(np.array(distance)))
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


def pair(distance: float = MIDDLE - HALF) -> Atoms:
    """Two argon atoms, by default in the left well."""
    return Atoms("Ar2", positions=[[0, 0, 0], [distance, 0, 0]])
