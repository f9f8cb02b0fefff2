"""A quick linear potential: the energy is linear in the sums of SOAP power spectra, one set of weights per element.

    E = sum_i [ e_s(i) + w_s(i) . (v_i - mean_s(i)) / scale_s(i) ],   F = -dE/dx by the descriptor's reverse mode

Ridge regression on energies and forces at once. It is fitted in seconds, has no random start, and so shows what the
training cells are worth and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from references import Labelled

from ideal import SoapPowerSpectrum

ENERGY_WEIGHT = 30.0
"""Weight of an energy per atom (eV) against a force component (eV/Å)."""


class LinearPotential:
    """Ridge regression on SOAP.

    Args:
        soap: the descriptor.
        ridge: penalty on the scaled weights, relative to the mean square of the columns.
    """

    def __init__(self, soap: SoapPowerSpectrum, ridge: float = 1e-7) -> None:
        self.soap, self.ridge = soap, ridge

    def fit(self, labels: Sequence[Labelled], mean: np.ndarray, scale: np.ndarray) -> None:
        """Fit to labels; the descriptors are centered and scaled by ``mean`` and ``scale`` (n_species, n_features)."""
        self.mean, self.scale = mean, scale
        blocks = [self._rows(label) for label in labels]
        gram = sum(a.T @ a for a, _ in blocks)
        right = sum(a.T @ y for a, y in blocks)
        penalty = self.ridge * np.trace(gram) / len(gram)
        self.weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), right)

    def _rows(self, label: Labelled) -> tuple[np.ndarray, np.ndarray]:
        atoms = label.atoms
        n_species, n_features = self.mean.shape
        n_columns = n_species * (n_features + 1)
        rows = np.zeros((1 + 3 * len(atoms), n_columns))
        for s, symbol in enumerate(self.soap.species):
            centers = np.flatnonzero(np.array(atoms.get_chemical_symbols()) == symbol)
            if not len(centers):
                continue
            first = s * (n_features + 1)
            spectra = (self.soap.create(atoms, centers) - self.mean[s]) / self.scale[s]
            rows[0, first] = len(centers)
            rows[0, first + 1 : first + 1 + n_features] = spectra.sum(axis=0)
            for k in range(n_features):
                adjoint = np.zeros((len(centers), n_features))
                adjoint[:, k] = 1.0 / self.scale[s, k]
                rows[1:, first + 1 + k] = -self.soap.pull_back(atoms, adjoint, centers)[0].ravel()
        target = np.concatenate([[label.energy], label.forces.ravel()])
        rows[0] *= ENERGY_WEIGHT / len(atoms)
        target[0] *= ENERGY_WEIGHT / len(atoms)
        return rows, target

    def predict(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        """Energy (eV) and forces (n, 3), eV/Å."""
        n_species, n_features = self.mean.shape
        weights = self.weights.reshape(n_species, n_features + 1)
        energy, forces = 0.0, np.zeros((len(atoms), 3))
        for s, symbol in enumerate(self.soap.species):
            centers = np.flatnonzero(np.array(atoms.get_chemical_symbols()) == symbol)
            if not len(centers):
                continue
            spectra = (self.soap.create(atoms, centers) - self.mean[s]) / self.scale[s]
            energy += float(len(centers) * weights[s, 0] + spectra.sum(axis=0) @ weights[s, 1:])
            adjoint = np.tile(weights[s, 1:] / self.scale[s], (len(centers), 1))
            forces -= self.soap.pull_back(atoms, adjoint, centers)[0]
        return energy, forces


def moments(soap: SoapPowerSpectrum, frames: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the descriptors per element, each (n_species, n_features)."""
    means, scales = [], []
    for symbol in soap.species:
        spectra = np.concatenate(
            [soap.create(a, np.flatnonzero(np.array(a.get_chemical_symbols()) == symbol)) for a in frames]
        )
        deviation = spectra.std(axis=0)
        means.append(spectra.mean(axis=0))
        scales.append(np.maximum(deviation, 1e-3 * deviation.max()))
    return np.array(means), np.array(scales)
