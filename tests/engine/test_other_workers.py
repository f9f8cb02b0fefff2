"""A whole run whose labels are calculated in MPI ranks, and in a Parsl block."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ideal.config import dump_config
from ideal.engine.engine import Engine

from .runs import copper_config, trajectory

pytestmark = pytest.mark.mpi


def test_a_run_in_the_ranks_of_an_mpi_launch(tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    beside = Path(sys.executable).parent / "mpiexec"
    launcher = str(beside) if beside.is_file() else shutil.which("mpiexec")
    if launcher is None:
        pytest.skip("no mpiexec")
    config = copper_config(
        tmp_path, trajectories=[trajectory("md", sampler={"steps": 4})], labelling__executor={"type": "mpi"}
    )
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), *sys.path[1:]])  # as here: not the sources beside the tests, if installed
    done = subprocess.run(
        [launcher, "-n", "3", sys.executable, "-m", "ideal.cli.app", "run", tmp_path, "--output", tmp_path / "run"],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["labels"]["done"] == summary["labels"]["asked"]


def test_a_run_with_a_parsl_block(tmp_path: Path) -> None:
    pytest.importorskip("parsl")
    executor = {"type": "parsl", "workers_per_node": 2}
    config = copper_config(
        tmp_path, trajectories=[trajectory("md", sampler={"steps": 4})], labelling__executor=executor
    )
    summary = Engine.create(config, tmp_path / "run").run()
    assert summary.status == "finished" and summary.labels.done == summary.labels.asked
