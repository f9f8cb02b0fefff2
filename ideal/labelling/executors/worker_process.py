"""One worker process and the two pipes to it: started when needed, used for many tasks, ended with all it started.

The process leads its own group (`ideal.labelling.worker`). A task that exceeds its time or memory limit, a worker that
dies: the whole group is killed, the programs that the task started included, and the task gets a `WorkerError`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from ideal.errors import LabelError
from ideal.labelling.task import tail
from ideal.labelling.worker import EXIT_MEMORY

START_SECONDS = 300.0
"""Time that a worker process has to start (slow file systems)."""
GRACE_SECONDS = 2.0
"""Time between asking a process group to end and killing it."""
STOP_SECONDS = 0.5
"""How often a task that may be called off looks whether it was."""
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
LAUNCHER_PREFIXES = (
    "PMI_",
    "PMIX_",
    "OMPI_",
    "PRTE_",
    "PRRTE_",
    "HYDI_",
    "HYDRA_",
    "MPI_LOCAL",
    "MPIEXEC_",
    "MV2_COMM",
)
"""Variables by which an MPI launcher talks to the ranks that it started."""


class Limits(NamedTuple):
    """What one calculation may take.

    Attributes:
        timeout: wall time in s; None: none.
        memory: private memory of the whole process group in GB; None: none.
        threads: threads of the numerical libraries.
    """

    timeout: float | None = None
    memory: float | None = None
    threads: int = 1


class WorkerError(LabelError):
    """A task ended without an answer: time limit, memory limit, signal, or a worker that would not start.

    Attributes:
        seconds: wall time that the task had run.
        errno: the operating system's error number where there is one (28: disk full).
        limit: the limit that it exceeded, "time" or "memory"; None: none.
    """

    def __init__(
        self,
        message: str,
        seconds: float = 0.0,
        errno: int | None = None,
        limit: Literal["time", "memory"] | None = None,
    ) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.errno = errno
        self.limit = limit


def worker_environment(environment: Mapping[str, str], threads: int, paths: Iterable[str]) -> dict[str, str]:
    """The environment of a worker and of the programs that it starts.

    What a launcher of ranks left in it is taken out: a worker below a rank is no rank itself, so that a code that calls
    MPI, or is started by ``mpiexec``, starts on its own instead of waiting for a launcher that does not know it.

    Example:
        >>> worker_environment({"PMI_RANK": "1", "HOME": "/root"}, 4, ["/src"])["OMP_NUM_THREADS"]
        '4'
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(LAUNCHER_PREFIXES)}
    return {**kept, **dict.fromkeys(THREADS, str(threads)), "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def module_paths() -> list[str]:
    """Where this process finds its modules, as absolute paths."""
    return [path or str(Path.cwd()) for path in sys.path]


class WorkerProcess:
    """A worker process that has been started; call `wait_ready` before the first `call`.

    Args:
        log: what it and its tasks print.
        limits: of each task.
        cores: cores that it is bound to, with all it starts; None: not bound.
        paths: where its Python looks for modules; None: where this process does.
        folder: where it works; None: here.

    Raises:
        WorkerError: it cannot be started.

    Example:
        >>> worker = WorkerProcess(Path("worker.log"), Limits(timeout=60))      # doctest: +SKIP
        >>> worker.wait_ready()                                                # doctest: +SKIP
        >>> worker.call({"function": "math:sqrt", "arguments": [2.0]})          # doctest: +SKIP
        1.4142135623730951
    """

    def __init__(
        self,
        log: Path,
        limits: Limits,
        cores: Iterable[int] | None = None,
        paths: Iterable[str] | None = None,
        folder: str | None = None,
    ) -> None:
        self.pid: int | None = None
        self._log = log
        self._limits = limits
        command = [sys.executable, "-m", "ideal.labelling.worker", str(os.getpid())]
        if limits.memory is not None:
            command += ["--memory", repr(limits.memory)]
        if cores is not None:
            command += ["--cores", ",".join(str(core) for core in cores)]
        paths = module_paths() if paths is None else paths
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as stderr:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=worker_environment(os.environ, limits.threads, paths),
                    cwd=folder if folder is not None and Path(folder).is_dir() else None,
                    start_new_session=True,
                )
        except OSError as error:
            raise WorkerError(f"cannot start a worker with its log {log}: {error}") from error
        self._buffer = b""

    def alive(self) -> bool:
        """Whether it still runs."""
        return not self._leader_ended()  # not reaped: `end` needs its id for the rest of the group

    def wait_ready(self) -> None:
        """Wait until the process has imported what a task needs.

        Raises:
            WorkerError: it died, or took too long.
        """
        try:
            self.pid = self._answer(time.monotonic(), START_SECONDS, None)["ready"]
        except WorkerError as error:
            if error.limit != "time":
                raise
            raise WorkerError(
                f"the worker did not start within {START_SECONDS:g} s (a slow file system, too little memory?); "
                f"see {self._log}",
                error.seconds,
            ) from None

    def call(self, request: Mapping[str, Any], stop: Callable[[], bool] | None = None) -> Any:
        """Run one task and return its value.

        Args:
            request: ``{"function": "module:name", "arguments": [...]}``.
            stop: asked every half second; the task is ended when it says so.

        Raises:
            WorkerError: the task raised, exceeded a limit, was called off, or the process died. After any but the first
                the process is to be ended.
        """
        start = time.monotonic()
        pipe: IO[bytes] = self._process.stdin  # type: ignore[assignment]
        try:
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._death(start) from None
        answer = self._answer(start, self._limits.timeout, stop)
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

    def _answer(self, start: float, timeout: float | None, stop: Callable[[], bool] | None) -> dict[str, Any]:
        descriptor = self._process.stdout.fileno()  # type: ignore[union-attr]
        while b"\n" not in self._buffer:
            left = None if timeout is None else start + timeout - time.monotonic()
            if left is not None and left <= 0:
                raise WorkerError(
                    f"exceeded the time limit of {timeout:g} s and was ended; raise labelling.timeout "
                    "or use smaller cells",
                    time.monotonic() - start,
                    limit="time",
                )
            if stop is not None:
                if stop():
                    raise WorkerError("called off: the run ended", time.monotonic() - start)
                left = STOP_SECONDS if left is None else min(left, STOP_SECONDS)
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
        last = tail(self._log, 1)
        if code == EXIT_MEMORY:
            return WorkerError(f"{last}; raise labelling.memory or use smaller cells", seconds, limit="memory")
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = "unknown signal"
            hint = "out of memory? use fewer labelling.workers or smaller cells" if code == -9 else "it crashed"
            return WorkerError(f"worker killed by signal {-code} ({name}): {hint}", seconds)
        return WorkerError(f"worker ended with exit code {code}: {last or 'no message'}", seconds)
