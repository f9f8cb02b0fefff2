"""A worker process: ``python -m ideal.labelling.worker PARENT_PID``, started by `ideal.labelling.executors.local`.

It leads its own process group and is two processes. The small one watches: when its parent is gone, however it
died, it ends the whole group, so that no calculation (nor a program that it started) outlives its run. The other
serves: it reads one JSON line per task from standard input, ``{"function": "module:name", "arguments": [...]}``,
and answers with one line ``{"value": ...}`` or ``{"error": ..., "errno": ...}``. It stays alive between tasks, so
that a code is imported once.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback

POLL_SECONDS = 0.5
GRACE_SECONDS = 2.0


def main() -> None:
    """Split into watcher and server; never returns."""
    parent = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = os.fork()
    if child:
        _watch(child, parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    _serve()


def _watch(child: int, parent: int) -> None:
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
        signal.sigtimedwait({signal.SIGCHLD}, POLL_SECONDS)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)


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
