"""Cells made by processes of their own are the cells that the caller would have made."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.config import EmbeddingConfig
from ideal.embedding import embed, minimum_distances
from ideal.embedding.pool import CellJob, CellPool
from ideal.errors import EmbeddingError

SIZES = {"r_core": 3.0, "margin": 2.0, "n_crops": 6}


@pytest.fixture(scope="module")
def known(copper_training: list[Atoms]) -> SoapMahalanobis:
    uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Cu"], r_cut=4.0, n_max=3, l_max=2))
    uncertainty.update(copper_training)
    return uncertainty


@pytest.fixture(scope="module")
def pool() -> Iterator[CellPool]:
    with CellPool(EmbeddingConfig(workers=2, **SIZES)) as started:
        started.start()
        yield started


def jobs(frame: Atoms, training: list[Atoms]) -> list[CellJob]:
    distances = minimum_distances(training)
    return [CellJob(frame, (k,), 7 * k, 2.0, distances) for k in (3, 40, 17, 200)]


def test_same_cells_as_without_processes(
    copper_frame: Atoms, copper_training: list[Atoms], known: SoapMahalanobis, pool: CellPool
) -> None:
    """In the order of asking, whoever was done first; bit for bit."""
    wanted = jobs(copper_frame, copper_training)
    orders = [pool.order(job, known, version=0) for job in wanted]
    alone = CellPool(EmbeddingConfig(workers=0, **SIZES))
    for order, job in zip(orders, wanted, strict=True):
        (cell, seconds), (same, _) = order.cell(), alone.order(job, known, 0).cell()
        direct = embed(
            job.atoms, job.centers[0], known, job.seed, EmbeddingConfig(**SIZES), 2.0, min_distances=job.min_distances
        )
        assert seconds > 0
        for other in (same, direct):
            assert np.array_equal(cell.atoms.positions, other.atoms.positions)
            assert np.array_equal(cell.u, other.u)
            assert cell.reason == other.reason


def test_what_is_learned_after_the_order_does_not_count(
    copper_frame: Atoms, copper_training: list[Atoms], known: SoapMahalanobis, pool: CellPool
) -> None:
    learning = known.copy()
    job = jobs(copper_frame, copper_training)[0]
    for workers in (pool, CellPool(EmbeddingConfig(workers=0, **SIZES))):
        before = workers.order(job, learning, version=10)
        learning.update(copper_frame)
        after = workers.order(job, learning, version=11)
        direct = [
            embed(copper_frame, 3, k, job.seed, EmbeddingConfig(**SIZES), 2.0, min_distances=job.min_distances)
            for k in (known, learning)
        ]
        for order, expected in zip((before, after), direct, strict=True):
            assert np.array_equal(order.cell()[0].u, expected.u)
        learning = known.copy()


def test_errors_come_back(copper_frame: Atoms, known: SoapMahalanobis, pool: CellPool) -> None:
    order = pool.order(CellJob(copper_frame, (999,), 0, 2.0), known, version=20)
    with pytest.raises(EmbeddingError, match="atom 999 is not in the frame; valid: 0 to 255"):
        order.cell()


def test_a_killed_process_is_replaced(
    copper_frame: Atoms, copper_training: list[Atoms], known: SoapMahalanobis
) -> None:
    job = jobs(copper_frame, copper_training)[0]
    with CellPool(EmbeddingConfig(workers=1, **SIZES)) as pool:
        first = pool.order(job, known, 0).cell()[0]
        (worker,) = pool._all
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
        again = pool.order(job, known, 0).cell()[0]
        assert np.array_equal(first.atoms.positions, again.atoms.positions)


def test_what_takes_too_long_is_ended_and_said(copper_frame: Atoms, known: SoapMahalanobis) -> None:
    with CellPool(EmbeddingConfig(workers=1, timeout=0.01, **SIZES)) as pool:
        order = pool.order(CellJob(copper_frame, (3,), 0, 2.0), known, 0)
        with pytest.raises(EmbeddingError, match=r"around atom 3 .* not made in 0.01 s; raise embedding.timeout"):
            order.cell()


def test_a_file_of_the_working_directory_is_no_module_of_the_processes(
    copper_frame: Atoms, known: SoapMahalanobis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ase.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    with CellPool(EmbeddingConfig(workers=1, **SIZES)) as pool:
        assert pool.order(CellJob(copper_frame, (3,), 0, 2.0), known, 0).cell()[0].core.any()


def test_processes_end_with_the_pool_and_with_whoever_started_it(
    copper_frame: Atoms, copper_training: list[Atoms], known: SoapMahalanobis
) -> None:
    job = jobs(copper_frame, copper_training)[0]
    pool = CellPool(EmbeddingConfig(workers=1, **SIZES))
    pool.order(job, known, 0).cell()
    left = [pool.order(job, known, 0) for _ in range(1000)]
    pool.close()
    assert not any(worker.alive for worker in pool._all)
    with pytest.raises(CancelledError):
        left[-1].cell()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # killed without a chance to end what it started
        orphaned = CellPool(EmbeddingConfig(workers=1, **SIZES))
        orphaned.order(job, known, 0).cell()
        (worker,) = orphaned._all
        os.write(writer, str(worker._process.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    orphan = int(os.read(reader, 20))
    for number in (reader, writer):
        os.close(number)
    deadline = time.monotonic() + 200
    while _runs(orphan) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(orphan)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
