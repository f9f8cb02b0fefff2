"""One calculation as files: ``request.json`` in, ``result.json`` out, everything the code prints in ``log.txt``.

`perform` is what an executor runs. It takes the path of the folder and nothing else, so that any executor that
shares the file system (local processes, MPI, a batch system) can carry it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from ideal.errors import IdealError, LabelError
from ideal.labelling.codec import atoms_from_json, atoms_to_json
from ideal.labelling.codes import CodeResult, NotConvergedError, ReferenceCode, make_code
from ideal.labelling.codes.base import first_line

REQUEST, RESULT, LOG = "request.json", "result.json", "log.txt"
LOG_TAIL_LINES = 30
LOG_SUFFIXES = frozenset({".txt", ".log", ".out", ".pwo", ".err", ".abo"})
KEPT_BYTES, LOG_BYTES = 5_000_000, 1_000_000
"""Larger files of a failed calculation are removed (wave functions), or shortened to so much (logs)."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a full disk: they stop the run, which can be resumed, instead of failing a label."""


def write_request(folder: Path, key: str, code: ReferenceCode, atoms: Atoms) -> None:
    """Write what `perform` needs: the key, the code's configuration and the structure, bit for bit."""
    request = {"key": key, "code": code.config.model_dump(mode="json"), "atoms": atoms_to_json(atoms)}
    _write_json(folder / REQUEST, request, durable=False)  # the store knows what was asked


def perform(folder: str) -> None:
    """Calculate the request in ``folder`` and write its result; every failure of the code becomes part of the result.

    Raises:
        OSError: the disk is full, or the folder is gone.
    """
    path = Path(folder)
    request = json.loads((path / REQUEST).read_text())
    result: dict[str, Any] = {"key": request["key"]}
    start = time.perf_counter()
    with output_to(path / LOG):
        try:
            code = _code(json.dumps(request["code"]))
            numbers = _converged(code, atoms_from_json(request["atoms"]), path, result.setdefault("retries", []))
            result.update(
                energy=float(numbers.energy),
                forces=np.asarray(numbers.forces, dtype=np.float64).tolist(),
                stress=None if numbers.stress is None else np.asarray(numbers.stress, np.float64).tolist(),
                energy_kind=numbers.energy_kind,
                converged=numbers.converged,
                entropy=numbers.entropy,
                removed_net_force=numbers.removed_net_force,
            )
        except (Exception, SystemExit) as error:
            # A code may raise anything; whatever it is, it is the cause of this one failed label, except a full disk.
            traceback.print_exc()
            if (number := _full_disk(error)) is not None:
                raise OSError(number, str(error)) from error
            result["error"] = _cause(error, request["code"]["type"])
    result["seconds"] = time.perf_counter() - start
    _collect_garbage()
    _write_json(path / RESULT, result)


def _converged(code: ReferenceCode, atoms: Atoms, folder: Path, retries: list[dict[str, Any]]) -> CodeResult:
    """Calculate, and again with each of the code's retries while the SCF does not converge.

    Each try that failed is appended to ``retries``: what was changed for it, and its cause.
    """
    changes: dict[str, Any] = {}
    remaining = list(code.config.retries)
    while True:
        attempt = code if not changes else _code(json.dumps(code.config.changed(changes).model_dump(mode="json")))
        try:
            return attempt.compute(atoms, folder)
        except NotConvergedError as error:
            retries.append({"changes": changes, "cause": str(error)})
            if not remaining:
                raise
            changes = remaining.pop(0)
            print(f"{error}\ntrying again with {changes}", flush=True)


class Result(NamedTuple):
    """What a calculation left.

    Attributes:
        numbers: the result, or the cause of the failure.
        seconds: wall time, all tries together.
        retries: the tries that did not converge: changes and cause of each.
    """

    numbers: CodeResult | str
    seconds: float = 0.0
    retries: tuple[dict[str, Any], ...] = ()


