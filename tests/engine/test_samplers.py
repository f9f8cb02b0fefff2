"""Samplers in a run: the present uncertainty drives them, their numbers are told, a killed run goes on bit for bit."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read

from ideal.config import dump_config
from ideal.engine.calculations import Calculations
from ideal.engine.engine import Engine
from ideal.engine.events import Event
from ideal.engine.run_directory import RunDirectory
from ideal.records import FailedLabel, Label

from .runs import copper_config, in_child, named, outcome, trajectory

BIAS = {"strength": 0.3, "burn_in": 3, "window": 5}
SAMPLERS: dict[str, dict[str, Any]] = {
    "biased_dynamics": {"bias": BIAS},
    "monte_carlo": {
        "moves": {"displacement": 1, "volume": 1, "displaced_atoms": None, "displacement_step": 0.05},
        "dynamics": {"trials": 2, "steps": 3, "timestep": 4.0},
        "burn_in": 4,
        "bias": BIAS,
    },
}


def configured(folder: Path, kind: str, steps: int = 14, **changes: Any) -> Any:
    sampler = {"type": kind, "temperature": 2500.0, "steps": steps, **SAMPLERS[kind]}
    one = trajectory("md", max_force=500.0)
    one["sampler"] = sampler
    return copper_config(folder, trajectories=[one], **changes)


def assert_told(path: Path) -> None:
    """tau is 0 in the burn-in and positive afterwards, in events and frames alike."""
    checks = named(path, "check")
    assert checks[0]["observables"]["tau"] == 0
    assert checks[-1]["observables"]["tau"] > 0
    frames = read(path / "trajectories" / "md.extxyz", ":")
    assert frames[-1].info["tau"] == checks[-1]["observables"]["tau"]
    assert np.isfinite(frames[-1].info["bias_energy"])


def test_a_biased_run_tells_its_bias(tmp_path: Path) -> None:
    config = configured(tmp_path, "biased_dynamics", steps=6, engine__max_labels=0)
    summary = Engine.create(config, tmp_path / "run").run()
    assert summary.status == "finished"
    assert_told(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_killed_run_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    config = configured(tmp_path, kind)
    summary = Engine.create(config, tmp_path / "whole").run()
    assert summary.status == "finished"
    assert len(named(tmp_path / "whole", "updated")) >= 1

    def kill(event: Event) -> None:
        if event.name == "checkpoint" and event.step >= 6:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)

    status = in_child(lambda: Engine.create(config, tmp_path / "killed", kill).run())
    assert status == -signal.SIGKILL
    Engine.resume(tmp_path / "killed").run()
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert_told(tmp_path / "whole")


def test_labels_of_large_forces_stay_in_the_store_and_are_not_learned(tmp_path: Path) -> None:
    config = copper_config(tmp_path)
    gate = config.labelling.gate.model_copy(update={"max_learned_force": 1.0})
    labelling = config.labelling.model_copy(update={"gate": gate})
    with contextlib.ExitStack() as stack:
        directory = RunDirectory.create(tmp_path / "run", dump_config(config))
        stack.callback(directory.close)
        calculations = Calculations(labelling, directory)
        stack.callback(calculations.close)
        answers = []
        for rattle in (0.01, 0.3):
            atoms = bulk("Cu", cubic=True).repeat(2)
            atoms.rattle(rattle, seed=0)
            request = calculations.request(atoms, {"trajectory": "md"})
            calculations.submit(request)
            while request.key not in calculations.results:
                calculations.wait(1.0)
            answers.append(calculations.results[request.key])
        small, large = answers
        assert isinstance(small, Label)
        assert isinstance(large, FailedLabel)
        assert "above labelling.gate.max_learned_force 1 eV/Å" in large.cause
        kept = calculations.store.get(large.key)
        assert isinstance(kept, Label)
        assert np.linalg.norm(kept.forces, axis=1).max() > 1
