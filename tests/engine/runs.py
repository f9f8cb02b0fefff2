"""Tiny runs for the tests: copper, EMT as the reference code, an M3GNet of one block and eight units."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ase.build import bulk
from ase.io import write
from safetensors.numpy import load_file

from ideal.config import Config, parse_config
from ideal.dataset import read_labels
from ideal.engine.engine import Engine
from ideal.labelling.store import LabelStore
from ideal.models.m3gnet import M3GNetPotential

from .engine_calculators import structure_digest

CHANGING = ("time", "seconds", "directory", "wall_seconds", "stage_seconds")
"""Keys of events that differ between two equal runs."""


def copper_config(folder: Path, **changes: Any) -> Config:
    """A run of a few dozen steps that asks for several labels.

    Args:
        folder: where the structure and the calculation log are written.
        changes: values by dotted key, with ``__`` for the dot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    structure = bulk("Cu", cubic=True).repeat((3, 3, 2))
    write(folder / "copper.extxyz", structure)
    data: dict[str, Any] = {
        "seed": 3,
        "trajectories": [trajectory("md")],
        "uncertainty": {
            "soap": {"r_cut": 3.5, "n_max": 2, "l_max": 2},
            "threshold": {"type": "calibrated", "factor": 1.2, "confidence": 0.5, "force_error": 1.0},
        },
        "selection": {"min_steps_between": 4, "audit": 0.3},
        "embedding": {"r_core": 2.8, "margin": 1.0, "max_atoms": 40, "n_crops": 4, "growth_attempts": 0, "workers": 0},
        "labelling": {
            "code": {
                "type": "ase",
                "calculator": "engine_calculators:LoggedEMT",
            },
            "workers": 1,
            "gate": {"max_net_force": 1.0, "max_force": 200.0},
        },
        "dataset": {"rattled": {"count": 4, "rattle": 0.05, "max_atoms": 16}, "validation_fraction": 0.0},
        "model": {"n_blocks": 1, "units": 8, "max_n": 2, "max_l": 2, "cutoff": 3.5, "threebody_cutoff": 3.0},
        "training": {
            "pretrain": {"epochs": 2},
            "online": {"epochs": 1, "replay": 1, "rescore": 1},
            "final": {"epochs": 2},
        },
        "engine": {"checkpoint_every": 6, "write_every": 2},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        section = data
        for name in path:
            section = section.setdefault(name, {})
        section[last] = value
    return parse_config(data, folder)


def trajectory(name: str, **changes: Any) -> dict[str, Any]:
    """The configuration of one trajectory; ``changes`` are keys of it, ``sampler`` keys are merged."""
    sampler = {"steps": 16, "temperature": 2500.0, "timestep": 4.0, **changes.pop("sampler", {})}
    return {"name": name, "structure": "copper.extxyz", "check_every": 4, "sampler": sampler, **changes}


def events(path: Path, keep_times: bool = False) -> list[dict[str, Any]]:
    """The events of a run, without times; not the line that is just being written."""
    whole = (path / "events.jsonl").read_text().rpartition("\n")[0]
    rows = [json.loads(line) for line in whole.splitlines()]
    return rows if keep_times else [_without_times(row) for row in rows]


def named(path: Path, *names: str) -> list[dict[str, Any]]:
    """The events of these names, without times."""
    return [event for event in events(path) if event["event"] in names]


def _without_times(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_times(item) for key, item in value.items() if key not in CHANGING}
    return value


def outcome(path: Path) -> dict[str, Any]:
    """Everything that two equal runs share, bit for bit."""
    with LabelStore(path / "labels.db", read_only=True) as store:
        labels = {label.key: label.energy for label in store.labels()}
    files = ["substructures.extxyz", "crops.extxyz"]
    files += [str(file.relative_to(path)) for file in sorted((path / "trajectories").rglob("*.extxyz"))]
    distribution = load_file(path / "uncertainty.safetensors")
    return {
        "labels": labels,
        "model": M3GNetPotential.load(path / "model", device="cpu").fingerprint(),
        "pairs": (path / "pairs.jsonl").read_text(),
        "calibration": json.loads((path / "calibration.json").read_text()),
        "distribution": {name: array.tobytes() for name, array in distribution.items()},
        "initial": [label.forces.tobytes() for label in read_labels(path / "initial_labels.extxyz")],
        "training": [_without_times(json.loads(row)) for row in (path / "training.jsonl").read_text().splitlines()],
        **{name: (path / name).read_bytes() for name in files},
    }


def calculated(path: Path) -> list[str]:
    """The structures whose calculation was completed in a run, repetitions included."""
    return (path / "calculations" / "calculated.txt").read_text().split()


def committed(path: Path) -> list[str]:
    """The structures whose label is in the store, named as in `calculated`."""
    if not (path / "labels.db").is_file():
        return []
    with LabelStore(path / "labels.db") as store:  # not read-only: a killed run leaves a journal to take in
        return [structure_digest(label.atoms) for label in store.labels()]


def in_child(action: Callable[[], object]) -> int:
    """Run ``action`` in a forked process and return its exit status; negative: the signal that killed it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def run_killed_after(start: Callable[[], Engine], seconds: float) -> int:
    """Run an engine in a child that is killed with SIGKILL after some time; returns the exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            start().run()
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(status)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
