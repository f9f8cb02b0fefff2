"""The labeller: structures in, labels or failures out, each committed to the store before anyone sees it.

    submit -> gate -> worker (own folder, time limit) -> gate -> store -> poll

One failure never ends a run: a calculation that does not converge, runs out of time, crashes or returns absurd
numbers comes back as a `FailedLabel` with its cause and the tail of its log, and its folder is kept without the large
files. The folder of a success is removed. What another process that shares the store calculates is waited for; what a
worker finished while nobody listened is taken in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from ideal.config import LabelGateConfig, LabellingConfig
from ideal.errors import LabelError
from ideal.labelling.circumstances import Circumstances, FailureKind
from ideal.labelling.codes.base import CodeResult, ReferenceCode, first_line
from ideal.labelling.executors.local import LocalExecutor
from ideal.labelling.executors.make import make_executor
from ideal.labelling.executors.relay import ExecutorError
from ideal.labelling.gate import refuse_result, refuse_structure
from ideal.labelling.store import LabelStore
from ideal.labelling.task import (
    NO_SPACE,
    RESULT,
    Result,
    check_code,
    log_tail,
    perform,
    read_result,
    result_key,
    trim,
    write_request,
)
from ideal.records import FailedLabel, Label, structure_key

CHECK_SECONDS = 120.0
"""Time limit of the code's answer to `check_workers`."""
QUEUE_SECONDS = 600.0
"""Longest time that `check_workers` waits for a block of a batch system."""
WAIT_SECONDS = 0.5
"""Longest sleep of `Labeller.wait` before it looks again, so that signals are noticed."""
LOOK_SECONDS = 1.0
"""Time between two looks at labels that others calculate, and at results of workers of an earlier process."""

_Origin = dict[str, Any]


class LabelCounts(NamedTuple):
    """How many labels of this labeller are waiting, being calculated, finished and failed."""

    queued: int
    running: int
    done: int
    failed: int


