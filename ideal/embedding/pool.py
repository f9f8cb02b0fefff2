"""Cells made by processes of their own, beside the dynamics and the reference calculations.

    with CellPool(EmbeddingConfig(workers=2)) as pool:
        orders = [pool.order(CellJob(frame, (k,), seed=k, threshold=2.0), uncertainty, version=0) for k in (3, 17)]
        cells = [order.cell()[0] for order in orders]

Processes, not threads: most of an embedding are small array operations of Python, which hold its lock
(`docs/decisions/0013-dispatch.md`). A cell depends on its job and the distribution alone, never on who made it and
when; whoever takes the orders in the order of asking has the same run with any number of workers.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ase import Atoms

from ideal.config import EmbeddingConfig
from ideal.embedding.embed import embed
from ideal.errors import EmbeddingError, IdealError
from ideal.records import Substructure
from ideal.uncertainty.mahalanobis import SoapMahalanobis

STARTS = 2
"""How often a job is given to a new process whose predecessor died."""

Made = tuple[Substructure, float]
"""A cell and the wall time (s) that it took."""


@dataclass(frozen=True)
class CellJob:
    """One cell to be made; the arguments of `ideal.embedding.embed`.

    Attributes:
        atoms: the frame.
        centers: atoms that the core shall take in.
        seed: of the crops.
        threshold: u above which an environment is unknown.
        min_distances: shortest distances of the training set (Å), by atomic numbers; None: from covalent radii.
    """

    atoms: Atoms
    centers: tuple[int, ...]
    seed: int
    threshold: float
    min_distances: Mapping[tuple[int, int], float] | None = None


class Order:
    """A cell that has been ordered."""

    def __init__(self, make: Callable[[], Made] | None = None, future: Future[Made] | None = None) -> None:
        self._make, self._future = make, future
        self._made: Made | None = None

    @property
    def ready(self) -> bool:
        """Whether `cell` has nothing to wait for; always, where the process that asks makes the cell itself."""
        return self._future is None or self._future.done()

    def wait(self, seconds: float) -> None:
        """Return when the cell is ready, or after ``seconds``."""
        if self._future is not None:
            with contextlib.suppress(FutureTimeoutError, CancelledError):
                self._future.exception(seconds)

    def cell(self) -> Made:
        """The cell and the wall time that it took; waits for it, or makes it.

        Raises:
            EmbeddingError, UncertaintyError: as `ideal.embedding.embed`.
            IdealError: the process that was to make it died, again and again.
        """
        if self._future is not None:
            return self._future.result()
        if self._made is None:
            assert self._make is not None
            self._made = self._make()
        return self._made

    def cancel(self) -> None:
        """Do not begin it if nothing has begun it yet."""
        if self._future is not None:
            self._future.cancel()


class CellPool:
    """Processes that make cells; with ``workers: 0`` the caller's own, when the cell is asked for.

    Args:
        config: of the embedding; its ``workers`` are started with the first order, or by `start`.
    """

    def __init__(self, config: EmbeddingConfig) -> None:
        self._config = config
        self._executor = ThreadPoolExecutor(config.workers, "cells") if config.workers else None
        self._mine = threading.local()
        self._all: set[_Worker] = set()
        self._closed = False
        self._snapshot: SoapMahalanobis | None = None
        self._version: int | None = None

    def start(self) -> None:
        """Start the processes now, so that the first cell need not wait for them."""
        if self._executor is not None:
            for _ in range(self._config.workers):
                self._executor.submit(self._worker)

    def order(self, job: CellJob, uncertainty: SoapMahalanobis, version: int) -> Order:
        """Have a cell made.

        Args:
            job: what to make.
            uncertainty: the distribution as it is now; what it learns later does not count.
            version: another number whenever the distribution has learned; spares sending it again.
        """
        if version != self._version or self._snapshot is None:
            self._snapshot, self._version = uncertainty.copy(), version
        snapshot = self._snapshot
        if self._executor is None:
            return Order(make=lambda: _make(job, self._config, snapshot))
        return Order(future=self._executor.submit(self._remote, job, snapshot, version))

    def close(self) -> None:
        """End the processes; what they had not finished is lost."""
        self._closed = True
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            for worker in list(self._all):
                worker.end()
            self._executor.shutdown(wait=True)

    def __enter__(self) -> CellPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _worker(self) -> _Worker:
        """The process of this thread."""
        worker: _Worker | None = getattr(self._mine, "worker", None)
        if worker is None or not worker.alive:
            worker = self._mine.worker = _Worker()
            self._all.add(worker)
            if self._closed:
                worker.end()
        return worker

    def _remote(self, job: CellJob, snapshot: SoapMahalanobis, version: int) -> Made:
        for _ in range(STARTS):
            worker = self._worker()
            try:
                return worker.make(job, self._config, snapshot, version)
            except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # dead, or ended by `close`
                worker.end()
                if self._closed:
                    break
        raise IdealError(
            f"the process that was to make the cell around atom {job.centers[0]} of a frame of {len(job.atoms)} atoms "
            f"died {STARTS} times (exit status {worker.status}; -9: killed, out of memory?); lower embedding.workers "
            "(0: the run makes them itself)"
        )


class _Worker:
    """One process of `ideal.embedding.worker`. It leads a process group of its own: Ctrl-C reaches the run alone."""

    def __init__(self) -> None:
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        self._process = subprocess.Popen(
            # -P: a file of the working directory is no module
            [sys.executable, "-P", "-m", "ideal.embedding.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._version: int | None = None

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        return self._process.poll()

    def make(self, job: CellJob, config: EmbeddingConfig, uncertainty: SoapMahalanobis, version: int) -> Made:
        jobs: IO[bytes] = self._process.stdin  # type: ignore[assignment]
        cells: IO[bytes] = self._process.stdout  # type: ignore[assignment]
        overdue = threading.Event()

        def stop() -> None:
            overdue.set()
            self._process.kill()

        limit = threading.Timer(config.timeout, stop)
        limit.start()
        answer: Any
        try:
            pickle.dump((job, config, None if version == self._version else uncertainty), jobs)
            jobs.flush()
            self._version = version
            answer, seconds = pickle.load(cells)
        except (EOFError, OSError) as error:
            if not overdue.is_set():
                raise
            self.end()
            raise EmbeddingError(
                f"the cell around atom {job.centers[0]} of a frame of {len(job.atoms)} atoms was not made in "
                f"{config.timeout:g} s; raise embedding.timeout, or lower n_crops or max_evaluations"
            ) from error
        finally:
            limit.cancel()
        if isinstance(answer, IdealError):
            raise answer
        if not isinstance(answer, Substructure):
            raise EmbeddingError(f"making the cell around atom {job.centers[0]} failed:\n{answer}")
        return answer, seconds

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _make(job: CellJob, config: EmbeddingConfig, uncertainty: SoapMahalanobis) -> Made:
    start = time.perf_counter()
    cell = embed(
        job.atoms,
        job.centers,
        uncertainty,
        rng=job.seed,
        config=config,
        threshold=job.threshold,
        min_distances=job.min_distances,
    )
    return cell, time.perf_counter() - start
