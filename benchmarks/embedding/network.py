"""A small M3GNet fitted to the cells of one arm alone, from random weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from references import Labelled

EPOCHS = 60
RATE = 3e-3


class Network:
    """M3GNet (2 blocks, 32 units) trained from scratch.

    Args:
        species: chemical symbols.
        labels: what it learns.
        seed: of weights and shuffling.
    """

    def __init__(self, species: Sequence[str], labels: Sequence[Labelled], seed: int) -> None:
        from ideal.config import ModelConfig, TrainingConfig
        from ideal.models.m3gnet import M3GNetPotential
        from ideal.records import Label, structure_key
        from ideal.training.trainer import Trainer

        self.potential = M3GNetPotential.new(ModelConfig(device="cpu"), list(species), seed)
        config = TrainingConfig.model_validate({"pretrain": {"epochs": EPOCHS, "learning_rate": RATE}})
        records = [
            Label(structure_key(x.atoms, {}), Atoms(x.atoms), x.energy, x.forces, x.stress, "lammps") for x in labels
        ]
        Trainer(self.potential, config, seed).pretrain(records)

    def predict(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        """Energy (eV) and forces (n, 3), eV/Å."""
        result = self.potential.evaluate(atoms)
        return result.energy, np.asarray(result.forces)
