"""Small structures and models that the tests of uncertainties share, and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import bulk

from ideal.config import ModelConfig
from ideal.models.m3gnet import M3GNetPotential

ELEMENTS = ["Na", "Cl", "O"]
"""Salt, and an element that the models know and no training structure holds."""

SIZE = ModelConfig(n_blocks=1, units=8, max_n=2, max_l=2, cutoff=4.0, threebody_cutoff=3.5, device="cpu")


def potential(seed: int = 0, elements: list[str] = ELEMENTS) -> M3GNetPotential:
    """An untrained model in float64, with forces of order one."""
    model = M3GNetPotential.new(SIZE, elements, seed).double()
    model.set_normalization({"Na": -1.0, "Cl": -2.0}, energy_scale=600.0)
    return model


def rattled(atoms: Atoms, amplitude: float, seed: int) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(amplitude, seed=seed)
    return atoms


def salt(seed: int = 0, amplitude: float = 0.15) -> Atoms:
    """Eight atoms in a periodic, sheared cell."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * np.tri(3)), scale_atoms=True)
    return rattled(atoms, amplitude, seed)


def slab(seed: int = 0) -> Atoms:
    """Two periodic axes; the open one's cell vector is zero."""
    atoms = salt(seed)
    atoms.pbc = (True, True, False)
    atoms.cell[2] = 0
    return atoms


def cluster(seed: int = 0) -> Atoms:
    """The same atoms without a cell."""
    atoms = salt(seed)
    return Atoms(atoms.symbols, positions=atoms.positions)


STRUCTURES = {"periodic": salt, "slab": slab, "open": cluster}


def training_set(n: int = 6) -> list[Atoms]:
    return [salt(seed) for seed in range(100, 100 + n)]


def check_gradient(
    value: Callable[[Atoms], float], atoms: Atoms, gradient: np.ndarray, strain: np.ndarray, tolerance: float = 1e-6
) -> None:
    """Five-point finite differences along random displacements and strains; no net gradient; symmetric strain."""
    rng = np.random.default_rng(1)
    assert gradient.shape == (len(atoms), 3)
    assert strain.shape == (3, 3)
    assert abs(gradient).max() > 0
    np.testing.assert_allclose(gradient.sum(axis=0), 0, atol=1e-9 * np.abs(gradient).max())
    np.testing.assert_allclose(strain, strain.T, rtol=0, atol=1e-12 * np.abs(strain).max())
    for _ in range(2):
        direction = rng.normal(size=gradient.shape)
        numeric = _slope(value, lambda step, d=direction: _moved(atoms, step * d), 1e-4)
        error = abs(numeric - float((gradient * direction).sum()))
        assert error < tolerance * np.linalg.norm(gradient) * np.linalg.norm(direction)
        direction = rng.normal(size=(3, 3))
        direction += direction.T
        numeric = _slope(value, lambda step, d=direction: _strained(atoms, step * d), 1e-5)
        error = abs(numeric - float((strain * direction).sum()))
        assert error < tolerance * np.linalg.norm(strain) * np.linalg.norm(direction)


def _slope(value: Callable[[Atoms], float], displaced: Callable[[float], Atoms], step: float) -> float:
    outer = value(displaced(2 * step)) - value(displaced(-2 * step))
    inner = value(displaced(step)) - value(displaced(-step))
    return (8 * inner - outer) / (12 * step)


def _moved(atoms: Atoms, displacement: np.ndarray) -> Atoms:
    atoms = atoms.copy()
    atoms.positions += displacement
    return atoms


def _strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    atoms = atoms.copy()
    deformation = np.eye(3) + strain
    atoms.positions = atoms.positions @ deformation.T
    atoms.cell = atoms.cell.array @ deformation.T
    return atoms
