"""An argon-like crystal whose forces and stress are known in closed form and depend on the atoms alone."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes

EPSILON, SIGMA, CUTOFF = 0.0104, 3.4, 5.2


class PairPotential(Calculator):
    """Lennard-Jones times (1 - (r/rc)^2)^3 inside the cutoff; all pairs, nearest images, orthogonal cells."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.evaluations = 0

    def calculate(self, atoms: Atoms, properties: list[str], system_changes: list[str] = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.evaluations += 1
        n = len(atoms)
        first, second = np.triu_indices(n, k=1)
        vectors = atoms.positions[second] - atoms.positions[first]
        edges = np.diag(atoms.cell.array)  # orthogonal cells only
        for axis in np.flatnonzero(atoms.pbc):
            vectors[:, axis] -= edges[axis] * np.rint(vectors[:, axis] / edges[axis])
        r = np.linalg.norm(vectors, axis=1)
        inside = r < CUTOFF
        first, second, vectors, r = first[inside], second[inside], vectors[inside], r[inside]
        x6 = (SIGMA / r) ** 6
        pair, slope = 4 * self.epsilon * (x6**2 - x6), 4 * self.epsilon * (-12 * x6**2 + 6 * x6) / r
        q = 1 - (r / CUTOFF) ** 2
        slope = slope * q**3 - pair * 6 * q**2 * r / CUTOFF**2
        pull = (slope / r)[:, None] * vectors
        forces = np.zeros((n, 3))
        np.add.at(forces, first, pull)
        np.add.at(forces, second, -pull)
        energy = float(np.sum(pair * q**3))
        self.results: dict[str, Any] = {"energy": energy, "free_energy": energy, "forces": forces}
        if atoms.pbc.all():
            tensor = vectors.T @ pull / atoms.get_volume()
            self.results["stress"] = tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def argon() -> Atoms:
    """32 atoms, slightly off their sites."""
    atoms = bulk("Ar", cubic=True, a=5.3).repeat(2)
    atoms.rattle(0.05, seed=3)
    return atoms
