"""The processes that LAMMPS runs in, started and told what to do.

LAMMPS is not held in the engine's own process: what ends LAMMPS (a crash, MPI_Abort) must not end a run, its relative
paths count from a folder of its own, and its number of MPI ranks is nobody else's. Each rank connects to a socket of
this process, says a random token, and gets every request; see `ideal.lammps.worker`.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ideal.errors import ConfigError, SamplerError
from ideal.labelling.executors.worker_process import START_SECONDS, module_paths, worker_environment
from ideal.labelling.task import tail
from ideal.lammps.plugin import mpi_library_folder
from ideal.lammps.wire import TOKEN, Arrays, ClosedError, receive, send

_HELLO_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_WAIT_SECONDS = 5.0
_LOG_LINES = 15


class LammpsError(SamplerError):
    """LAMMPS reported an error or died; its processes are gone.

    Attributes:
        at: number of the command that it was busy with, in the request.
    """

    def __init__(self, message: str, at: int = 0) -> None:
        super().__init__(message)
        self.at = at


class Ranks:
    """LAMMPS on some MPI ranks.

    Args:
        folder: where they work; made when missing. What they print goes to ``worker.log`` there.
        ranks: their number.
        launcher: what starts several, with ``{ranks}``.
        threads: OMP_NUM_THREADS of each.
        address: of this machine as the ranks see it; None: loopback.
        potentials: further folder where LAMMPS looks for potential files.

    Raises:
        ConfigError: the launcher is not there, or the address is none of this machine.
        LammpsError: they did not start.

    Example:
        >>> ranks = Ranks(Path("lammps"))                                  # doctest: +SKIP
        >>> ranks.call("commands", commands=["units metal"])               # doctest: +SKIP
        >>> ranks.end()                                                    # doctest: +SKIP
    """

    def __init__(
        self,
        folder: Path,
        ranks: int = 1,
        launcher: str = "mpiexec -n {ranks}",
        threads: int = 1,
        address: str | None = None,
        potentials: Path | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "worker.log"
        token = secrets.token_hex(32)
        try:
            server = socket.create_server((address or "127.0.0.1", 0))
        except OSError as error:
            raise ConfigError(f"sampler.address {address!r}: {error}; name an address of this machine") from error
        with server:
            host, port = server.getsockname()[:2]
            command = [sys.executable, "-m", "ideal.lammps.worker", str(host), str(port)]
            if ranks > 1:
                command = launch(launcher, ranks) + command
            environment = _environment(threads, potentials) | {TOKEN: token}
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is the engine's business
                )
            self._connections: list[socket.socket] = []
            self.end = weakref.finalize(self, _end, self._process, self._connections)
            try:
                self._connections += self._accept(server, ranks, token)
            except BaseException:
                self.end()
                raise

    def call(self, do: str, **request: Any) -> list[tuple[dict[str, Any], Arrays]]:
        """Have every rank do something.

        Returns:
            Their answers, by rank.

        Raises:
            LammpsError: LAMMPS reported an error on one of them, or one died; all are ended.
        """
        try:
            for connection in self._connections:
                send(connection, {"do": do, **request})
            return self._answers()
        except (OSError, ClosedError) as error:
            raise self._death(str(error)) from error
        except BaseException:
            self.end()
            raise

    def _answers(self) -> list[tuple[dict[str, Any], Arrays]]:
        """One answer of each rank, taken as they come: where one reports an error the others may never answer."""
        answers: dict[int, tuple[dict[str, Any], Arrays]] = {}
        while len(answers) < len(self._connections):
            waiting = [c for number, c in enumerate(self._connections) if number not in answers]
            ready = select.select(waiting, [], [], _LOOK_SECONDS)[0]
            if not ready and self._process.poll() is not None:
                raise ClosedError(f"exit status {self._process.returncode}")
            for connection in ready:
                header, arrays = receive(connection)
                if "error" in header:
                    raise LammpsError(header["error"], header["at"])
                answers[self._connections.index(connection)] = header, arrays
        return [answers[number] for number in range(len(self._connections))]

    def _accept(self, server: socket.socket, ranks: int, token: str) -> list[socket.socket]:
        """The connections of all ranks, by rank; who does not know the token is sent away."""
        server.settimeout(_LOOK_SECONDS)
        known: dict[int, socket.socket] = {}
        deadline = time.monotonic() + START_SECONDS
        while len(known) < ranks:
            if self._process.poll() is not None:
                raise self._death(f"exit status {self._process.returncode}")
            if time.monotonic() > deadline:
                raise LammpsError(f"{len(known)} of {ranks} ranks started within {START_SECONDS:g} s; see {self._log}")
            with contextlib.suppress(TimeoutError):
                connection = server.accept()[0]
                number = _hello(connection, token)
                if number is None:
                    connection.close()
                else:
                    known[number] = connection
        return [known[number] for number in sorted(known)]

    def _death(self, reason: str) -> LammpsError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_WAIT_SECONDS)
        self.end()
        printed = tail(self._log, _LOG_LINES)
        return LammpsError(f"its process died ({reason})" + (f"; {self._log} ends with\n{printed}" if printed else ""))


def launch(launcher: str, ranks: int) -> list[str]:
    """The words that start several ranks.

    Raises:
        ConfigError: the program is not there.
    """
    words = [word.format(ranks=ranks) for word in shlex.split(launcher)]
    program = shutil.which(words[0], path=str(Path(sys.executable).parent)) or shutil.which(words[0])
    if program is None:
        raise ConfigError(
            f"sampler.launcher: there is no program {words[0]!r}; `pip install mpich` has mpiexec; or name another"
        )
    return [program, *words[1:]]


def _environment(threads: int, potentials: Path | None) -> dict[str, str]:
    """That of a worker, with pip's MPI library and a folder of potentials."""
    environment = worker_environment(os.environ, threads, module_paths())
    additions: Mapping[str, Sequence[Path | None]] = {
        "LD_LIBRARY_PATH": [mpi_library_folder()],
        "LAMMPS_POTENTIALS": [potentials],
    }
    for name, folders in additions.items():
        paths = [str(folder) for folder in folders if folder is not None]
        paths += [environment[name]] if environment.get(name) else []
        if paths:
            environment[name] = os.pathsep.join(paths)
    return environment


def _hello(connection: socket.socket, token: str) -> int | None:
    """The rank of who has connected; None for a stranger."""
    connection.settimeout(_HELLO_SECONDS)
    try:
        header, _ = receive(connection)
        if not hmac.compare_digest(str(header["token"]), token):
            return None
        number = int(header["rank"])
    except (OSError, ClosedError, KeyError, ValueError, TypeError, OverflowError, MemoryError, RecursionError):
        return None  # whatever a stranger may say
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return number


def _end(process: subprocess.Popen[bytes], connections: list[socket.socket]) -> None:
    """Hang up, and end the whole group."""
    for connection in connections:
        connection.close()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
