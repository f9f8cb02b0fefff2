"""What every executor of labels does, as functions that take a way to make one; `test_executors` runs them all.

Run as a program it does so below ``mpiexec``: ``mpiexec -n 3 python executor_contract.py FOLDER``.
"""

from __future__ import annotations

import math
import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor
from pathlib import Path

from ideal.labelling.executors import WorkerError
from ideal.labelling.executors.worker_process import Limits

Make = Callable[[Limits], Executor]
"""Makes an executor of two workers with these limits."""
PATIENCE = 200.0
"""Seconds after which what has not happened will not: far more than a busy machine needs."""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def hang(file: str) -> None:
    """Start a program that ignores SIGTERM, write both process ids to ``file`` and hang."""
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(300)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    child.stdout.readline()
    Path(f"{file}.tmp").write_text(f"{child.pid} {os.getpid()}")
    Path(f"{file}.tmp").rename(file)
    time.sleep(300)


def ignore_sigterm(file: str) -> None:
    """Hang, and end for nothing but SIGKILL."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(file).touch()
    time.sleep(300)


def hang_once(file: str) -> str:
    """Like `hang`; but not the second time."""
    if Path(file).exists():
        return "the second time"
    hang(file)
    raise AssertionError("not reached")


def mark(file: str, seconds: float) -> str:
    """Leave a file, wait, and return its name."""
    Path(file).touch()
    time.sleep(seconds)
    return file


def mark_when(file: str, gate: str) -> str:
    """Leave a file as soon as there is another one, and return its name."""
    while not Path(gate).exists():
        time.sleep(0.02)
    Path(file).touch()
    return file


def take_memory(gigabytes: float) -> None:
    """Let a program below this process take memory, bit by bit, and keep it."""
    program = f"""
import time
kept = [bytearray(b'x') * 20_000_000 for _ in range({int(gigabytes * 50)}) if not time.sleep(0.05)]
time.sleep(300)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def die() -> None:
    """End as the kernel ends a process when memory is out."""
    os.kill(os.getpid(), signal.SIGKILL)


def results_and_exceptions(make: Make, folder: Path) -> None:
    with make(Limits(PATIENCE)) as executor:
        futures = [executor.submit(math.sqrt, float(n)) for n in range(8)]
        wrong = executor.submit(operator.truediv, 1, 0)
        later = executor.submit(os.getenv, "OMP_NUM_THREADS")
        assert [future.result(PATIENCE) for future in futures] == [math.sqrt(n) for n in range(8)]
        assert "ZeroDivisionError: division by zero" in str(wrong.exception(PATIENCE))
        assert later.result(PATIENCE) == "1"
        for bad in (lambda: executor.submit(math.pow, x=1), lambda: executor.submit(lambda: 1)):
            try:
                bad()
            except Exception as error:
                assert "positional" in str(error) or "cannot be named" in str(error)
            else:
                raise AssertionError("accepted what no worker can be told")
    try:
        executor.submit(os.getpid)
    except RuntimeError as error:
        assert "shut down" in str(error)
    else:
        raise AssertionError("a closed executor took a task")


def what_was_asked_first_need_not_end_first(make: Make, folder: Path) -> None:
    ended: list[str] = []
    with make(Limits(PATIENCE)) as executor:
        executor.submit(math.sqrt, 1.0).result(PATIENCE)
        slow = executor.submit(mark_when, str(folder / "slow"), str(folder / "go on"))
        quick = [executor.submit(mark, str(folder / f"quick-{n}"), 0.0) for n in range(3)]
        for future in [slow, *quick]:
            future.add_done_callback(lambda future: ended.append(Path(future.result()).name))
        eventually(lambda: len(ended) == 3)
        (folder / "go on").touch()
    assert ended[-1] == "slow" and sorted(ended[:-1]) == [f"quick-{n}" for n in range(3)]


def time_limit_ends_all_that_was_started(make: Make, folder: Path) -> None:
    with make(Limits(5)) as executor:
        future = executor.submit(hang, str(folder / "pids"))
        error = future.exception(PATIENCE)
        assert isinstance(error, WorkerError) and "time limit of 5 s" in str(error), error
        assert 5 <= error.seconds < PATIENCE and error.limit == "time"
        for pid in (folder / "pids").read_text().split():
            eventually(lambda pid=int(pid): not alive(pid))
        assert executor.submit(math.sqrt, 4.0).result(PATIENCE) == 2.0


