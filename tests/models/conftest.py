"""Small potentials and structures shared by the tests of models."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from ideal.config import ModelConfig
from ideal.models.m3gnet import M3GNetPotential

TINY = ModelConfig(n_blocks=1, units=8, max_n=2, max_l=2, device="cpu")
ELEMENTS = ["H", "C", "O", "Al"]


def tiny_potential(seed: int = 3, **changes: object) -> M3GNetPotential:
    """An untrained potential with energies and forces of order one."""
    potential = M3GNetPotential.new(TINY.model_copy(update=changes), ELEMENTS, seed)
    potential.set_normalization({"H": -3.0, "C": -150.0, "O": -430.0, "Al": -60.0}, energy_scale=600.0)
    return potential


def crystal() -> Atoms:
    """Rattled, sheared, two elements, cell smaller than the cutoff."""
    atoms = bulk("Al", "fcc", a=4.0, cubic=True)
    atoms.symbols[1] = "O"
    atoms.set_cell(
        atoms.cell.array @ (np.eye(3) + np.array([[0, 0.1, 0], [0, 0.02, 0.05], [0.03, 0, -0.04]])), scale_atoms=True
    )
    atoms.rattle(0.15, seed=5)
    return atoms


def slab() -> Atoms:
    """Periodic along two axes, with vacuum."""
    atoms = fcc111("Al", (2, 2, 2), vacuum=6.0)
    atoms.rattle(0.1, seed=2)
    return atoms


def alcohol() -> Atoms:
    """A molecule without a cell."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    return atoms


STRUCTURES = {"crystal": crystal, "slab": slab, "molecule": alcohol}


@pytest.fixture(params=list(STRUCTURES))
def structure(request: pytest.FixtureRequest) -> Atoms:
    return STRUCTURES[request.param]()
