"""A runner for the commands, and tiny inputs: copper with ASE's effective medium potential as the reference code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from typer.testing import CliRunner, Result

from ideal.cli.app import app
from ideal.cli.live import EventLike, LiveView

EMT_CODE = "ase.calculators.emt:EMT"


@pytest.fixture
def ideal_run() -> Callable[..., Result]:
    """``ideal_run("check", path)``: a command inside this process."""

    def invoke(*arguments: object, columns: int = 100) -> Result:
        runner = CliRunner(env={"COLUMNS": str(columns)})
        return runner.invoke(app, [str(argument) for argument in arguments], prog_name="ideal-run")

    return invoke


@pytest.fixture
def copper() -> Atoms:
    """32 atoms, a little disordered."""
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture
def folder(tmp_path: Path, copper: Atoms, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a structure and a configuration that finishes in seconds."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "copper.extxyz", copper)
    write_config(tmp_path / "config.yaml", tiny_config())
    return tmp_path


def tiny_config() -> dict[str, Any]:
    """A run of 20 steps with a model of one block and eight units."""
    return {
        "seed": 1,
        "output": "run",
        "trajectories": [
            {
                "name": "cu",
                "structure": "copper.extxyz",
                "sampler": {"timestep": 2.0, "steps": 20, "temperature": 900},
                "check_every": 5,
            }
        ],
        "uncertainty": {
            "soap": {"r_cut": 4.0, "n_max": 3, "l_max": 2},
            "threshold": {"type": "fixed", "value": 1.5},
        },
        "selection": {"max_per_frame": 1, "min_steps_between": 5},
        "labelling": {"code": {"type": "ase", "calculator": EMT_CODE}, "workers": 1},
        "dataset": {"rattled": {"count": 4}},
        "model": {"n_blocks": 1, "units": 8, "cutoff": 4.0, "threebody_cutoff": 3.0},
        "training": {"pretrain": {"epochs": 2}, "online": {"epochs": 1}, "final": {"epochs": 1}},
        "engine": {"write_every": 5, "checkpoint_every": 5},
    }


def write_config(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


@pytest.fixture
def labelled(folder: Path, copper: Atoms) -> Path:
    """Five labelled copper cells."""
    frames = []
    for seed in range(5):
        atoms = copper.copy()
        atoms.rattle(0.08, rng=np.random.default_rng(seed))
        atoms.calc = EMT()
        atoms.get_forces()
        atoms.get_stress()
        frames.append(atoms)
    path = folder / "labelled.extxyz"
    write(path, frames)
    return path


@pytest.fixture
def distribution(folder: Path, copper: Atoms) -> Path:
    """An uncertainty that knows disordered copper."""
    from ideal import SoapMahalanobis, SoapPowerSpectrum

    known = SoapMahalanobis(SoapPowerSpectrum(["Cu"], r_cut=4.0, n_max=3, l_max=2, sigma=0.5))
    frames = []
    for seed in range(5):
        atoms = copper.copy()
        atoms.rattle(0.08, seed=seed)
        frames.append(atoms)
    known.update(frames)
    path = folder / "uncertainty.safetensors"
    known.save(path)
    return path


@pytest.fixture
def at_check(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """``at_check(2, action)``: what happens amid the run's second check, once and in the thread of the run."""

    def plan(number: int, action: Callable[[], None]) -> None:
        seen = 0
        show = LiveView.__call__

        def shown(view: LiveView, event: EventLike) -> None:
            nonlocal seen
            show(view, event)
            seen += event.as_dict()["event"] == "check"
            if seen == number:
                seen += 1
                action()

        monkeypatch.setattr(LiveView, "__call__", shown)

    return plan
