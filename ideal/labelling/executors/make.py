"""From the section ``labelling`` to the executor that it names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ideal.config import LabellingConfig, MpiExecutorConfig, ParslExecutorConfig
from ideal.errors import LabelError
from ideal.labelling.executors.local import LocalExecutor
from ideal.labelling.executors.mpi import MpiExecutor, serving_ranks
from ideal.labelling.executors.relay import RelayExecutor
from ideal.labelling.executors.worker_process import Limits


@contextlib.contextmanager
def open_executor(config: LabellingConfig, folder: Path) -> Iterator[LocalExecutor | RelayExecutor]:
    """`make_executor` for a ``with`` block, at whose end everything is ended at once."""
    executor = make_executor(config, folder)
    try:
        yield executor
    finally:
        executor.terminate()


def make_executor(config: LabellingConfig, folder: Path) -> LocalExecutor | RelayExecutor:
    """The executor that a configuration names; its owner calls ``terminate``.

    Args:
        config: executor, workers and limits.
        folder: where workers keep their logs; for MPI and Parsl it is seen by all machines.

    Raises:
        LabelError: it cannot be started as configured.
        MissingPackageError: its package is not installed.

    Example:
        >>> executor = make_executor(config.labelling, Path("runs/li/calculations"))     # doctest: +SKIP
        >>> executor.submit(perform, "runs/li/calculations/3f2a-x1").result()             # doctest: +SKIP
    """
    kind = config.executor
    limits = Limits(config.timeout, config.memory, config.threads)
    if isinstance(kind, MpiExecutorConfig):
        return MpiExecutor(folder, limits)
    if serving_ranks():
        raise LabelError(
            f"{serving_ranks() + 1} MPI ranks were started, but labelling.executor.type is {kind.type}: write mpi, or "
            "start one process"
        )
    if isinstance(kind, ParslExecutorConfig):
        from ideal.labelling.executors.parsl import ParslExecutor

        return ParslExecutor(kind, folder, limits)
    return LocalExecutor(config.workers, folder, *limits, cores=kind.cores)
