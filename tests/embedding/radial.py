"""A small uncertainty of known derivatives, and structures, for the embedding's tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from ideal.embedding.distances import Pairs, periodic_pairs
from ideal.records import FloatArray, IntArray


@dataclass(frozen=True)
class RadialDescriptor:
    """Stands where a SOAP would: only the species and the range are asked for."""

    species: tuple[str, ...]
    support: float


class RadialUncertainty:
    """Mahalanobis distance of smooth neighbor densities; gradients in closed form, no compiled code.

    Feature (s, k) of atom i is the sum over neighbors j of species s of exp(-(r_ij - r_k)² / 2 w²) (1 - r²/R²)³.
    """

    centers = np.array([1.5, 2.5, 3.5, 4.5])
    width = 0.6

    def __init__(self, species: Sequence[str], support: float = 5.0) -> None:
        self.soap = RadialDescriptor(tuple(species), support)
        self.numbers = [Atoms(s).numbers[0] for s in species]
        self.features_of: dict[int, list[FloatArray]] = {z: [] for z in self.numbers}
        self.evaluated_atoms = 0

    @property
    def counts(self) -> dict[str, int]:
        return {s: sum(map(len, self.features_of[z])) for s, z in zip(self.soap.species, self.numbers, strict=True)}

    def update(self, structures: Sequence[Atoms]) -> None:
        for atoms in structures:
            features = self._features(atoms)[0]
            for z in self.numbers:
                self.features_of[z].append(features[atoms.numbers == z])
        self.statistics = {}
        for z in self.numbers:
            f = np.concatenate(self.features_of[z])
            covariance = np.cov(f.T) if len(f) > 1 else np.eye(f.shape[1])
            ridge = 1e-4 * np.trace(covariance) + 1e-9
            self.statistics[z] = (f.mean(axis=0), np.linalg.inv(covariance + ridge * np.eye(f.shape[1])))

    def _features(self, atoms: Atoms) -> tuple[FloatArray, Pairs, FloatArray, IntArray]:
        R = self.soap.support
        pairs = periodic_pairs(atoms.positions, np.asarray(atoms.cell.complete()), atoms.pbc, R)
        r = pairs.distances[:, None]
        gauss = np.exp(-((r - self.centers) ** 2) / (2 * self.width**2))
        taper = (1 - r**2 / R**2) ** 3
        value = gauss * taper
        slope = -(r - self.centers) / self.width**2 * value + gauss * 3 * (1 - r**2 / R**2) ** 2 * (-2 * r) / R**2
        kind = np.searchsorted(np.sort(self.numbers), atoms.numbers[pairs.second])
        columns = kind[:, None] * len(self.centers) + np.arange(len(self.centers))
        features = np.zeros((len(atoms), len(self.numbers) * len(self.centers)))
        np.add.at(features, (pairs.first[:, None], columns), value)
        return features, pairs, slope, columns

    def hinge(
        self,
        atoms: Atoms,
        floor: float | FloatArray,
        mask: FloatArray | None = None,
        width: float | FloatArray = 0.0,
    ) -> tuple[float, FloatArray, FloatArray, FloatArray]:
        features, pairs, slope, columns = self._features(atoms)
        self.evaluated_atoms += len(atoms)
        squared, adjoint = np.zeros(len(atoms)), np.zeros_like(features)
        for i, z in enumerate(atoms.numbers):
            mean, precision = self.statistics[z]
            d = features[i] - mean
            squared[i] = d @ precision @ d / len(d)
            adjoint[i] = 2 * precision @ d / len(d)
        over = np.maximum(squared - floor, 0.0)
        weights = np.where(over > 0.0, 1.0 if mask is None else mask, 0.0)
        width = np.broadcast_to(width, over.shape)
        share = np.divide(over, width, where=over < width, out=np.ones_like(over))
        value = np.where(over < width, 0.5 * over * share, over - 0.5 * width)
        adjoint *= (weights * share)[:, None]
        by_r = (adjoint[pairs.first[:, None], columns] * slope).sum(axis=1)
        force = (by_r / pairs.distances)[:, None] * pairs.vectors
        gradient = np.zeros((len(atoms), 3))
        np.add.at(gradient, pairs.second, force)
        np.add.at(gradient, pairs.first, -force)
        return float(weights @ value), gradient, force.T @ pairs.vectors, np.sqrt(squared)

    def atomic(self, atoms: Atoms, centers: IntArray | None = None) -> FloatArray:
        u = self.hinge(atoms, 0.0)[3]
        return u if centers is None else u[centers]


def hot(atoms: Atoms, temperature: float, steps: int = 25, seed: int = 0) -> Atoms:
    """A few steps of Langevin dynamics with effective-medium theory."""
    atoms = atoms.copy()
    rng = np.random.default_rng(seed)
    atoms.set_constraint(FixCom())
    atoms.calc = EMT()
    thermalize_momenta(atoms, temperature_K=2 * temperature, rng=rng)
    dynamics = Langevin(atoms, 4 * units.fs, temperature_K=temperature, friction=0.05 / units.fs, rng=rng, fixcm=False)
    dynamics.run(steps)
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def rocksalt(seed: int, repeat: int, stdev: float = 0.06) -> Atoms:
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat(repeat)
    atoms.rattle(stdev, seed=seed)
    return atoms
