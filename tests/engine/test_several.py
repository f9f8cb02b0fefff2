"""A run of samplers with several configurations and of searches: who is looked at, who asks, how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

from ideal.engine.engine import Engine

from .runs import copper_config, named, outcome, trajectory


def crystals(folder: Path) -> None:
    """A copper crystal with a vacancy, before and after a neighbor has hopped into it."""
    folder.mkdir(parents=True, exist_ok=True)
    crystal = bulk("Cu", cubic=True).repeat(2)
    initial = crystal.copy()
    del initial[0]
    final = initial.copy()
    final.positions[0] -= crystal.get_distance(0, 1, vector=True, mic=True)
    write(folder / "initial.extxyz", initial)
    write(folder / "final.extxyz", final)


def sampler(folder: Path, name: str, changes: dict[str, Any] | None = None, **keys: Any) -> Any:
    """A run of one trajectory with this sampler; ``keys`` are those of the sampler, ``changes`` those of the run."""
    crystals(folder)
    one = trajectory(name, check_every=2)
    one["sampler"] = keys
    one["structure"] = "initial.extxyz"
    return copper_config(folder, trajectories=[one], dataset__rattled__max_atoms=31, **(changes or {}))


BAND = {"type": "neb", "final": "final.extxyz", "images": 2, "steps": 4, "climb": False, "force_tolerance": 1e-9}
LADDER = {
    "type": "replica_exchange",
    "temperatures": [1500.0, 2500.0],
    "exchange_every": 2,
    "timestep": 4.0,
    "steps": 6,
}


@pytest.fixture(scope="module")
def band(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("band")
    Engine.create(sampler(folder, "path", **BAND), folder / "run").run()
    return folder / "run"


def test_every_image_is_written_and_the_end_is_told(band: Path) -> None:
    files = sorted((band / "trajectories" / "path").iterdir())
    assert [file.name for file in files] == ["00.extxyz", "01.extxyz", "02.extxyz", "03.extxyz"]
    (end,) = named(band, "trajectory_finished")
    assert "barrier" in end["conclusion"]
    first, last = (read(file, index=-1) for file in (files[0], files[-1]))
    assert isinstance(first, Atoms) and isinstance(last, Atoms)
    np.testing.assert_allclose(first.positions, read(band.parent / "initial.extxyz").positions, atol=1e-8)
    np.testing.assert_allclose(last.positions, read(band.parent / "final.extxyz").positions, atol=1e-8)


def test_the_most_uncertain_image_asks(band: Path) -> None:
    checks = {event["step"]: event for event in named(band, "check")}
    embedded = named(band, "embedded")
    assert embedded
    for event in embedded:
        if event["purpose"] == "selected":
            assert checks[event["step"]]["max_u"] > checks[event["step"]]["threshold"]


@pytest.mark.parametrize(
    "keys", [pytest.param(BAND, id="band"), pytest.param(LADDER, id="ladder", marks=pytest.mark.slow)]
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, keys: dict[str, Any]) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    Engine.create(sampler(whole, "t", **keys), whole / "run").run()

    def stop(event: Any) -> None:
        if event.name == "check" and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Engine.create(sampler(parts, "t", **keys), parts / "run", listener=stop).run()
    Engine.resume(parts / "run").run()
    expected, got = outcome(whole / "run"), outcome(parts / "run")
    assert {name for name in expected if expected[name] != got[name]} == set()


@pytest.mark.parametrize(
    ("tolerance", "asked", "end"),
    [
        pytest.param(1e-6, {0, 3}, "not converged in 3 steps", id="moved"),
        pytest.param(49.0, {0}, "converged, largest force", id="stayed", marks=pytest.mark.slow),
    ],
)
def test_what_a_search_has_found_may_ask_unless_it_stayed(
    tmp_path: Path, tolerance: float, asked: set[int], end: str
) -> None:
    changes = {
        "uncertainty__threshold": {"type": "fixed", "value": 0.1},
        "selection__min_steps_between": 50,
        "selection__audit": 0.0,
    }
    config = sampler(tmp_path, "relaxed", changes, type="relaxation", steps=3, force_tolerance=tolerance)
    Engine.create(config, tmp_path / "run").run()
    assert {event["step"] for event in named(tmp_path / "run", "embedded")} == asked
    (finished,) = named(tmp_path / "run", "trajectory_finished")
    assert finished["conclusion"].startswith(end)
    assert "still uncertain, u" in finished["conclusion"]


@pytest.mark.parametrize("mode", [pytest.param("serial", marks=pytest.mark.slow), "lockstep"])
def test_a_search_that_has_ended_stays_ended(tmp_path: Path, mode: str) -> None:
    """Neither the rounds of lockstep, nor what others learn later, nor resuming set it in motion again."""
    changes = {
        "engine__mode": mode,
        "uncertainty__threshold": {"type": "fixed", "value": 0.1},
        "selection__min_steps_between": 8,
        "selection__audit": 0.0,
    }
    relaxed = sampler(tmp_path, "relaxed", type="relaxation", steps=9, force_tolerance=49.0).trajectories[0]
    one = trajectory("relaxed", check_every=2)
    one["sampler"], one["structure"] = relaxed.sampler.model_dump(), "initial.extxyz"
    others = [one, trajectory("md", sampler={"steps": 12})]
    config = copper_config(tmp_path, trajectories=others, dataset__rattled__max_atoms=31, **changes)
    Engine.create(config, tmp_path / "run").run()
    ended = {event["trajectory"]: event for event in named(tmp_path / "run", "trajectory_finished")}
    assert ended["relaxed"]["step"] < 9 and ended["relaxed"]["conclusion"].startswith("converged")
    assert named(tmp_path / "run", "updated")[-1]["step"] > ended["relaxed"]["step"]
    Engine.resume(tmp_path / "run").run()
    assert len(named(tmp_path / "run", "trajectory_finished")) == 2
