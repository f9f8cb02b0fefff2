"""Potentials whose ensembles are known in closed form."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes


class KnownPotential(Calculator):
    """Base: subclasses give energy, forces (n, 3) and dE/dV of isotropic scaling."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def calculate(self, atoms: Atoms, properties: list[str], system_changes: list[str] = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        energy, forces, slope = self.surface(atoms)
        self.results: dict[str, Any] = {"energy": energy, "free_energy": energy, "forces": forces}
        if atoms.cell.rank == 3:
            self.results["stress"] = np.array([slope] * 3 + [0.0] * 3)

    def surface(self, atoms: Atoms) -> tuple[float, np.ndarray, float]:
        raise NotImplementedError


class IdealGas(KnownPotential):
    """No energy at all: p(V) ~ V^N exp(-PV/kT), a gamma distribution."""

    def surface(self, atoms: Atoms) -> tuple[float, np.ndarray, float]:
        return 0.0, np.zeros((len(atoms), 3)), 0.0


class HarmonicVolume(KnownPotential):
    """E = stiffness (V - V0)^2 / 2 and nothing else: p(V) ~ V^N exp(-(E + PV)/kT)."""

    def __init__(self, stiffness: float, volume: float) -> None:
        super().__init__()
        self.stiffness, self.volume = stiffness, volume

    def surface(self, atoms: Atoms) -> tuple[float, np.ndarray, float]:
        change = atoms.get_volume() - self.volume
        return 0.5 * self.stiffness * change**2, np.zeros((len(atoms), 3)), self.stiffness * change


class EinsteinCrystal(KnownPotential):
    """Every atom on a spring at its own site: 3N independent Gaussians of variance kT / stiffness."""

    def __init__(self, sites: np.ndarray, stiffness: float) -> None:
        super().__init__()
        self.sites, self.stiffness = sites, stiffness

    def surface(self, atoms: Atoms) -> tuple[float, np.ndarray, float]:
        away = atoms.positions - self.sites
        return 0.5 * self.stiffness * float((away**2).sum()), -self.stiffness * away, 0.0


class SiteEnergies(KnownPotential):
    """Atoms of one element pay for the site that they occupy: a lattice gas with known weights."""

    def __init__(self, sites: np.ndarray, costs: np.ndarray, number: int) -> None:
        super().__init__()
        self.sites, self.costs, self.number = sites, costs, number

    def occupied(self, atoms: Atoms) -> np.ndarray:
        """Sites of the atoms that pay."""
        chosen = atoms.positions[atoms.numbers == self.number]
        distances = np.linalg.norm(chosen[:, None] - self.sites[None], axis=2)
        return np.sort(distances.argmin(axis=1))

    def surface(self, atoms: Atoms) -> tuple[float, np.ndarray, float]:
        return float(self.costs[self.occupied(atoms)].sum()), np.zeros((len(atoms), 3)), 0.0


class SpringUncertainty:
    """U = strength sum |r - site|^2, a `TotalUncertainty`: on an Einstein crystal E - tau U is softer springs."""

    def __init__(self, sites: np.ndarray, strength: float) -> None:
        self.sites, self.strength = sites, strength
        self.counts: dict[str, int] = {}

    def total(self, atoms: Atoms) -> float:
        return self.strength * float(((atoms.positions - self.sites) ** 2).sum())

    def total_gradient(self, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
        away = atoms.positions - self.sites
        return self.total(atoms), 2 * self.strength * away, np.zeros((3, 3))
