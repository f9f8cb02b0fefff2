"""The loop with a quantum-mechanical code that a test can afford: silicon and GFN1-xTB, two workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

from ideal.config import parse_config
from ideal.engine.engine import Engine
from ideal.labelling.store import LabelStore

from .runs import named


def test_silicon_labelled_by_tblite(tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    write(tmp_path / "silicon.extxyz", bulk("Si", cubic=True).repeat((2, 2, 1)))
    config = parse_config(
        {
            "trajectories": [
                {
                    "structure": "silicon.extxyz",
                    "check_every": 5,
                    "sampler": {"steps": 10, "temperature": 2000.0, "timestep": 2.0},
                }
            ],
            "uncertainty": {"soap": {"r_cut": 3.5, "n_max": 2, "l_max": 2}, "threshold": {"factor": 1.0}},
            "embedding": {"r_core": 2.5, "margin": 1.0, "max_atoms": 32, "n_crops": 4, "growth_attempts": 0},
            "labelling": {"code": {"type": "tblite"}, "workers": 2},
            "dataset": {"rattled": {"count": 3, "rattle": 0.05, "max_atoms": 8}},
            "model": {"n_blocks": 1, "units": 8, "max_n": 2, "max_l": 2, "cutoff": 3.5, "threebody_cutoff": 3.0},
            "training": {"pretrain": {"epochs": 2}, "online": {"epochs": 1, "replay": 1}, "final": {"epochs": 1}},
            "engine": {"max_labels": 2},
        },
        tmp_path,
    )
    summary = Engine.create(config, tmp_path / "run").run()
    assert summary.status == "finished" and summary.steps == 10
    assert summary.labels.initial == 3 and summary.labels.done == summary.labels.asked > 0
    with LabelStore(tmp_path / "run" / "labels.db", read_only=True) as store:
        assert all(label.code.startswith("tblite") and label.stress is not None for label in store.labels())
    update = named(tmp_path / "run", "updated")[0]
    assert update["after"]["force_mae"] > 0 and update["before"]["stress_mae"] is not None
