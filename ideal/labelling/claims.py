"""Who calculates what: several processes may share a store, and each label is calculated by one of them.

A process enters itself among the owners and claims a key before it calculates it. Others wait for the answer, and
take the claim over when its owner is gone: at once where they can see the owner's process (same machine), else when its
counter has not moved for `STALE_SECONDS`. The counter is read against the reader's own monotonic clock, so that no
machine's calendar clock plays a part.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

BEAT_SECONDS = 20.0
"""Time between two steps of an owner's counter."""
STALE_SECONDS = 180.0
"""An owner on another machine is taken for dead when its counter has stood still for this long."""

Claim = Literal["mine", "elsewhere"]


class Claims:
    """The claims of one process; every method runs inside the caller's transaction.

    Args:
        place: folder that the calculations run in, for messages.
    """

    def __init__(self, place: str = "") -> None:
        self._place = place
        self._seen: dict[int, tuple[int, float]] = {}
        self.owner: int | None = None

    def claim(self, connection: sqlite3.Connection, key: str) -> Claim:
        """Claim a key; "elsewhere" when a living process has it."""
        row = connection.execute(
            "SELECT o.id, o.host, o.pid, o.started, o.beat FROM claims c JOIN owners o ON o.id = c.owner "
            "WHERE c.key = ?",
            (key,),
        ).fetchone()
        if row is not None and row[0] != self.owner and self._alive(*row):
            return "elsewhere"
        connection.execute("INSERT OR REPLACE INTO claims (key, owner) VALUES (?, ?)", (key, self._enter(connection)))
        return "mine"

    def beat(self, connection: sqlite3.Connection) -> None:
        """Show a sign of life."""
        connection.execute("UPDATE owners SET beat = beat + 1 WHERE id = ?", (self.owner,))

    def release(self, connection: sqlite3.Connection, keys: Iterable[str] | None = None) -> None:
        """Give up some keys; None: all, and leave the owners."""
        if keys is not None:
            connection.executemany(
                "DELETE FROM claims WHERE key = ? AND owner = ?", [(key, self.owner) for key in keys]
            )
        elif self.owner is not None:
            connection.execute("DELETE FROM claims WHERE owner = ?", (self.owner,))
            connection.execute("DELETE FROM owners WHERE id = ?", (self.owner,))
            self.owner = None

    def _enter(self, connection: sqlite3.Connection) -> int:
        if self.owner is None:
            pid = os.getpid()
            done = connection.execute(
                "INSERT INTO owners (host, pid, started, place, beat) VALUES (?, ?, ?, ?, 0)",
                (host(), pid, process_start(pid), self._place),
            )
            self.owner = done.lastrowid
        assert self.owner is not None
        return self.owner

    def _alive(self, number: int, where: str, pid: int, started: str, beat: int) -> bool:
        if where == host():
            return bool(started) and process_start(pid) == started
        now = time.monotonic()
        last, since = self._seen.get(number, (-1, now))
        if beat != last:
            self._seen[number] = (beat, now)
            return True
        return now - since < STALE_SECONDS


def host() -> str:
    """This machine, this boot and this process namespace: where a process id means something."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{os.uname().nodename} {boot} {os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116
    except OSError:  # not Linux
        return os.uname().nodename


def process_start(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty when there is none (ids are used again, starts are not)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
        return "unknown" if _exists(pid) else ""
    return "" if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
