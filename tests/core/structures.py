"""Structures that the tests of the core share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, make_supercell, molecule


def rattled(atoms: Atoms, amplitude: float, seed: int) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(amplitude, seed=seed)
    return atoms


def lithium(seed: int = 0, repeat: int = 2, amplitude: float = 0.15) -> Atoms:
    return rattled(bulk("Li", cubic=True) * (repeat, repeat, repeat), amplitude, seed)


def salt(seed: int = 0, amplitude: float = 0.15) -> Atoms:
    return rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True), amplitude, seed)


def triclinic(seed: int = 0) -> Atoms:
    """A skewed cell of three elements, its atoms spread over and outside of it."""
    rng = np.random.default_rng(seed)
    cell = np.array([[4.2, 0.3, -0.4], [1.9, 4.5, 0.2], [-1.1, 1.6, 4.9]])
    grid = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)]) / 2
    fractions = grid + 0.05 * rng.normal(size=grid.shape) + rng.integers(-2, 3, size=grid.shape)
    return Atoms(["O", "Ti", "Sr", "O", "O", "Ti", "Sr", "O"], positions=fractions @ cell, cell=cell, pbc=True)


def slab(seed: int = 0) -> Atoms:
    """Two periodic axes; the open one's cell vector is zero."""
    atoms = fcc111("Al", (2, 2, 3))
    atoms.pbc = (True, True, False)
    atoms.cell[2] = 0
    return rattled(atoms, 0.1, seed)


def wire(seed: int = 0) -> Atoms:
    """One periodic axis, along a skewed direction."""
    atoms = Atoms("C3H2", positions=[[0, 0, 0], [1.2, 0.4, 0], [2.3, 0, 0.5], [0.2, 1.1, 0], [2.1, -1.0, 0.8]])
    atoms.set_cell([[0, 0, 0], [3.1, 0.4, 0.9], [0, 0, 0]])
    atoms.pbc = (False, True, False)
    return rattled(atoms, 0.05, seed)


def ethanol(seed: int = 0) -> Atoms:
    return rattled(molecule("CH3CH2OH"), 0.05, seed)


def primitive(seed: int = 0) -> Atoms:
    """One atom in a cell much smaller than the support."""
    return bulk("Li")


def oblique_supercell(atoms: Atoms) -> Atoms:
    return make_supercell(atoms, [[1, 1, 0], [-1, 1, 0], [0, 1, 2]])


ALL = {
    "lithium": lithium,
    "salt": salt,
    "triclinic": triclinic,
    "slab": slab,
    "wire": wire,
    "ethanol": ethanol,
    "primitive": primitive,
}


def check_gradient(
    value: Callable[[Atoms], float], atoms: Atoms, gradient: np.ndarray, strain: np.ndarray, tolerance: float
) -> None:
    """Five-point finite differences along random displacements and strains."""
    rng = np.random.default_rng(1)
    assert gradient.shape == (len(atoms), 3)
    np.testing.assert_allclose(gradient.sum(axis=0), 0, atol=1e-10 * np.abs(gradient).max())
    np.testing.assert_array_equal(strain, strain.T)
    for _ in range(3):
        direction = rng.normal(size=gradient.shape)
        analytic = float((gradient * direction).sum())
        numeric = _slope(value, lambda step, d=direction: _moved(atoms, step * d), 3e-4)
        assert abs(numeric - analytic) < tolerance * np.linalg.norm(gradient) * np.linalg.norm(direction)
    for _ in range(2):
        direction = rng.normal(size=(3, 3))
        direction += direction.T
        analytic = float((strain * direction).sum())
        numeric = _slope(value, lambda step, d=direction: _strained(atoms, step * d), 3e-5)
        assert abs(numeric - analytic) < tolerance * np.linalg.norm(strain) * np.linalg.norm(direction)


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
