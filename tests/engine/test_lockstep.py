"""Trajectories that move together: batches of forces, one order, one update for all."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from ideal.config import MolecularDynamicsConfig
from ideal.engine.engine import Engine
from ideal.engine.lockstep import Lockstep, SharedPotential
from ideal.errors import TrainingError
from ideal.models.base import Evaluation
from ideal.models.calculator import IdealCalculator
from ideal.samplers import MolecularDynamics

from .runs import copper_config, in_child, named, outcome, trajectory
from .test_resume import kill_at


class EMTPotential:
    """EMT as a potential that notes how many structures it was given at a time; one of `broken` atoms is refused."""

    elements = ("Cu",)
    cutoff = 5.0
    revision = 0

    def __init__(self, broken: int = 0) -> None:
        self.broken = broken
        self.batches: list[int] = []

    def evaluate(self, atoms: Atoms) -> Evaluation:
        if len(atoms) == self.broken:
            raise TrainingError(f"refused {self.broken} atoms")
        copy = atoms.copy()
        copy.calc = EMT()
        forces = copy.get_forces()
        return Evaluation(copy.get_potential_energy(), forces, copy.get_stress(), copy.get_potential_energies())

    def evaluate_batch(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        self.batches.append(len(structures))
        return [self.evaluate(atoms) for atoms in structures]

    def save(self, directory: str | Path) -> None:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return ""


def samplers(potential: EMTPotential, sizes: Sequence[int], largest: int = 200) -> list[MolecularDynamics]:
    shared = SharedPotential(potential, largest)
    config = MolecularDynamicsConfig(temperature=500.0, timestep=2.0, steps=100)
    return [
        MolecularDynamics(bulk("Cu", cubic=True).repeat((size, 1, 1)), IdealCalculator(shared), config, seed)
        for seed, size in enumerate(sizes)
    ]


def test_steps_side_by_side_are_the_steps_of_each_alone() -> None:
    potential, alone = EMTPotential(), EMTPotential()
    together, single = samplers(potential, [1, 2, 1]), samplers(alone, [1, 2, 1])
    lockstep = Lockstep(potential)
    for _ in range(3):
        assert lockstep.run([lambda s=sampler: s.advance(1) for sampler in together]) == [None] * 3
    lockstep.close()
    for sampler in single:
        sampler.advance(3)
    for one, other in zip(together, single, strict=True):
        assert np.array_equal(one.atoms.positions, other.atoms.positions) and one.step == 3
    assert potential.batches == [3, 3, 3, 3], "forces of the start, then one batch a step"
    assert alone.batches == []


def test_large_structures_are_evaluated_alone_and_one_step_too() -> None:
    potential = EMTPotential()
    together = samplers(potential, [1, 3, 1], largest=8)
    lockstep = Lockstep(potential)
    assert lockstep.run([lambda s=sampler: s.advance(1) for sampler in together]) == [None] * 3
    assert potential.batches == [2, 2]
    assert lockstep.run([lambda: together[0].advance(1)]) == [None]
    assert potential.batches == [2, 2], "one alone is no batch"
    lockstep.close()


def test_a_structure_that_is_refused_fails_alone() -> None:
    potential = EMTPotential(broken=8)
    together = samplers(potential, [1, 2, 1])
    lockstep = Lockstep(potential)
    errors = lockstep.run([lambda s=sampler: s.advance(1) for sampler in together])
    assert [type(error) for error in errors] == [type(None), TrainingError, type(None)]
    assert [sampler.step for sampler in together] == [1, 0, 1]
    lockstep.close()


def test_threads_end_although_the_evaluation_fails() -> None:
    potential = EMTPotential()

    def broken(structures: Sequence[Atoms]) -> list[Evaluation]:
        raise MemoryError

    potential.evaluate_batch = broken  # type: ignore[method-assign]
    together = samplers(potential, [1, 1])
    lockstep = Lockstep(potential)
    with pytest.raises(MemoryError):
        lockstep.run([lambda s=sampler: s.advance(1) for sampler in together])
    lockstep.close()


def test_killed_lockstep_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    config = copper_config(
        tmp_path,
        trajectories=[trajectory("a", copies=2, sampler={"steps": 8}), trajectory("b", sampler={"steps": 4})],
        uncertainty__threshold={"type": "fixed", "value": 3.0},
        engine__mode="lockstep",
        engine__batch_atoms=200,
    )
    summary = Engine.create(config, tmp_path / "whole").run()
    assert summary.status == "finished" and summary.steps == 8 + 8 + 4
    together = [event for event in named(tmp_path / "whole", "updated") if event["others"]]
    assert together, "trajectories that ask at the same time learn in one update"
    checks = [(event["step"], event["trajectory"]) for event in named(tmp_path / "whole", "check")]
    assert checks[:6] == [(step, name) for step in (0, 4) for name in ("a-1", "a-2", "b")]
    path = tmp_path / "killed"
    assert in_child(lambda: Engine.create(config, path, kill_at("label_finished", 6)).run()) == -signal.SIGKILL
    Engine.resume(path).run()
    assert outcome(path) == outcome(tmp_path / "whole")