def read_result(folder: Path, key: str) -> Result:
    """The result in a folder.

    Raises:
        LabelError: there is no result of this key.
    """
    try:
        result = json.loads((folder / RESULT).read_text())
    except (OSError, ValueError) as error:
        raise LabelError(f"the worker left no readable {folder / RESULT} ({first_line(error)})") from error
    if result.get("key") != key:
        raise LabelError(f"{folder / RESULT} belongs to another structure")
    seconds, retries = float(result["seconds"]), tuple(result.get("retries", ()))
    if "error" in result:
        return Result(str(result["error"]), seconds, retries)
    stress = result["stress"]
    numbers = CodeResult(
        energy=result["energy"],
        forces=np.array(result["forces"], dtype=np.float64),
        stress=None if stress is None else np.array(stress, dtype=np.float64),
        energy_kind=result["energy_kind"],
        converged=result.get("converged"),
        entropy=result.get("entropy"),
        removed_net_force=result.get("removed_net_force"),
    )
    return Result(numbers, seconds, retries)


def result_key(folder: Path) -> str | None:
    """The key of the finished result in a folder; None when there is none that can be read."""
    try:
        return str(json.loads((folder / RESULT).read_text())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def trim(folder: Path) -> None:
    """Shorten what a failed calculation left: logs to their last megabyte, other large files away.

    What was removed stands in ``left_out.txt``. A folder that cannot be tidied stays as it is.
    """
    left_out = []
    with contextlib.suppress(OSError):
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
            size = path.stat().st_size
            if size <= KEPT_BYTES:
                continue
            left_out.append(f"{path.relative_to(folder)}: {size} bytes")
            if path.suffix in LOG_SUFFIXES:
                end = tail_bytes(path, LOG_BYTES)
                path.write_bytes(end)
                left_out[-1] += f", the last {len(end)} are kept"
            else:
                path.unlink()
        if left_out:
            (folder / "left_out.txt").write_text("\n".join(left_out) + "\n")


def tail_bytes(path: Path, count: int) -> bytes:
    """The last bytes of a file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - count))
        return file.read()


def log_tail(folder: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of every text file that the calculation left, the newest last."""
    parts = []
    with contextlib.suppress(OSError):
        files = [path for path in folder.iterdir() if path.suffix in LOG_SUFFIXES and path.stat().st_size]
        for path in sorted(files, key=lambda path: path.stat().st_mtime):
            parts.append(f"--- {path.name}\n{tail(path, lines)}")
    return "\n".join(parts)


def tail(path: Path, lines: int) -> str:
    """The last lines of a text file; empty when it cannot be read."""
    try:
        text = tail_bytes(path, 400 * lines).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def check_code(config: dict[str, Any], elements: list[str]) -> dict[str, Any]:
    """Run a code's check in a worker: {"lines": [...]} or {"error": message}."""
    try:
        with output_to(Path(os.devnull)):
            return {"lines": _code(json.dumps(config)).check(elements)}
    except IdealError as error:
        return {"error": str(error)}


@functools.lru_cache(maxsize=8)
def _code(config: str) -> ReferenceCode:
    from pydantic import TypeAdapter

    from ideal.config import CodeConfig

    return make_code(TypeAdapter(CodeConfig).validate_python(json.loads(config)))


def _collect_garbage() -> None:
    """Wave functions often hide in reference cycles; the imported modules are searched for them only once."""
    gc.collect()
    if gc.get_freeze_count() == 0:
        gc.freeze()


def _cause(error: BaseException, code: str) -> str:
    if isinstance(error, IdealError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; use fewer labelling.workers or smaller cells"
    return f"{code} raised {first_line(error)}"


def _full_disk(error: BaseException | None) -> int | None:
    """The error number when a full disk is at the root of ``error``."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def _write_json(path: Path, value: Any, durable: bool = True) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        json.dump(value, file)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send what Python, C, Fortran and child processes print to a file."""
    _flush()
    saved = os.dup(1), os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        _flush()
        for descriptor, original in zip(saved, (1, 2), strict=True):
            os.dup2(descriptor, original)
            os.close(descriptor)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
