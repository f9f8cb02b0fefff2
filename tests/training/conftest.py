"""Cheap labels and small models for the tests of training."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from ideal.config import ModelConfig, OnlineConfig, PretrainConfig, TrainingConfig
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import Label, structure_key

MODEL = ModelConfig(n_blocks=1, units=16, max_n=2, max_l=2, device="cpu")
TRAINING = TrainingConfig(
    pretrain=PretrainConfig(epochs=20, learning_rate=1e-2, batch_size=2),
    online=OnlineConfig(epochs=3, learning_rate=1e-3, batch_size=2, replay=3, rescore=4),
)


def emt_label(seed: int, rattle: float = 0.15, strain: float = 0.03, repeat: int = 1) -> Label:
    """A rattled, strained aluminum or copper-aluminum cell with EMT energy, forces, stress."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Al", "fcc", a=4.0, cubic=True)
    if seed % 2:
        atoms.symbols[int(rng.integers(4))] = "Cu"
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-strain, strain, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, rattle, (4, 3))
    return labelled(atoms.repeat((repeat, 1, 1)))


def labelled(atoms: object) -> Label:
    """EMT's answer for a structure."""
    work = atoms.copy()  # type: ignore[attr-defined]
    work.calc = EMT()
    stress = work.get_stress() if work.pbc.any() else None
    clean = work.copy()
    return Label(
        structure_key(clean, {"code": "emt"}), clean, work.get_potential_energy(), work.get_forces(), stress, "emt"
    )


def cluster_label() -> Label:
    """A cluster without a cell: no stress."""
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.pbc = False
    atoms.cell = None
    atoms.rattle(0.05, seed=1)
    return labelled(atoms)


@pytest.fixture(scope="session")
def labels() -> list[Label]:
    return [emt_label(seed) for seed in range(14)]


@pytest.fixture
def potential() -> M3GNetPotential:
    return M3GNetPotential.new(MODEL, ["Al", "Cu"], seed=0)
