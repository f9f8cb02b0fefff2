"""A run whose model has a hole: beyond what it has seen, atoms attract each other the more the closer they come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from ideal.config import Config
from ideal.embedding.distances import periodic_pairs
from ideal.engine.learner import Learner

from .runs import copper_config, trajectory

EDGE = 2.25
"""Distance (Å) where the hole begins; the initial data hold none as short."""


class HoleMorse(Calculator):
    """A Morse potential of copper whose inner wall is missing.

    Args:
        open: whether it is; otherwise the plain Morse potential.
        pull: force (eV/Å) between two atoms in the hole.
    """

    implemented_properties = ("energy", "forces")

    def __init__(self, open: bool, pull: float = 20.0) -> None:
        super().__init__()
        self.open, self.pull = open, pull

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        pairs = periodic_pairs(self.atoms.positions, self.atoms.cell.array, self.atoms.pbc, 4.5)
        decay = np.exp(-1.36 * (pairs.distances - 2.75))
        slope = 2 * 0.35 * 1.36 * (decay - decay**2)
        if self.open:
            slope[pairs.distances < EDGE] = self.pull
        forces = np.zeros_like(self.atoms.positions)
        np.add.at(forces, pairs.first, (slope / pairs.distances)[:, None] * pairs.vectors)
        self.results = {"energy": 0.0, "forces": forces}


def open_hole(monkeypatch: pytest.MonkeyPatch, heals: bool, pull: float = 20.0) -> None:
    """Let trajectories move on the potential with the hole.

    Args:
        monkeypatch: of the test.
        heals: the hole is closed as soon as the run has learned a cell with two atoms as close as in the hole.
        pull: force (eV/Å) between two atoms in the hole.
    """

    def calculator(learner: Learner) -> Any:
        return HoleMorse(not (heals and learner.min_distances[29, 29] < EDGE - 0.02), pull)

    monkeypatch.setattr(Learner, "calculator", calculator)


def falling_config(folder: Path, mode: str = "serial", **changes: Any) -> Config:
    """Two trajectories, one so hot that two atoms soon fall into the hole, between two checks."""
    return copper_config(
        folder,
        **{
            "trajectories": [
                trajectory("hot", check_every=10, max_force=1e4, max_temperature=1e6, sampler={"steps": 30}),
                trajectory("cold", check_every=10, sampler={"temperature": 20.0, "steps": 10}),
            ],
            "uncertainty__threshold": {"type": "fixed", "value": 6.0},
            "selection": {"min_steps_between": 4, "audit": 0.0, "fill": 0.3, "max_per_frame": 3, "min_distance": 4.0},
            "labelling__gate": {"max_net_force": 1.0, "max_force": 1e4},
            "engine__mode": mode,
            **changes,
        },
    )


def steep_config(
    folder: Path, mode: str = "serial", rule: str = "max_force", limit: float = 6.0, **changes: Any
) -> Config:
    """The hot one asks when two atoms are close to a contact, where the forces of the reference are large.

    Args:
        folder: of the structure.
        mode: of the engine.
        rule: of the gate, which refuses labels for their force.
        limit: eV/Å.
        changes: as for `copper_config`.
    """
    gate = {"max_net_force": 1.0, "max_force": 1e4, rule: limit}
    hot = trajectory("hot", check_every=7, max_force=1e4, max_temperature=1e6, sampler={"steps": 14})
    cold = trajectory("cold", check_every=7, sampler={"temperature": 20.0, "steps": 7})
    return falling_config(folder, mode, **{"trajectories": [hot, cold], "labelling__gate": gate, **changes})
