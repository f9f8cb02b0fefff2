"""The folder that holds everything a run writes.

    config.yaml                resolved configuration
    provenance.json            versions, git revision, platform, seed, one entry per session
    run.lock                   held (fcntl) while a process runs
    labels.db                  every label and every failure (ideal.labelling.store); `ase db` reads it
    events.jsonl               what happened (ideal.engine.events)
    training.jsonl             one line per training epoch, one more per training (ideal.engine.events)
    trajectories/NAME.extxyz   frames every `write_every` steps, with momenta and, where checked, u
    trajectories/NAME/NN.extxyz  every image of a path, every replica of a ladder
    trajectories/NAME.plumed/, NAME.lammps/  files of these
    substructures.extxyz       every embedded cell; crops.extxyz: the same before optimization
    pairs.jsonl                u against the force error, one line per labelled cell that the model had not learned
    calibration.json           what u is worth in eV/Å, and what the audits say: latest (ideal.engine.calibrating)
    initial_labels.extxyz      what the model was pretrained on (initial_labels.safetensors: the same, exact)
    uncertainty.safetensors    distribution, latest; uncertainty_initial.safetensors after the start-up
    model/  model_initial/     latest and pretrained model; model_run/: before a final training from scratch
    held_out_before.json       held-out file under the pretrained model; held_out_after.json under the final one
    status.json                latest state of every trajectory
    summary.json               the summary of a run that is over
    calculations/              where the reference code works; the folders of failures are kept
    checkpoints/NNNNNN/        complete engine states; checkpoints/LATEST names the valid one

Nothing a user put there is ever deleted. Replaced files are replaced atomically (``storage.py``).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ideal.engine.events import Event, TrainingEnded, TrainingEpoch, plain
from ideal.engine.storage import AppendFile, write_atomically, writing
from ideal.errors import ConfigError, IdealError

LABEL_STORE = "labels.db"
"""Name of the label database in a run directory; the suffix is the one that ``ase db`` knows."""

_held: set[str] = set()  # POSIX locks do not exclude a second user inside this process


class RunDirectory:
    """Layout, lock, append-only files and atomic writes of one run.

    Use `create` or `open`; close it, or use it as a context manager, to release the lock.

    Attributes:
        path: the folder, absolute.

    Example:
        >>> with RunDirectory.create("runs/lithium", config_text) as directory:
        ...     directory.write_json("status.json", {"state": "running"})
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._logs: dict[str, AppendFile] = {}
        self._lock: int | None = None

    # --- opening ------------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | Path, config_text: str) -> RunDirectory:
        """Make the folder of a new run and lock it.

        Args:
            path: the folder; it must be missing or empty.
            config_text: the resolved configuration as YAML.

        Raises:
            ConfigError: the folder exists and holds something (nothing in it is touched), or cannot be made.
            IdealError: another process runs there, or the disk is full.
        """
        directory = cls(path)
        try:
            directory.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise ConfigError(f"{path}: is a file; choose another name for the run directory") from None
        except PermissionError as error:
            raise ConfigError(f"{path}: cannot be made ({error.strerror}); choose another place") from None
        directory._refuse_content()
        directory._acquire()
        try:
            directory._refuse_content()
            for name in ("trajectories", "checkpoints"):
                (directory.path / name).mkdir()
            write_atomically(directory.path / "config.yaml", config_text)
        except BaseException:
            directory.close()
            raise
        return directory

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Lock the folder of an existing run.

        Raises:
            ConfigError: the folder is missing or holds no run.
            IdealError: another process runs there.
        """
        directory = cls(path)
        if not (directory.path / "config.yaml").is_file():
            kind = "holds no run (no config.yaml)" if directory.path.is_dir() else "no such folder"
            raise ConfigError(f"{path}: {kind}; start one with `ideal-run run CONFIG.yaml`")
        directory._acquire()
        for name in ("trajectories", "checkpoints"):
            (directory.path / name).mkdir(exist_ok=True)
        return directory

    def _refuse_content(self) -> None:
        content = sorted(p.name for p in self.path.iterdir() if p.name != "run.lock" and p.suffix != ".tmp")
        if not content:
            return
        other = next(
            candidate
            for number in range(2, 10**9)
            if not (candidate := self.path.with_name(f"{self.path.name}-{number}")).exists()
        )
        remedy = (
            f"continue that run with `ideal-run resume {self.path}`, or "
            if "config.yaml" in content
            else "nothing in it was touched; "
        )
        raise ConfigError(
            f"{self.path}: exists and is not empty ({', '.join(content[:3])}{', ...' if len(content) > 3 else ''}); "
            f"{remedy}choose another name, such as {other}"
        )

    # --- lock ---------------------------------------------------------------------------------------------------------

    def _acquire(self) -> None:
        path = self.path / "run.lock"
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if str(path) in _held:
                raise BlockingIOError
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip() or "unknown"
            if str(path) not in _held:  # closing any descriptor of the file drops this process's own lock
                os.close(descriptor)
            if not isinstance(error, BlockingIOError | PermissionError):
                raise
            raise IdealError(
                f"{self.path}: a run is going on there (process {holder}); wait for it, or stop it with "
                f"`kill {holder}` and continue with `ideal-run resume {self.path}`"
            ) from None
        _held.add(str(path))
        self._lock = descriptor
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Close the files and release the lock."""
        for log in self._logs.values():
            log.close()
        self._logs.clear()
        if self._lock is not None:
            _held.discard(str(self.path / "run.lock"))
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- append-only files --------------------------------------------------------------------------------------------

    def log(self, name: str) -> AppendFile:
        """The append-only file of that name, relative to the folder."""
        if name not in self._logs:
            with writing(self.path / name):
                (self.path / name).parent.mkdir(exist_ok=True)
                self._logs[name] = AppendFile(self.path / name)
        return self._logs[name]

    def write_event(self, event: Event) -> None:
        """Append ``event`` to its file."""
        name = "training.jsonl" if isinstance(event, TrainingEpoch | TrainingEnded) else "events.jsonl"
        self.log(name).append(event.to_json() + "\n")

    def label_store(self) -> Path:
        """The run's label database; that of an earlier version is given its present name."""
        path, before = self.path / LABEL_STORE, self.path / "labels.sqlite"
        if before.is_file() and not path.exists():
            for suffix in ("-wal", "-shm", ""):
                if (old := before.with_name(before.name + suffix)).exists():
                    old.rename(path.with_name(path.name + suffix))
        return path

    def offsets(self) -> dict[str, int]:
        """Length in bytes of every append-only file, after making them durable."""
        for log in self._logs.values():
            log.sync()
        return {name: log.size for name, log in sorted(self._logs.items())}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """Cut every append-only file back to where a checkpoint saw it.

        What stands behind was written after the checkpoint. The resumed run starts from the checkpoint and writes it
        again, in serial mode with the same content, so that no frame or event appears twice.
        """
        names = {"events.jsonl", "training.jsonl", "substructures.extxyz", "crops.extxyz", "pairs.jsonl", *offsets}
        names.update(str(p.relative_to(self.path)) for p in (self.path / "trajectories").rglob("*.extxyz"))
        for name in sorted(names):
            if (self.path / name).exists() or offsets.get(name):
                self.log(name).truncate(offsets.get(name, 0))

    # --- replaced files -----------------------------------------------------------------------------------------------

    def write_json(self, name: str, value: Any, durable: bool = True) -> None:
        """Replace a JSON file atomically.

        Raises:
            IdealError: the disk is full; the old file is untouched.
        """
        text = json.dumps(plain(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        write_atomically(self.path / name, text, durable)

    def read_json(self, name: str) -> Any | None:
        """Content of a JSON file, or None when it is missing."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        return None


def lock_holder(path: str | Path) -> int | None:
    """Process id of the run going on in a folder, None when there is none.

    Args:
        path: the run directory.

    Example:
        >>> lock_holder("runs/lithium") is None
        True
    """
    lock = Path(path).absolute() / "run.lock"
    if str(lock) in _held:
        return os.getpid()
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
        return int(holder) if holder.isdigit() else None
    finally:
        os.close(descriptor)
    return None
