"""What MPI and Parsl share: tasks go to a process elsewhere, which runs each in a worker process of its own.

    submit -> queue here -> `serve` in a rank or a Parsl worker -> `WorkerProcess` below it -> outcome -> future

The process elsewhere only waits, so that it can end the calculation, with every program that it started, when it
exceeds a limit, when it is called off, or when the process itself dies. What travels is plain: a task is names,
numbers and text; an outcome is a JSON value or an error's text.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future
from pathlib import Path
from typing import Any

from ideal.errors import LabelError
from ideal.labelling.executors.local import request_of
from ideal.labelling.executors.outcomes import Outcomes
from ideal.labelling.executors.worker_process import Limits, WorkerError, WorkerProcess, module_paths

ANSWER_SECONDS = 10.0
"""How long termination waits for those who were called off to say so."""

_workers: dict[str, WorkerProcess] = {}  # of this rank or Parsl worker: one, made for its last task


class ExecutorError(LabelError):
    """The place where calculations run is gone or cannot be reached; that says nothing about the calculation."""


class RelayExecutor(Executor):
    """Hands tasks to processes elsewhere, at most one for each of them, and keeps the rest here.

    Subclasses give `_send`. A task that was handed over counts as running, and can no longer be canceled.

    Args:
        folder: where workers keep their logs; seen by all machines.
        limits: of each task.
        slots: tasks that are handed over at once.
    """

    def __init__(self, folder: Path, limits: Limits, slots: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._limits = limits
        self._stop = folder.resolve() / f".stop-{uuid.uuid4().hex}"
        self._common = {
            "logs": str(folder.resolve()),
            "limits": list(limits),
            "stop": str(self._stop),
            "paths": module_paths(),
            "folder": str(Path.cwd()),
        }
        self._slots = slots
        self._waiting: deque[tuple[Future[Any], dict[str, Any]]] = deque()
        self._under_way: set[Future[Any]] = set()
        self._closed = False
        self._changed = threading.Condition()
        self._outcomes = Outcomes()

    @abstractmethod
    def _send(self, task: dict[str, Any]) -> Future[dict[str, Any]]:
        """Let a process elsewhere run ``serve(task)``."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args)`` elsewhere; ``fn`` is a function of a module, arguments and value are JSON-able."""
        task = {**self._common, "request": request_of(fn, args, kwargs)}
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the executor is shut down: make a new one")
            self._waiting.append((future, task))
        self._hand_over()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish the queued tasks; with ``cancel_futures`` only the running ones."""
        with self._changed:
            self._closed = True
            canceled = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
        for future, _ in canceled:
            future.cancel()
        if wait:
            with self._changed:
                self._changed.wait_for(lambda: not self._waiting and not self._under_way)
            self._outcomes.close()

    def terminate(self) -> None:
        """End everything: queued tasks are canceled, running ones are called off.

        What nobody answers for, because no process elsewhere took it yet, gets a `WorkerError` after a while.
        """
        with contextlib.suppress(OSError):  # a full disk: they end with the processes that watch over them
            self._stop.touch()
        RelayExecutor.shutdown(self, wait=False, cancel_futures=True)
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, ANSWER_SECONDS)
            forgotten, self._under_way = self._under_way, set()
        for future in forgotten:
            self._outcomes.put(future, None, WorkerError("called off before it started: the run ended"))
        self.shutdown(wait=True)
        self._stop.unlink(missing_ok=True)

    def _hand_over(self) -> None:
        """Send what there is room for."""
        while True:
            with self._changed:
                if not self._waiting or len(self._under_way) >= self._slots:
                    return
                future, task = self._waiting.popleft()
                if not future.set_running_or_notify_cancel():
                    self._changed.notify_all()
                    continue
                self._under_way.add(future)
            try:
                sent = self._send(task)
            except Exception as error:
                # The engine below may raise anything; whatever it is, it refused this task.
                sent = Future()
                sent.set_exception(error)
            sent.add_done_callback(lambda done, future=future: self._take(future, done))  # type: ignore[misc]

    def _take(self, future: Future[Any], done: Future[dict[str, Any]]) -> None:
        """Pass an outcome on, and send the next task."""
        value: Any = None
        cause: LabelError | None = None
        try:
            outcome = done.result()
        except (Exception, CancelledError) as error:
            cause = ExecutorError(f"{type(error).__name__}: {error}")
        else:
            if "error" in outcome:
                cause = WorkerError(outcome["error"], outcome["seconds"], outcome["errno"], outcome["limit"])
            else:
                value = outcome["value"]
        with self._changed:
            if future not in self._under_way:
                return  # `terminate` has answered for it
            self._outcomes.put(future, value, cause)
            self._under_way.discard(future)
            self._changed.notify_all()
        self._hand_over()


def serve(task: Mapping[str, Any]) -> dict[str, Any]:
    """Run one task in the worker process below this one (in the rank, or the Parsl worker).

    Args:
        task: request, limits, where logs go and modules are, and the file whose appearance calls the task off.

    Returns:
        ``{"value": ...}`` or ``{"error": cause, "seconds": ..., "errno": ..., "limit": ...}``.
    """
    stop = Path(task["stop"])
    try:
        value = _worker_for(task).call(task["request"], stop.exists)
    except WorkerError as error:
        _end_workers()
        return {"error": str(error), "seconds": error.seconds, "errno": error.errno, "limit": error.limit}
    return {"value": value}


def _worker_for(task: Mapping[str, Any]) -> WorkerProcess:
    """The worker of the last task when it still lives and was made alike, else a new one."""
    kind = repr([task[name] for name in ("logs", "limits", "paths", "folder")])
    worker = _workers.get(kind)
    if worker is None or not worker.alive():
        _end_workers()
        log = Path(task["logs"]) / f"worker-{socket.gethostname()}-{os.getpid()}.log"
        worker = WorkerProcess(log, Limits(*task["limits"]), paths=task["paths"], folder=task["folder"])
        _workers[kind] = worker
        worker.wait_ready()
    return worker


def _end_workers() -> None:
    while _workers:
        _workers.popitem()[1].end()
