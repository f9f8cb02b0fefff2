"""Writing files so that a crash, a kill or a full disk never leaves a half-written one behind.

A replaced file is written under a temporary name in the same folder, synced, and renamed over the old one; the folder
is synced so that the rename itself survives a power cut. An append-only file is never rewritten: a checkpoint records
how long it was, and a resumed run cuts it back to that length.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ideal.errors import IdealError

_FULL = {errno.ENOSPC, errno.EDQUOT}


class DiskFullError(IdealError):
    """A file of the run could not be written because the disk or the quota is full."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn "no space left" of the block into an `IdealError` that names ``path`` and the remedy."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise disk_full(error.filename or path) from error


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that the disk or the quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False


def disk_full(path: str | Path) -> DiskFullError:
    """The error for a full disk or quota at ``path``."""
    return DiskFullError(
        f"{path}: cannot be written ({os.strerror(errno.ENOSPC)}); free some space, then continue with "
        "`ideal-run resume`; everything written before is intact"
    )


def sync_directory(folder: Path) -> None:
    """Make renames and new names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make every file below ``folder``, and the folders themselves, durable."""
    for parent, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(parent) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(parent))


def write_atomically(path: Path, data: bytes | str, durable: bool = True) -> None:
    """Replace ``path`` by ``data``; a reader sees the old content or the new one, never a mixture.

    Args:
        path: the file; its folder must exist.
        data: the content; text is written as UTF-8.
        durable: also survive a power cut (two syncs); not worth its time for a progress file.

    Raises:
        IdealError: the disk is full; the old file is untouched.
    """
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync_directory(path.parent)


class AppendFile:
    """A file that only grows, whose length is part of every checkpoint.

    Args:
        path: the file; made when missing.

    Example:
        >>> log = AppendFile(folder / "events.jsonl")
        >>> log.append("one line\\n")
        >>> log.size
        9
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def append(self, data: bytes | str) -> None:
        """Write at the end.

        Raises:
            IdealError: the disk is full; a part of ``data`` may stand at the end, which a resumed run cuts off.
        """
        view = memoryview(data.encode() if isinstance(data, str) else data)
        with writing(self.path):
            while view:
                view = view[self._file.write(view) or 0 :]

    def sync(self) -> None:
        """Make everything appended so far durable."""
        with writing(self.path):
            os.fsync(self._file.fileno())

    def truncate(self, size: int) -> None:
        """Cut back to ``size`` bytes.

        Raises:
            IdealError: the file is shorter than that, so something else has changed it.
        """
        if self.size < size:
            raise IdealError(
                f"{self.path}: has {self.size} bytes but the last checkpoint saw {size}; another program has "
                "shortened it: restore the file, then run `ideal-run resume` again"
            )
        self._file.truncate(size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
