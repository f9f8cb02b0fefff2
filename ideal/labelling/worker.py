"""A worker process: ``python -m ideal.labelling.worker PARENT_PID [--memory GB] [--cores 0,1]``, started by
`ideal.labelling.executors.worker_process`.

It leads its own process group and is two processes. The small one watches: when its parent is gone, however it
died, it ends the whole group, so that no calculation (nor a program that it started) outlives its run; when the group
takes more memory than allowed, it ends it and says so. The other serves: it reads one JSON line per task from
standard input, ``{"function": "module:name", "arguments": [...]}``,
and answers with one line ``{"value": ...}`` or ``{"error": ..., "errno": ...}``. It stays alive between tasks, so
that a code is imported once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

POLL_SECONDS = 0.5
MEMORY_POLL_SECONDS = 0.1
MEMORY_POLL_SHARE = 0.02
"""Largest share of a core that is spent on adding up the group's memory, on machines with many processes."""
GRACE_SECONDS = 2.0
EXIT_MEMORY = 77
"""Exit code of a worker whose group exceeded its memory; the last line of its log says by how much."""


def main() -> None:
    """Split into watcher and server; never returns."""
    parser = argparse.ArgumentParser(prog="python -m ideal.labelling.worker")
    parser.add_argument("parent", type=int)
    parser.add_argument("--memory", type=float)
    parser.add_argument("--cores")
    arguments = parser.parse_args()
    if arguments.cores:
        os.sched_setaffinity(0, {int(core) for core in arguments.cores.split(",")})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = os.fork()
    if child:
        _watch(child, arguments.parent, arguments.memory)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    _serve()


def _watch(child: int, parent: int, memory: float | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    while True:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            break
        if os.getppid() != parent:
            os.killpg(0, signal.SIGTERM)
            time.sleep(GRACE_SECONDS)
            os.killpg(0, signal.SIGKILL)
        pause = POLL_SECONDS
        if memory is not None:
            start = time.monotonic()
            if (used := group_memory(os.getpgrp())) > memory:
                print(
                    f"used {used:.3g} GB of memory, more than the limit of {memory:g} GB", file=sys.stderr, flush=True
                )
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                os._exit(EXIT_MEMORY)  # the rest of the group is ended by whoever reads this
            pause = max(MEMORY_POLL_SECONDS, (time.monotonic() - start) / MEMORY_POLL_SHARE)
        signal.sigtimedwait({signal.SIGCHLD}, pause)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)


def group_memory(group: int) -> float:
    """Private memory of all processes of a process group in GB."""
    pages = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):  # it ended meanwhile
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                resident, shared = (folder / "statm").read_text().split()[1:3]
                pages += int(resident) - int(shared)
    return pages * resource.getpagesize() / 1e9


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    requests = os.fdopen(os.dup(0), "r")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)

    def answer(value: dict[str, object]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    with contextlib.suppress(BrokenPipeError):
        import ideal.labelling.task  # noqa: F401  (the time limit of a task does not pay for this import)

        answer({"ready": os.getpid()})
        for line in requests:
            request = json.loads(line)
            module, _, name = request["function"].partition(":")
            try:
                value = getattr(importlib.import_module(module), name)(*request["arguments"])
                answer({"value": value})
            except Exception as error:
                # The caller learns of every failure; what it means is decided there.
                traceback.print_exc()
                answer({"error": f"{type(error).__name__}: {error}", "errno": getattr(error, "errno", None)})


if __name__ == "__main__":
    main()