class Labeller:
    """Hand structures to workers and collect their labels.

    Args:
        code: the reference code.
        store: where every finished label is committed.
        folder: where the calculations work.
        workers: calculations that run at once.
        timeout: time limit of one calculation in s.
        gate: what a structure and a result must satisfy.
        memory: memory limit of one calculation in GB; None: none.
        executor: where `ideal.labelling.task.perform` runs; None: ``workers`` processes on this machine. An executor
            that is given (`mpi4py.futures`, Parsl ...) shares the file system, keeps the limits itself, and is
            closed by its owner.

    Example:
        >>> with LabelStore(path) as store, Labeller(code, store, folder) as labeller:  # doctest: +SKIP
        ...     key = labeller.submit(atoms, {"trajectory": "melt", "step": 40})
        ...     for label in labeller.wait():
        ...         print(label)
    """

    def __init__(
        self,
        code: ReferenceCode,
        store: LabelStore,
        folder: str | Path,
        workers: int = 2,
        timeout: float = 3600.0,
        gate: LabelGateConfig | None = None,
        executor: Executor | None = None,
        memory: float | None = None,
    ) -> None:
        self._code = code
        self._code_name = f"{code.name} {code.settings['version']}"
        self._settings = short_name(code.settings)
        self._store = store
        self._folder = Path(folder).resolve()
        self._gate = gate or LabelGateConfig()
        self._circumstances = Circumstances(code.config, self._gate, timeout, str(self._folder), memory)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LabelError(f"cannot make the folder {self._folder} of the calculations: {error}") from error
        self._local = LocalExecutor(workers, self._folder, timeout, memory) if executor is None else None
        self._executor: Executor = self._local or executor  # type: ignore[assignment]
        self._lock = threading.Condition(threading.RLock())
        self._futures: dict[str, Future[Any]] = {}
        self._elsewhere: dict[str, tuple[Atoms, _Origin]] = {}
        self._left_behind: dict[str, tuple[Atoms, _Origin, list[Path]]] = {}
        self._looked = time.monotonic()
        self._finished: deque[Label | FailedLabel] = deque()
        self._error: LabelError | None = None
        self._done = 0
        self._failed = 0
        self._closed = False
        store.describe_code(self._settings, self._code_name, code.settings)
        self._take_in()

    def submit(self, atoms: Atoms, info: Mapping[str, Any] | None = None, retry: bool = False) -> str:
        """Ask for the label of a structure.

        A structure that is being calculated already is not calculated twice, and comes back once. One that the store
        knows, as a label or as a failure, is ready at the next `poll`.

        Args:
            atoms: the structure; its calculator and constraints play no part.
            info: origin of the structure, JSON-able.
            retry: calculate again what failed before.

        Returns:
            The key of the label.

        Raises:
            LabelError: the request cannot be written (disk full, folder gone).
        """
        atoms = _bare(atoms)
        with np.errstate(invalid="ignore"):
            key = structure_key(atoms, self._code.settings)
        with self._lock:
            if self._closed:
                raise LabelError("the labeller is closed: make a new one")
            if key in self._futures:
                return key
            known = self._store.get(key)
            origin = dict(info or {})
            if isinstance(known, Label):
                self._deliver(self._judged_again(known, origin))
            elif isinstance(known, FailedLabel) and not retry and self._circumstances.confirm(known):
                self._deliver(known)
            elif reason := refuse_structure(atoms, self._gate):
                self._store.request(key, atoms, origin)
                self._commit(self._failure(key, atoms, f"not calculated: {reason}", "refused", origin))
            else:
                self._start(key, atoms, origin)
        return key

    def poll(self) -> list[Label | FailedLabel]:
        """What finished since the last call, in the order of finishing; all of it is in the store already.

        Raises:
            LabelError: a finished label could not be committed (disk full); it is asked again when the run resumes.
        """
        with self._lock:
            self._look()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            finished = list(self._finished)
            self._finished.clear()
        return finished

    def wait(self, timeout: float | None = None) -> list[Label | FailedLabel]:
        """Like `poll`, but wait until at least one label finishes.

        Args:
            timeout: longest wait in s; None: none.

        Returns:
            What finished; empty when nothing is under way or the time is over.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        with self._lock:
            while (self._futures or self._elsewhere) and not self._finished and self._error is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._lock.wait(min(left, WAIT_SECONDS))
                self._look()
            return self.poll()

    def counts(self) -> LabelCounts:
        """How many labels wait, run, are done and failed (since this labeller was made)."""
        with self._lock:
            running = sum(future.running() for future in self._futures.values())
            waiting = len(self._futures) - running + len(self._elsewhere)
            return LabelCounts(waiting, running, self._done, self._failed)

    def close(self) -> None:
        """End the workers; what was not finished stays pending in the store, to be asked again."""
        with self._lock:
            self._closed = True
        if self._local:
            self._local.terminate()
        else:
            for future in list(self._futures.values()):
                future.cancel()
        with self._lock:
            if self._futures:
                with contextlib.suppress(LabelError):  # the store's own close gives them up too
                    self._store.release(list(self._futures))
            self._futures.clear()
            self._elsewhere.clear()
            self._lock.notify_all()

    def __enter__(self) -> Labeller:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _start(self, key: str, atoms: Atoms, info: _Origin) -> None:
        """Calculate a label, or wait for whoever does so already."""
        if self._store.claim(key, atoms, info) == "elsewhere":
            self._elsewhere[key] = (atoms, info)
            return
        before = self._folders(key)
        for old in before:
            # A calculation that finished, but could not be committed before its run ended, is not repeated.
            if (old / RESULT).is_file() and self._refusal(atoms, _read(old, key).numbers) is None:
                self._judge(key, atoms, info, old, None)
                return
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{key[:16]}-", dir=self._folder))
            write_request(folder, key, self._code, atoms)
        except OSError as error:
            raise LabelError(
                f"cannot write the calculation's folder in {self._folder}: {error}; free space or restore the "
                "folder, then `ideal-run resume`"
            ) from error
        unfinished = [old for old in before if not (old / RESULT).is_file()]
        if unfinished:
            self._left_behind[key] = (atoms, info, unfinished)
        future = self._executor.submit(perform, str(folder))
        self._futures[key] = future
        future.add_done_callback(lambda future: self._collect(key, atoms, info, folder, future))

    def _take_in(self) -> None:
        """Commit what workers of an earlier process finished when nobody listened any more."""
        for result in sorted(self._folder.glob(f"*/{RESULT}")):
            key = result_key(result.parent)
            request = self._store.requested(key) if key else None
            known = self._store.get(key) if key else None
            if key is not None and isinstance(known, Label):
                self._clean(key)  # committed, and then the process ended
            if key is None or request is None or known is not None:
                continue
            atoms, left = request.atoms, _read(result.parent, key)
            mine = structure_key(atoms, self._code.settings) == key
            if mine and self._refusal(atoms, left.numbers) is None:
                self._store.put(self._label(key, atoms, request.info, left))
                self._clean(key)

    def _look(self) -> None:
        """See what has become of labels that others calculate, and of calculations of an earlier process."""
        if time.monotonic() - self._looked < LOOK_SECONDS or self._closed:
            return
        self._looked = time.monotonic()
        for key, (atoms, info) in list(self._elsewhere.items()):
            known = self._store.get(key)
            del self._elsewhere[key]
            if isinstance(known, Label):
                self._deliver(self._judged_again(known, info))
            elif isinstance(known, FailedLabel) and self._circumstances.confirm(known):
                self._deliver(known)
            else:  # still under way there, or given up: then it is ours
                self._start(key, atoms, info)
        for key, (atoms, info, folders) in list(self._left_behind.items()):
            done = [old for old in folders if (old / RESULT).is_file()]
            if key not in self._futures:
                del self._left_behind[key]
            elif done and self._refusal(atoms, _read(done[0], key).numbers) is None:
                del self._left_behind[key]
                self._futures.pop(key).cancel()
                self._judge(key, atoms, info, done[0], None)

    def _collect(self, key: str, atoms: Atoms, info: _Origin, folder: Path, future: Future[Any]) -> None:
        """Take one finished calculation (in the thread of the executor)."""
        with self._lock:
            if self._closed or self._futures.get(key) is not future:
                return
        error = ExecutorError("the executor canceled a calculation") if future.cancelled() else future.exception()
        try:
            self._judge(key, atoms, info, folder, error)
        except Exception as problem:
            # A future swallows what its callbacks raise: without this, `wait` would wait for ever.
            self._stop(key, LabelError(f"the result in {folder} could not be judged: {first_line(problem)}"))

    def _judge(self, key: str, atoms: Atoms, info: _Origin, folder: Path, error: BaseException | None) -> None:
        """Make a label or a failure of what a calculation left, and commit it."""
        if error is not None and getattr(error, "errno", None) in NO_SPACE:
            self._stop(key, LabelError(f"no space left for {folder}: {error}; free space, then `ideal-run resume`"))
            return
        if isinstance(error, ExecutorError):
            self._stop(key, ExecutorError(f"the workers are gone: {error}; mend that, then `ideal-run resume`"))
            return
        left = _read(folder, key) if error is None else Result(str(error), float(getattr(error, "seconds", 0.0)))
        cause = self._refusal(atoms, left.numbers)
        if cause is None:
            self._commit(self._label(key, atoms, info, left))
            return
        if left.retries:
            info = {**info, "retries": left.retries, "numerics": self._code.config.numerics()}
            if len(left.retries) > 1:
                cause = f"{cause} ({len(left.retries)} tries with different numerical settings)"
        kind: FailureKind = "refused" if isinstance(left.numbers, CodeResult) else "code"
        if error is not None:
            kind = getattr(error, "limit", None) or "died"
        failure = self._failure(key, atoms, cause, kind, info, folder, left.seconds)
        trim(folder)
        self._commit(failure)

    def _label(self, key: str, atoms: Atoms, info: _Origin, left: Result) -> Label:
        result = left.numbers
        assert isinstance(result, CodeResult)
        more: dict[str, Any] = {
            "entropy": result.entropy,
            "removed_net_force": result.removed_net_force,
            "settings": self._settings,
        }
        if left.retries:
            more["retries"] = left.retries
        return Label(
            key=key,
            atoms=atoms,
            energy=result.energy,
            forces=result.forces,
            stress=result.stress,
            code=self._code_name,
            energy_kind=result.energy_kind,
            seconds=left.seconds,
            info={**info, **{name: value for name, value in more.items() if value is not None}},
        )

    def _failure(
        self,
        key: str,
        atoms: Atoms,
        cause: str,
        kind: FailureKind,
        info: _Origin,
        folder: Path | None = None,
        seconds: float = 0.0,
    ) -> FailedLabel:
        return FailedLabel(
            key=key,
            atoms=atoms,
            cause=cause,
            log_tail=log_tail(folder) if folder else "",
            seconds=seconds,
            info=info,
            code=self._code_name,
            folder=str(folder or ""),
            circumstances=self._circumstances.record(kind),
        )

    def _judged_again(self, label: Label, info: _Origin) -> Label | FailedLabel:
        """A label of the store under today's gate, which may be stricter than that of the run that it comes from."""
        numbers = CodeResult(
            label.energy,
            label.forces,
            label.stress,
            entropy=label.info.get("entropy"),
            removed_net_force=label.info.get("removed_net_force"),
        )
        cause = self._refusal(label.atoms, numbers)
        info = {**label.info, **info}
        if cause is None:
            return replace(label, info=info)
        return self._failure(label.key, label.atoms, f"{cause} (the label stays in the store)", "refused", info)

    def _refusal(self, atoms: Atoms, result: CodeResult | str) -> str | None:
        """Why a result is no label; None when it is one."""
        if isinstance(result, str):
            return result
        reason = refuse_result(atoms, result, self._gate)
        return None if reason is None else f"refused: {reason}"

    def _commit(self, label: Label | FailedLabel) -> None:
        with self._lock:
            try:
                first = None if self._store.put(label) else self._store.get(label.key)
            except LabelError as error:
                self._stop(label.key, error)
                return
            if isinstance(first, Label):  # another process was faster
                self._deliver(self._judged_again(first, dict(label.info)))
                self._clean(label.key)
                return
            self._deliver(label)
            if isinstance(label, Label):
                self._clean(label.key)

    def _clean(self, key: str) -> None:
        for folder in self._folders(key):
            shutil.rmtree(folder, ignore_errors=True)

    def _deliver(self, label: Label | FailedLabel) -> None:
        self._futures.pop(label.key, None)
        if isinstance(label, Label):
            self._done += 1
        else:
            self._failed += 1
        self._finished.append(label)
        self._lock.notify_all()

    def _stop(self, key: str, error: LabelError) -> None:
        """Hand an error of the store or the disk to the next `poll`; ``key`` stays pending."""
        with self._lock:
            self._futures.pop(key, None)
            self._error = self._error or error
            self._lock.notify_all()

    def _folders(self, key: str) -> list[Path]:
        return sorted(self._folder.glob(f"{key[:16]}-*"))


