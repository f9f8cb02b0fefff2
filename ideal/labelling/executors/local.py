"""Worker processes on this machine, with a time limit for each task.

Each worker is a separate process in its own process group with its own log, started when it is first needed and
used again for the next task. When a task exceeds its time limit, or its worker dies, the whole group is killed (the
programs that the task started included), the task's future gets a `WorkerError`, and the next task gets a new
worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import IO, Any

from ideal.errors import LabelError
from ideal.labelling.task import tail

START_SECONDS = 300.0
"""Time that a worker process has to start (slow file systems)."""
GRACE_SECONDS = 2.0
"""Time between asking a process group to end and killing it."""
ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ),
    "1",
)

_Task = tuple["Future[Any]", dict[str, Any]]


class WorkerError(LabelError):
    """A task ended without an answer: time limit, signal, or a worker that would not start.

    Attributes:
        seconds: wall time that the task had run.
        errno: the operating system's error number where there is one (28: disk full).
    """

    def __init__(self, message: str, seconds: float = 0.0, errno: int | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.errno = errno


class LocalExecutor(Executor):
    """Run functions of modules in worker processes.

    Args:
        workers: tasks that run at once.
        folder: where each worker keeps its log, ``worker-N.log``.
        timeout: time limit of one task in s; None: none.

    Example:
        >>> with LocalExecutor(2, Path("work"), timeout=60) as executor:    # doctest: +SKIP
        ...     executor.submit(math.sqrt, 2.0).result()
        1.4142135623730951
    """

    def __init__(self, workers: int, folder: Path, timeout: float | None = None) -> None:
        if workers < 1:
            raise LabelError(f"labelling.workers is {workers}: at least 1 is needed")
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._slots = [_Slot(number, folder, timeout, self._tasks) for number in range(workers)]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args)`` in a worker; ``fn`` is a function of a module, arguments and value are JSON-able."""
        if kwargs:
            raise LabelError(f"the local executor takes positional arguments only, not {sorted(kwargs)}")
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor is shut down: make a new one")
            future: Future[Any] = Future()
            function = f"{fn.__module__}:{fn.__qualname__}"
            self._tasks.put((future, {"function": function, "arguments": list(args)}))
            for slot in self._slots:
                slot.ensure_started()
        return future

    def processes(self) -> list[int]:
        """Process ids of the workers that are alive, one per slot (the process that calculates)."""
        return [slot.pid for slot in self._slots if slot.pid]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish the queued tasks and end the workers; with ``cancel_futures`` only the running ones."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._drain()
            for _ in self._slots:
                self._tasks.put(None)
        if wait:
            for slot in self._slots:
                slot.join()

    def terminate(self) -> None:
        """End everything at once; running tasks get a `WorkerError`, queued ones are canceled."""
        with self._lock:
            self._closed = True
            self._drain()
            for _ in self._slots:
                self._tasks.put(None)
        for slot in self._slots:
            slot.stop()
        for slot in self._slots:
            slot.join()

    def _drain(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None:
                    task[0].cancel()


class _Slot:
    """One thread that owns one worker process at a time."""

    def __init__(
        self, number: int, folder: Path, timeout: float | None, tasks: queue.SimpleQueue[_Task | None]
    ) -> None:
        self._log = folder / f"worker-{number}.log"
        self._timeout = timeout
        self._tasks = tasks
        self._worker: _Worker | None = None
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
                value = self._ready_worker().call(request, self._timeout)
            except Exception as error:
                # Whatever went wrong belongs to this task; the thread goes on with the next.
                self._end_worker()
                future.set_exception(error)
            else:
                future.set_result(value)
        self._end_worker()

    def _ready_worker(self) -> _Worker:
        if self._worker is None or not self._worker.alive():
            self._end_worker()
            with self._lock:
                if self._stopping:
                    raise WorkerError("the labeller was closed")
                self._worker = _Worker(self._log)
            self._worker.wait_ready()
        return self._worker

    def _end_worker(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker:
            worker.end()


class _Worker:
    """One worker process and the two pipes to it."""

    def __init__(self, log: Path) -> None:
        self.pid: int | None = None
        self._log = log
        paths = [path or str(Path.cwd()) for path in sys.path]
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as stderr:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "ideal.labelling.worker", str(os.getpid())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise WorkerError(f"cannot start a worker with its log {log}: {error}") from error
        self._buffer = b""

    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Wait until the process has started and imported what a task needs."""
        self.pid = self._answer(time.monotonic(), START_SECONDS)["ready"]

    def call(self, request: dict[str, Any], timeout: float | None) -> Any:
        """Run one task and return its value."""
        start = time.monotonic()
        pipe: IO[bytes] = self._process.stdin  # type: ignore[assignment]
        try:
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._death(start) from None
        answer = self._answer(start, timeout)
        if "error" in answer:
            raise WorkerError(str(answer["error"]), time.monotonic() - start, answer["errno"])
        return answer["value"]

    def signal(self, number: int) -> None:
        """Send a signal to the whole group."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def end(self) -> None:
        """End the group: closed pipe, then SIGTERM, then SIGKILL; nothing of it is left."""
        pipe: IO[bytes] = self._process.stdin  # type: ignore[assignment]
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        # The leader is not reaped before the last signal: its id must not name another group.
        while time.monotonic() < deadline and not self._leader_ended():
            time.sleep(0.01)
        self.signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    def _leader_ended(self) -> bool:
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def _answer(self, start: float, timeout: float | None) -> dict[str, Any]:
        descriptor = self._process.stdout.fileno()  # type: ignore[union-attr]
        while b"\n" not in self._buffer:
            left = None if timeout is None else start + timeout - time.monotonic()
            if left is not None and left <= 0:
                raise WorkerError(
                    f"exceeded the time limit of {timeout:g} s and was ended; raise labelling.timeout "
                    "or use smaller cells",
                    time.monotonic() - start,
                )
            if select.select([descriptor], [], [], left)[0]:
                chunk = os.read(descriptor, 65536)
                if not chunk:
                    raise self._death(start)
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _death(self, start: float) -> WorkerError:
        seconds = time.monotonic() - start
        self.end()
        code = self._process.returncode
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = "unknown signal"
            hint = "out of memory? use fewer labelling.workers or smaller cells" if code == -9 else "it crashed"
            return WorkerError(f"worker killed by signal {-code} ({name}): {hint}", seconds)
        last = tail(self._log, 1)
        return WorkerError(f"worker ended with exit code {code}: {last or 'no message'}", seconds)
