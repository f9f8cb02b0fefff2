"""Worker processes on this machine, with limits for each task.

Each worker is a `WorkerProcess` with its own log, started when it is first needed and used again for the next task.
When a task exceeds a limit, or its worker dies, the task's future gets a `WorkerError`, and the next task gets a new
worker.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from ideal.errors import LabelError
from ideal.labelling.executors.outcomes import Outcomes
from ideal.labelling.executors.worker_process import Limits, WorkerError, WorkerProcess

_Task = tuple["Future[Any]", dict[str, Any]]


def request_of(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call as a worker process reads it.

    Raises:
        LabelError: keyword arguments, or a function that is not a module's own.
    """
    if kwargs:
        raise LabelError(f"an executor of labels takes positional arguments only, not {sorted(kwargs)}")
    if "." in fn.__qualname__ or fn.__qualname__.startswith("<"):
        raise LabelError(f"{fn.__qualname__} of {fn.__module__} cannot be named to a worker: give a module's function")
    return {"function": f"{fn.__module__}:{fn.__qualname__}", "arguments": list(args)}


class LocalExecutor(Executor):
    """Run functions of modules in worker processes.

    Args:
        workers: tasks that run at once.
        folder: where each worker keeps its log, ``worker-N.log``.
        timeout: time limit of one task in s; None: none.
        memory: memory limit of one task and its programs in GB; None: none.
        threads: threads of the numerical libraries in a worker.
        cores: cores of its own that each worker is bound to; None: not bound.

    Raises:
        LabelError: fewer than one worker, or more cores than this process may use.

    Example:
        >>> with LocalExecutor(2, Path("work"), timeout=60) as executor:    # doctest: +SKIP
        ...     executor.submit(math.sqrt, 2.0).result()
        1.4142135623730951
    """

    def __init__(
        self,
        workers: int,
        folder: Path,
        timeout: float | None = None,
        memory: float | None = None,
        threads: int = 1,
        cores: int | None = None,
    ) -> None:
        if workers < 1:
            raise LabelError(f"labelling.workers is {workers}: at least 1 is needed")
        limits = Limits(timeout, memory, threads)
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._outcomes = Outcomes()
        self._lock = threading.Lock()
        self._closed = False
        self._slots = [
            _Slot(number, folder / f"worker-{number}.log", limits, bound, self._tasks, self._outcomes)
            for number, bound in enumerate(core_shares(workers, cores))
        ]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args)`` in a worker; ``fn`` is a function of a module, arguments and value are JSON-able."""
        request = request_of(fn, args, kwargs)
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor is shut down: make a new one")
            future: Future[Any] = Future()
            self._tasks.put((future, request))
            for slot in self._slots:
                slot.ensure_started()
        return future

    def processes(self) -> list[int]:
        """Process ids of the workers that are alive, one per slot (the process that calculates)."""
        return [slot.pid for slot in self._slots if slot.pid]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish the queued tasks and end the workers; with ``cancel_futures`` only the running ones."""
        self._close(cancel_futures)
        if wait:
            self._join()

    def terminate(self) -> None:
        """End everything at once; running tasks get a `WorkerError`, queued ones are canceled."""
        self._close(cancel_futures=True)
        for slot in self._slots:
            slot.stop()
        self._join()

    def _close(self, cancel_futures: bool) -> None:
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._drain()
            for _ in self._slots:
                self._tasks.put(None)

    def _join(self) -> None:
        for slot in self._slots:
            slot.join()
        self._outcomes.close()

    def _drain(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None:
                    task[0].cancel()


def core_shares(workers: int, cores: int | None) -> list[list[int] | None]:
    """The cores of each worker: disjoint shares of those that this process may use.

    Raises:
        LabelError: there are not enough.

    Example:
        >>> core_shares(2, 1)  # doctest: +SKIP
        [[0], [1]]
    """
    if cores is None:
        return [None] * workers
    usable = sorted(os.sched_getaffinity(0))
    if workers * cores > len(usable):
        raise LabelError(
            f"{workers} workers with {cores} cores each (labelling.executor.cores) exceed the {len(usable)} cores that "
            "this process may use; lower labelling.workers, or leave cores out"
        )
    return [usable[number * cores : (number + 1) * cores] for number in range(workers)]


class _Slot:
    """One thread that owns one worker process at a time."""

    def __init__(
        self,
        number: int,
        log: Path,
        limits: Limits,
        cores: list[int] | None,
        tasks: queue.SimpleQueue[_Task | None],
        outcomes: Outcomes,
    ) -> None:
        self._log = log
        self._limits = limits
        self._cores = cores
        self._tasks = tasks
        self._outcomes = outcomes
        self._worker: WorkerProcess | None = None
        self._stopping = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"labelling-{number}", daemon=True)

    @property
    def pid(self) -> int | None:
        worker = self._worker
        return worker.pid if worker else None

    def ensure_started(self) -> None:
        if not self._thread.ident:
            self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            if self._worker:
                self._worker.signal(signal.SIGTERM)

    def join(self) -> None:
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, request = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                value = self._ready_worker().call(request, lambda: self._stopping)
            except Exception as error:
                # Whatever went wrong belongs to this task; the thread goes on with the next.
                self._end_worker()
                self._outcomes.put(future, None, error)
            else:
                self._outcomes.put(future, value)
        self._end_worker()

    def _ready_worker(self) -> WorkerProcess:
        if self._worker is None or not self._worker.alive():
            self._end_worker()
            with self._lock:
                if self._stopping:
                    raise WorkerError("the labeller was closed")
                self._worker = WorkerProcess(self._log, self._limits, self._cores)
            self._worker.wait_ready()
        return self._worker

    def _end_worker(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker:
            worker.end()
