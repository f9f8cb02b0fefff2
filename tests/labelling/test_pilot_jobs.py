"""Parsl with a batch system: blocks come with the work and go without it, and a lost one costs no label."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ideal.config import ParslExecutorConfig
from ideal.labelling.executors.worker_process import Limits

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import executor_contract as contract  # noqa: E402  (workers find it by this name)

pytest.importorskip("parsl")
pytestmark = pytest.mark.mpi


class Slurm:
    """The jobs of the simulated batch system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def running(self) -> list[int]:
        """Process groups of the jobs that run."""
        groups = [int(file.read_text()) for file in sorted(self.folder.glob("*.pid"))]
        return [group for group in groups if contract.alive(group)]

    def submitted(self) -> int:
        """Jobs so far."""
        return len(list(self.folder.glob("*.pid")))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    folder = tmp_path / "jobs"
    folder.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{HERE / 'fake_slurm'}{os.pathsep}{os.environ['PATH']}")
    batch = Slurm(folder)
    yield batch
    for group in batch.running():
        subprocess.run(["kill", "-KILL", "--", f"-{group}"], check=False)


def test_blocks_come_and_go_and_a_lost_one_costs_no_label(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ideal.labelling.executors import parsl

    monkeypatch.setattr(parsl, "HEARTBEAT_SECONDS", (1, 5))
    config = ParslExecutorConfig(
        provider={"type": "slurm", "partition": "test", "walltime": "10 min"},
        max_blocks=3,
        idle=3.0,
        address="127.0.0.1",
    )
    executor = parsl.ParslExecutor(config, tmp_path / "work", Limits(contract.PATIENCE))
    try:
        assert executor.blocks() == 0 and slurm.submitted() == 0
        files = [str(tmp_path / f"label-{n}") for n in range(6)]
        gate = tmp_path / "go on"
        futures = [executor.submit(contract.mark_when, file, str(gate)) for file in files]
        contract.eventually(lambda: len(slurm.running()) == 3)
        gate.touch()
        assert [future.result(contract.PATIENCE) for future in futures] == files
        assert slurm.submitted() == 3
        contract.eventually(lambda: not slurm.running() and executor.blocks() == 0)

        pids = tmp_path / "pids"
        lost = executor.submit(contract.hang_once, str(pids))
        contract.eventually(pids.exists)
        os.killpg(slurm.running()[0], signal.SIGKILL)  # the node is gone, as far as anyone can tell
        assert lost.result(contract.PATIENCE) == "the second time"
        for pid in pids.read_text().split():
            contract.eventually(lambda pid=int(pid): not contract.alive(pid))
        assert slurm.submitted() >= 4
    finally:
        executor.terminate()
    contract.eventually(lambda: not slurm.running())


def test_a_run_is_labelled_by_pilot_jobs(slurm: Slurm, tmp_path: Path) -> None:
    from ideal.config import LabellingConfig
    from ideal.labelling import Labeller, LabelStore, make_code
    from ideal.labelling.executors import open_executor
    from ideal.records import Label

    from .conftest import cluster

    (tmp_path / "marks").mkdir()
    code = {"type": "ase", "calculator": "fake_calculators:Marked", "arguments": {"marks": str(tmp_path / "marks")}}
    config = LabellingConfig(
        code=code,
        executor={"type": "parsl", "provider": {"type": "slurm"}, "workers_per_node": 2, "address": "127.0.0.1"},
    )
    with (
        LabelStore(tmp_path / "labels.sqlite") as store,
        open_executor(config, tmp_path / "work") as executor,
        Labeller(make_code(config.code), store, tmp_path / "work", executor=executor) as labeller,
    ):
        for number in range(4):
            labeller.submit(cluster(number))
        labels: list[object] = []
        while len(labels) < 4:
            finished = labeller.wait(timeout=120)
            assert finished, "no label within two minutes"
            labels += finished
        assert all(isinstance(label, Label) for label in labels) and len(store.labels()) == 4
    contract.eventually(lambda: not slurm.running())
