"""From the section ``labelling`` to the executor that it names."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from ideal.config import LabellingConfig, MpiExecutorConfig, ParslExecutorConfig
from ideal.labelling.executors.local import LocalExecutor
from ideal.labelling.executors.worker_process import Limits


class LabelExecutor(Protocol):
    """A `concurrent.futures.Executor` that can also be ended at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args)``: a function of a module; arguments and value are JSON-able."""
        ...

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish the queued tasks and end the workers."""
        ...

    def terminate(self) -> None:
        """End everything at once: queued tasks are canceled, running ones get a `WorkerError` or nothing."""
        ...


def make_executor(config: LabellingConfig, folder: Path) -> LabelExecutor:
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
        from ideal.labelling.executors.mpi import MpiExecutor

        return MpiExecutor(folder, limits)
    if isinstance(kind, ParslExecutorConfig):
        from ideal.labelling.executors.parsl import ParslExecutor

        return ParslExecutor(kind, folder, limits)
    return LocalExecutor(config.workers, folder, *limits, cores=kind.cores)
