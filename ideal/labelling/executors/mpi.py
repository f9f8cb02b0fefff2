"""Workers in the ranks of one MPI launch: ``mpiexec -n N ideal-run run``, with `mpi4py.futures`.

The first rank runs the loop. Every other rank waits for tasks and runs each in a process below it, which it can end:
a calculation that hangs, crashes or calls MPI itself never touches the ranks' own MPI.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ideal.errors import LabelError, MissingPackageError
from ideal.labelling.executors.relay import RelayExecutor, serve
from ideal.labelling.executors.worker_process import Limits

BACKOFF_SECONDS = 0.005
"""Longest pause between two looks for a message: a rank that waits must not keep a core busy."""

_pool: Any = None  # the MPIPoolExecutor of the first rank while `ranks` is open


@contextlib.contextmanager
def ranks(expected: int | None = None) -> Iterator[bool]:
    """Divide the ranks of an MPI launch: the first goes on, the others serve until it is done.

    Args:
        expected: how many ranks the launcher started; None: not known.

    Yields:
        True where the program is to go on; False in a rank that has served.

    Raises:
        MissingPackageError: mpi4py is not installed.
        LabelError: mpi4py belongs to another MPI than the launcher.

    Example:
        >>> with ranks() as go_on:          # doctest: +SKIP
        ...     if go_on:
        ...         main()
    """
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor
    except ImportError:
        raise MissingPackageError("mpi4py", "running under an MPI launcher", "pip install 'ideal-md[mpi]'") from None
    size = MPI.COMM_WORLD.Get_size()
    if expected is not None and size != expected:
        library = MPI.Get_library_version().splitlines()[0]
        raise LabelError(
            f"the launcher started {expected} processes, but mpi4py sees {size}: it belongs to another MPI "
            f"({library}); start it with that one's mpiexec (pip's mpich: {Path(sys.prefix) / 'bin' / 'mpiexec'})"
        )
    if size == 1:
        yield True
        return
    global _pool
    if MPI.COMM_WORLD.Get_rank() != 0:
        for number in (signal.SIGINT, signal.SIGTERM):  # the first rank ends the run in order, and then this one
            signal.signal(number, signal.SIG_IGN)
    with MPICommExecutor(MPI.COMM_WORLD, root=0, backoff=BACKOFF_SECONDS) as pool:
        if pool is not None:
            _pool = pool
            try:
                yield True
            finally:
                _pool = None
    if pool is None:
        yield False


def serving_ranks() -> int:
    """Ranks that wait for tasks; 0 outside `ranks`."""
    return _pool.num_workers if _pool is not None else 0


class MpiExecutor(RelayExecutor):
    """One worker for each rank but the first.

    Args:
        folder: where workers keep their logs; seen by all machines.
        limits: of each task.

    Raises:
        LabelError: this process is not the first of several ranks.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        if not serving_ranks():
            raise LabelError(
                "labelling.executor.type is mpi, but this is no MPI launch of two ranks or more: start it with "
                "`mpiexec -n N ideal-run run ...` (one rank for the loop, N - 1 workers), or write type: local"
            )
        super().__init__(folder, limits, serving_ranks())

    def _send(self, task: dict[str, Any]) -> Future[dict[str, Any]]:
        sent: Future[dict[str, Any]] = _pool.submit(serve, task)
        return sent
