"""Where calculations run: anything with the interface of `concurrent.futures.Executor`, one file each."""

from __future__ import annotations

from ideal.labelling.executors.local import LocalExecutor
from ideal.labelling.executors.make import make_executor, open_executor
from ideal.labelling.executors.relay import ExecutorError
from ideal.labelling.executors.worker_process import WorkerError

__all__ = ["ExecutorError", "LocalExecutor", "WorkerError", "make_executor", "open_executor"]