def memory_limit_ends_all_that_was_started(make: Make, folder: Path) -> None:
    with make(Limits(PATIENCE, memory=0.4)) as executor:
        error = executor.submit(take_memory, 1.0).exception(PATIENCE)
        assert isinstance(error, WorkerError) and "more than the limit of 0.4 GB" in str(error), error
        assert error.limit == "memory"
        assert executor.submit(math.sqrt, 4.0).result(PATIENCE) == 2.0


def killed_worker_costs_one_task(make: Make, folder: Path) -> None:
    with make(Limits(PATIENCE)) as executor:
        error = executor.submit(die).exception(PATIENCE)
        assert isinstance(error, WorkerError) and "killed by signal 9 (SIGKILL)" in str(error), error
        future = executor.submit(hang, str(folder / "pids"))
        eventually((folder / "pids").exists)
        program, worker = (int(pid) for pid in (folder / "pids").read_text().split())
        os.kill(worker, signal.SIGKILL)
        assert "killed by signal 9" in str(future.exception(PATIENCE))
        eventually(lambda: not alive(program))
        assert executor.submit(math.sqrt, 4.0).result(PATIENCE) == 2.0


def canceled_tasks_never_run(make: Make, folder: Path) -> None:
    with make(Limits(PATIENCE)) as executor:
        gate = folder / "go on"
        busy = [executor.submit(mark_when, str(folder / f"busy-{n}"), str(gate)) for n in range(2)]
        queued = [executor.submit(mark, str(folder / f"queued-{n}"), 0.0) for n in range(4)]
        assert queued[1].cancel() and queued[2].cancel()
        try:
            queued[1].result(PATIENCE)
        except CancelledError:
            pass
        else:
            raise AssertionError("a canceled task has a result")
        gate.touch()
        assert [Path(future.result(PATIENCE)).name for future in (*busy, queued[0], queued[3])][-1] == "queued-3"
    assert sorted(file.name for file in folder.iterdir() if file.name.startswith("queued")) == ["queued-0", "queued-3"]


def shutdown_finishes_and_termination_does_not(make: Make, folder: Path) -> None:
    executor = make(Limits(PATIENCE))
    futures = [executor.submit(mark, str(folder / f"finished-{n}"), 0.2) for n in range(4)]
    executor.shutdown()
    assert all(future.done() and not future.exception() for future in futures)
    executor = make(Limits(PATIENCE))
    running = executor.submit(hang, str(folder / "pids"))
    eventually((folder / "pids").exists)
    executor.submit(math.sqrt, 1.0).result(PATIENCE)  # the other worker is there too
    others = [executor.submit(mark, str(folder / f"other-{n}"), PATIENCE) for n in range(3)]
    start = time.monotonic()
    executor.terminate()
    executor.terminate()
    assert time.monotonic() - start < PATIENCE / 2
    assert isinstance(running.exception(5), WorkerError)
    assert others[1].cancelled() and others[2].cancelled()
    for pid in (folder / "pids").read_text().split():
        eventually(lambda pid=int(pid): not alive(pid))


def termination_waits_for_no_code_that_ignores_it(make: Make, folder: Path) -> None:
    executor = make(Limits())
    future = executor.submit(ignore_sigterm, str(folder / "deaf"))
    eventually((folder / "deaf").exists)
    start = time.monotonic()
    executor.terminate()
    assert time.monotonic() - start < PATIENCE / 2 and isinstance(future.exception(5), WorkerError)


CONTRACT = (
    results_and_exceptions,
    what_was_asked_first_need_not_end_first,
    time_limit_ends_all_that_was_started,
    memory_limit_ends_all_that_was_started,
    killed_worker_costs_one_task,
    canceled_tasks_never_run,
    shutdown_finishes_and_termination_does_not,
    termination_waits_for_no_code_that_ignores_it,
)


def main() -> None:
    """The contract in the ranks of an MPI launch; prints the name of each part that holds."""
    from ideal.labelling.executors.mpi import MpiExecutor, ranks

    with ranks() as is_first:
        if not is_first:
            return
        for part in CONTRACT:
            folder = Path(sys.argv[1]) / part.__name__
            folder.mkdir(parents=True)
            part(lambda limits, folder=folder: MpiExecutor(folder / "work", limits), folder)
            print(f"holds: {part.__name__}", flush=True)


if __name__ == "__main__":
    sys.modules["executor_contract"] = sys.modules["__main__"]
    for function in (hang, ignore_sigterm, mark, mark_when, take_memory, die):
        function.__module__ = "executor_contract"  # as the workers, which find it beside this file, call it
    main()
