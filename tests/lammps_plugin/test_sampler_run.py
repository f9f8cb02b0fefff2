"""Whole runs with LAMMPS as the sampler: they ask, learn, go on in the same LAMMPS, and resume bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from ideal.config import Config, parse_config
from ideal.engine.engine import Engine
from ideal.engine.events import Check, Event, Updated
from ideal.samplers.lammps import LammpsSampler

pytestmark = pytest.mark.lammps

SCRIPT = """
units metal
read_data ${data}
velocity all create 800 ${seed}
timestep 0.003
fix move all nvt temp 800 2000 0.05
thermo 5
dump frames all custom 5 u.dump id c_ideal_u
run 30
"""


def configuration(folder: Path, plugin: Path, **sampler: Any) -> Config:
    """54 copper atoms; LAMMPS moves and labels them."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "copper.extxyz", bulk("Cu", cubic=True) * (3, 3, 2))
    (folder / "in.copper").write_text(SCRIPT)
    data: dict[str, Any] = {
        "seed": 3,
        "trajectories": [
            {
                "name": "hot",
                "structure": "copper.extxyz",
                "check_every": 5,
                "sampler": {"type": "lammps", "input": "in.copper", "steps": 30, "plugin": str(plugin), **sampler},
            }
        ],
        "uncertainty": {
            "soap": {"r_cut": 3.5, "n_max": 2, "l_max": 2},
            "threshold": {"type": "quantile", "factor": 1.2},
        },
        "selection": {"min_steps_between": 5, "audit": 0.3, "max_per_frame": 2},
        "embedding": {"r_core": 2.8, "margin": 1.0, "max_atoms": 60, "n_crops": 4, "growth_attempts": 0, "workers": 0},
        "labelling": {
            "code": {
                "type": "lammps",
                "elements": ["Cu"],
                "commands": ["pair_style lj/cut 6.0", "pair_coeff * * 0.4 2.3"],
            },
            "workers": 1,
            "gate": {"max_net_force": 1.0, "max_force": 200.0},
        },
        "dataset": {"rattled": {"count": 4, "rattle": 0.05, "max_atoms": 16}, "validation_fraction": 0.0},
        "model": {"n_blocks": 1, "units": 8, "max_n": 2, "max_l": 2, "cutoff": 3.5, "threebody_cutoff": 3.0},
        "training": {
            "pretrain": {"epochs": 2},
            "online": {"epochs": 1, "replay": 1, "rescore": 1},
            "final": {"epochs": 0},
        },
        "engine": {"checkpoint_every": 10, "write_every": 10},
    }
    return parse_config(data, folder)


def checks(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k not in ("time", "seconds")}
        for row in rows
        if row["event"] in ("check", "embedded")
    ]


def test_run_learns_and_resumes(plugin: Path, tmp_path: Path) -> None:
    """Killed at a check behind an update and resumed, a run is the uninterrupted one."""
    config = configuration(tmp_path, plugin)
    summary = Engine.create(config, tmp_path / "whole").run()
    assert summary.status == "finished"
    assert summary.labels.done > 0
    told = checks(tmp_path / "whole")
    assert [row["step"] for row in told if row["event"] == "check"][-1] == 30
    frames = read(tmp_path / "whole" / "trajectories" / "hot.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 10, 20, 30]
    files = tmp_path / "whole" / "trajectories" / "hot.lammps"
    assert "ITEM: TIMESTEP\n30\n" in (files / "u.dump").read_text()
    assert (files / "log.lammps").is_file()

    class Killed(BaseException):
        pass

    updated: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, Updated):
            updated.append(event.step)
        if updated and isinstance(event, Check) and event.step > max(10, updated[0]):
            raise Killed

    with pytest.raises(Killed):
        Engine.create(config, tmp_path / "killed", listener=kill).run()
    assert Engine.resume(tmp_path / "killed").run().status == "finished"
    assert checks(tmp_path / "killed") == told
    again = read(tmp_path / "killed" / "trajectories" / "hot.extxyz", ":")
    for frame, same in zip(frames, again, strict=True):
        assert np.array_equal(frame.positions, same.positions)
        assert np.array_equal(frame.get_momenta(), same.get_momenta())


def test_frames_are_gathered_only_where_they_are_needed(
    plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing uncertain, nothing audited, nothing written: u comes from LAMMPS and no frame."""
    gathered: list[int] = []
    gather = LammpsSampler._gathered

    def counted(sampler: LammpsSampler) -> Any:
        gathered.append(sampler.step)
        return gather(sampler)

    monkeypatch.setattr(LammpsSampler, "_gathered", counted)
    data = configuration(tmp_path, plugin, steps=20)
    quiet = data.model_copy(
        update={
            "uncertainty": data.uncertainty.model_copy(
                update={"threshold": data.uncertainty.threshold.model_copy(update={"type": "fixed", "value": 1e6})}
            ),
            "selection": data.selection.model_copy(update={"audit": 0.0}),
            "engine": data.engine.model_copy(update={"write_every": 20}),
        }
    )
    Engine.create(quiet, tmp_path / "quiet").run()
    assert gathered == [0, 20]
    assert len([row for row in checks(tmp_path / "quiet") if row["event"] == "check"]) == 5
