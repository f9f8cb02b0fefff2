"""Load a state (npz without pickle), take steps, save the end. Arguments: configuration (JSON), in, out, steps."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pair_potential import PairPotential, argon

from ideal.config import MolecularDynamicsConfig
from ideal.samplers import MolecularDynamics

config = MolecularDynamicsConfig.model_validate_json(sys.argv[1])
state = dict(np.load(Path(sys.argv[2]), allow_pickle=False))
dynamics = MolecularDynamics(argon(), PairPotential(), config, seed=99)
dynamics.restore(state)
dynamics.advance(int(sys.argv[4]))
np.savez(
    Path(sys.argv[3]),
    positions=dynamics.atoms.positions,
    momenta=dynamics.atoms.get_momenta(),
    cell=dynamics.atoms.cell.array,
)
