"""Where calculations run: anything with the interface of `concurrent.futures.Executor`, one file each."""

from __future__ import annotations

from ideal.labelling.executors.local import LocalExecutor, WorkerError

__all__ = ["LocalExecutor", "WorkerError"]
