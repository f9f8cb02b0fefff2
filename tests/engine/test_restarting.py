"""Going back to the last good state: other noise, a limit, the same way for the same seed."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from ideal.config import EngineConfig, MolecularDynamicsConfig, TrajectoryConfig
from ideal.engine.engine import Engine
from ideal.engine.events import Event
from ideal.engine.restarting import Restarter
from ideal.engine.trajectory import Trajectory, TrajectoryStatus
from ideal.errors import SamplerError
from ideal.samplers import MolecularDynamics

from .conftest import Finished
from .runs import copper_config, events, in_child, named, trajectory
from .test_resume import kill_at


def moving(**sampler: Any) -> Trajectory:
    config = MolecularDynamicsConfig(**{"steps": 100, "temperature": 500.0, "timestep": 2.0, **sampler})
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    part = TrajectoryConfig(name="md", structure=Path("copper.extxyz"), sampler=config)
    return Trajectory(part, MolecularDynamics(atoms, EMT(), config, seed=1))


def restarter(told: list[Event], limit: int = 2, seed: int = 0) -> Restarter:
    config = SimpleNamespace(seed=seed, engine=EngineConfig(restarts=limit))
    return Restarter(config, SimpleNamespace(tell=told.append), {(29, 29): 2.3})  # type: ignore[arg-type]


@pytest.mark.parametrize("ensemble", ["nve", "nvt_langevin", "nvt_bussi", "npt_mtk"])
def test_goes_back_and_on_another_way(ensemble: str) -> None:
    one, told = moving(ensemble=ensemble), []
    back = restarter(told)
    one.sampler.advance(5)
    back.note_good(one)
    positions = one.sampler.atoms.get_positions()
    ways = []
    for setback in (1, 2):
        one.sampler.advance(5)
        ways.append(one.sampler.atoms.get_positions())
        assert back.go_back(one, "it exploded")
        assert one.step == one.visited_step == 5 and one.setbacks == setback and one.status is TrajectoryStatus.RUNNING
        assert np.array_equal(one.sampler.atoms.positions, positions)
    assert not np.allclose(ways[0], ways[1], atol=1e-6)
    assert not back.go_back(one, "it exploded"), "twice in a row is the limit"
    assert [event.step for event in told] == [10, 10]  # type: ignore[attr-defined]


def test_the_same_seed_gives_the_same_way() -> None:
    ways = []
    for seed in (7, 7, 8):
        one = moving()
        back = restarter([], seed=seed)
        back.note_good(one)
        back.go_back(one, "")
        one.sampler.advance(5)
        ways.append(one.sampler.atoms.get_positions())
    assert np.array_equal(ways[0], ways[1]) and not np.allclose(ways[0], ways[2], atol=1e-6)


def test_setbacks_count_until_the_place_is_passed() -> None:
    one, told = moving(), []
    back = restarter(told, limit=1)
    back.note_good(one)
    one.sampler.advance(4)
    assert back.go_back(one, "")
    one.sampler.advance(4)
    back.note_good(one)
    assert one.setbacks == 1, "as far as before is not beyond"
    one.sampler.advance(1)
    back.note_good(one)
    assert one.setbacks == 0 and one.restarts == 1
    one.sampler.advance(1)
    back.go_back_or_fail(one, "again")
    assert one.status is TrajectoryStatus.RUNNING and one.step == 5 and one.restarts == 2


def test_zero_restarts_fail_at_once() -> None:
    one, told = moving(), []
    back = restarter(told, limit=0)
    back.note_good(one)
    back.go_back_or_fail(one, "it exploded")
    assert one.status is TrajectoryStatus.FAILED and one.reason == "it exploded" and one.good.last is None


def test_trajectory_whose_labels_fail_goes_back_then_fails(reference: Finished, tmp_path: Path) -> None:
    shutil.copy(reference.path / "initial_labels.extxyz", tmp_path / "known.extxyz")
    config = copper_config(
        tmp_path,
        trajectories=[trajectory("hot"), trajectory("cold", sampler={"temperature": 1.0, "steps": 8})],
        dataset={"initial": "known.extxyz", "validation_fraction": 0.0},
        labelling__code__arguments={"failing": 1.0},
        uncertainty__threshold={"type": "fixed", "value": 3.0},
        embedding__max_atoms=200,
        engine__restarts=2,
    )
    summary = Engine.create(config, tmp_path / "run").run()
    hot, cold = summary.trajectories
    assert hot.status == "failed" and hot.restarts == 2
    assert hot.reason.startswith("none of its labels could be calculated: ") and "refused to converge" in hot.reason
    assert cold.status == "finished"
    restarted = named(tmp_path / "run", "trajectory_restarted")
    assert [event["setbacks"] for event in restarted] == [1, 2]
    assert all(event["good_step"] < event["step"] or event["step"] == 0 for event in restarted)
    assert summary.updates == 0


def test_explosion_is_tried_again_and_told(tmp_path: Path) -> None:
    config = copper_config(
        tmp_path, trajectories=[trajectory("hot", max_temperature=100.0)], engine__max_labels=0, engine__restarts=1
    )
    with pytest.raises(SamplerError, match="every trajectory failed"):
        Engine.create(config, tmp_path / "run").run()
    names = [event["event"] for event in events(tmp_path / "run")]
    assert names.count("trajectory_restarted") == 1 and names.count("trajectory_failed") == 1


@pytest.mark.slow
def test_killed_run_goes_back_as_the_uninterrupted_one(reference: Finished, tmp_path: Path) -> None:
    shutil.copy(reference.path / "initial_labels.extxyz", tmp_path / "known.extxyz")
    config = copper_config(
        tmp_path,
        trajectories=[trajectory("hot"), trajectory("cold", sampler={"temperature": 1.0, "steps": 8})],
        dataset={"initial": "known.extxyz", "validation_fraction": 0.0},
        labelling__code__arguments={"failing": 1.0},
        uncertainty__threshold={"type": "fixed", "value": 3.0},
        embedding__max_atoms=200,
        engine__restarts=2,
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    Engine.create(config, whole).run()
    child = in_child(lambda: Engine.create(config, killed, kill_at("trajectory_restarted", 2)).run())
    assert child == -signal.SIGKILL
    Engine.resume(killed).run()
    for kind in ("trajectory_restarted", "trajectory_failed", "check"):
        assert named(killed, kind) == named(whole, kind)
    for file in ("trajectories/hot.extxyz", "trajectories/cold.extxyz"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes()