def check_workers(
    code: ReferenceCode, elements: Sequence[str], folder: str | Path, config: LabellingConfig | None = None
) -> list[str]:
    """Start one worker and let it check the code there, as a calculation would find it.

    Args:
        code: the reference code.
        elements: chemical symbols.
        folder: where the worker keeps its log; all machines see it.
        config: names the executor; None: a worker on this machine.

    Returns:
        The lines of `ReferenceCode.check`.

    Raises:
        LabelError: the worker does not start, the code does not answer in it, or no block of the batch system started
            in ten minutes.
        MissingPackageError: the package of the executor is not installed.
    """
    if config is None:
        executor = make_executor(LabellingConfig(code=code.config, workers=1, timeout=CHECK_SECONDS), Path(folder))
    else:
        executor = make_executor(config.model_copy(update={"timeout": CHECK_SECONDS}), Path(folder))
    try:
        future = executor.submit(check_code, code.config.model_dump(mode="json"), list(elements))
        answer = future.result(timeout=QUEUE_SECONDS)
    except TimeoutError:
        raise LabelError(
            f"no worker answered within {QUEUE_SECONDS:g} s: the block still waits in the queue, or dies there (see "
            "the batch system's own commands)"
        ) from None
    finally:
        executor.terminate()
    if "error" in answer:
        raise LabelError(f"in a worker process: {answer['error']}")
    lines: list[str] = answer["lines"]
    return lines


def short_name(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for a code's settings in the info of its labels."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _read(folder: Path, key: str) -> Result:
    try:
        return read_result(folder, key)
    except LabelError as error:
        return Result(str(error))


def _bare(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.set_constraint()
    copy.info = {}
    return copy
