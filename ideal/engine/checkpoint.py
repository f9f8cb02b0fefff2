"""Checkpoints: complete states of the engine, each a folder that exists whole or not at all.

A checkpoint is written under a temporary name, synced, renamed, and only then named by ``LATEST``; a crash at
any moment leaves ``LATEST`` on a complete one. The last three are kept. Older ones, a folder newer than ``LATEST``
(a crash came between the rename and ``LATEST``) and unfinished temporary folders are this module's own superseded
state and are removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ideal.engine.storage import sync_directory, sync_tree, write_atomically, writing
from ideal.errors import IdealError

KEEP = 3


class Checkpoints:
    """The ``checkpoints`` folder of a run.

    Args:
        folder: the folder; it must exist.

    Example:
        >>> checkpoints = Checkpoints(folder)
        >>> with checkpoints.writing() as part:
        ...     write_state(part / "state.safetensors", {"step": 10})
        >>> checkpoints.latest()
        PosixPath('.../000001')
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def latest_number(self) -> int:
        """Number of the checkpoint that ``LATEST`` names; 0 when there is none."""
        try:
            return int((self.folder / "LATEST").read_text())
        except FileNotFoundError:
            return 0
        except ValueError as error:
            raise IdealError(
                f"{self.folder / 'LATEST'}: {error}; write the number of a folder beside it, such as 000001"
            ) from None

    def latest(self) -> Path | None:
        """The folder to resume from; None when the run never got to its first checkpoint.

        Raises:
            IdealError: ``LATEST`` names a folder that is not there.
        """
        number = self.latest_number()
        if number == 0:
            return None
        folder = self.folder / f"{number:06d}"
        if not folder.is_dir():
            raise IdealError(
                f"{folder}: is missing although {self.folder / 'LATEST'} names it; write the number of another folder "
                "there, or start a new run"
            )
        return folder

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """A temporary folder to fill; it becomes the latest checkpoint when the block ends without an error.

        Raises:
            IdealError: the disk is full; the earlier checkpoints are intact.
        """
        number = self.latest_number() + 1
        final = self.folder / f"{number:06d}"
        temporary = self.folder / f".{number:06d}.tmp"
        self._discard_superseded(number)
        with writing(temporary):
            temporary.mkdir()
            try:
                yield temporary
                sync_tree(temporary)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            os.rename(temporary, final)  # noqa: PTH104
            sync_directory(self.folder)
            write_atomically(self.folder / "LATEST", f"{number:06d}\n")

    def _discard_superseded(self, number: int) -> None:
        for entry in self.folder.iterdir():
            unfinished = entry.name.startswith(".") and entry.name.endswith(".tmp")
            name = entry.name if entry.name.isdigit() else ""
            superseded = bool(name) and not number - KEEP < int(name) < number
            if unfinished or superseded:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
