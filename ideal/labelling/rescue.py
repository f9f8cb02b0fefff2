"""What can still be read of a damaged label store, saved into a new one; the damaged file is kept.

Each row is read by its number, so that a damaged page costs the rows on it and no others. A label counts as read when
its checksum holds. What its own tables no longer give is taken from its copy in ASE's (`ideal.ase_view`).
"""

from __future__ import annotations

import fcntl
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ideal.ase_view import AseView
from ideal.errors import LabelError
from ideal.labelling.codec import encode_atoms
from ideal.labelling.store import DamagedStoreError, LabelStore, Request, failure_of, label_of, request_of
from ideal.labelling.store_schema import digest
from ideal.records import Label

_REQUEST = "SELECT key, header, arrays, info, state FROM requests NOT INDEXED WHERE sequence = ?"
_LABEL = """SELECT key, energy, forces, stress, code, energy_kind, seconds, digest FROM labels NOT INDEXED
WHERE number = ?"""
_FAILURE = """SELECT key, cause, log_tail, seconds, code, folder, circumstances FROM failures NOT INDEXED
WHERE number = ?"""
_UNREADABLE = (sqlite3.Error, LabelError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError)
"""What decoding damaged bytes raises."""


PAGE = 4096
"""Bytes of a page of SQLite's, as `LabelStore` makes them."""
_IN_USE = 128
"""The byte of the shared index of a write-ahead log that every process locks while it has the file open (SQLite)."""


@dataclass(frozen=True)
class Rescued:
    """What a rescue found.

    Attributes:
        damaged: where the damaged file is now.
        labels, failures, pending: what the new store holds.
        lost: keys that are known to have had a label that cannot be read; pending in the new store where their
            structure is known.
    """

    damaged: Path
    labels: int
    failures: int
    pending: int
    lost: tuple[str, ...]

    def __str__(self) -> str:
        lost = f"{len(self.lost)} labels are lost" if self.lost else "no label is lost"
        return (
            f"the label store was damaged: {self.labels} labels, {self.failures} failures and {self.pending} requests "
            f"were saved, {lost}; the damaged file is kept as {self.damaged}"
        )


def open_or_rescue(path: str | Path) -> tuple[LabelStore, Rescued | None]:
    """A store that nobody else has open, rescued where it is damaged.

    Raises:
        LabelError: as `LabelStore`, but for damage.

    Example:
        >>> store, rescued = open_or_rescue("runs/lithium/labels.db")          # doctest: +SKIP
    """
    path = Path(path)
    try:
        store = LabelStore(path)
        try:
            store.verify()
        except BaseException:
            store.close()
            raise
    except DamagedStoreError:
        rescued = rescue(path)
        return LabelStore(path), rescued
    return store, None


def rescue(path: str | Path) -> Rescued:
    """Put a new store with everything readable in the place of a damaged one.

    Args:
        path: the damaged file; no other process may have it open.

    Raises:
        LabelError: there is no such file, nothing in it can be read, or another process of this machine has it open:
            what that one commits would go into the damaged file.
    """
    path = Path(path)
    if not path.is_file():
        raise LabelError(f"{path}: no such file; name a label store")
    if _in_use(path):
        raise LabelError(f"{path}: another process has the store open; end the runs that share it, then rescue it")
    fresh = path.with_name(f".{path.name}.rescued")
    fresh.unlink(missing_ok=True)
    lost: list[str] = []
    repaired = path.with_name(f".{path.name}.repaired")
    with LabelStore(fresh) as store:
        store.checkpoint()
        readable = _has_schema(path)
        source = path if readable else repaired
        if not readable:
            _put_schema(path, fresh, repaired)
        with closing(sqlite3.connect(source)) as connection:
            _copy(connection, source, store, lost)
        counts = store.counts()
    repaired.unlink(missing_ok=True)
    if not any(counts.values()):
        fresh.unlink()
        raise LabelError(
            f"{path}: nothing of a label store can be read in it, and it was left as it is; restore a copy, or move "
            "the file away to begin a new store"
        )
    damaged = next(name for n in range(1, 10**6) if not (name := path.with_name(f"{path.name}.damaged-{n}")).exists())
    try:
        damaged.hardlink_to(path)
    except OSError:  # a file system without hard links
        shutil.copy2(path, damaged)
    for suffix in ("-wal", "-shm"):
        if (beside := path.with_name(path.name + suffix)).exists():
            beside.rename(damaged.with_name(damaged.name + suffix))
    fresh.replace(path)  # there is a store under this name at every moment: a new, empty one would hide the loss
    return Rescued(damaged, counts["done"], counts["failed"], counts["pending"], tuple(lost))


def _in_use(path: Path) -> bool:
    """Whether another process of this machine has a file in write-ahead mode open."""
    try:
        with path.with_name(f"{path.name}-shm").open("r+b") as index:
            fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _IN_USE)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _has_schema(path: Path) -> bool:
    """Whether SQLite can still tell which tables the file has."""
    with closing(sqlite3.connect(path)) as connection:
        try:
            connection.execute("SELECT COUNT(*) FROM requests WHERE 0").fetchall()
            return True
        except sqlite3.Error:
            return False


def _put_schema(path: Path, fresh: Path, repaired: Path) -> None:
    """Copy a file with the table of contents of an empty store in the place of its own.

    Both were made by the same statements, so that each table begins on the same page. Of an empty store every page that
    begins no table belongs to the table of contents. Should the file have been made otherwise, its rows do not hold
    their checksums and are left out.
    """
    with closing(sqlite3.connect(fresh)) as connection:
        begins = {row[0] for row in connection.execute("SELECT rootpage FROM sqlite_master")}
    template, data = fresh.read_bytes(), bytearray(path.read_bytes())
    for page in range(1, len(template) // PAGE + 1):
        if page not in begins:
            data[PAGE * (page - 1) : PAGE * page] = template[PAGE * (page - 1) : PAGE * page]
    data[28:32] = (len(data) // PAGE).to_bytes(4, "big")  # number of pages
    data[32:40] = bytes(8)  # no free pages
    data[92:96] = data[24:28]  # the number of pages holds for this change of the file
    repaired.write_bytes(data)


def _copy(connection: sqlite3.Connection, path: Path, store: LabelStore, lost: list[str]) -> None:
    requests, done = {}, []
    for row in _rows(connection, "requests", _REQUEST):
        try:
            requests[row[0]] = request_of(row[:4])
        except _UNREADABLE:
            continue
        if row[4] == "done":
            done.append(row[0])
    copies = {label.key: label for label in _copies(connection, path)}
    for key, copy in copies.items():
        # Of a request SQLite has no checksum: where its structure is not the labelled one, it is damaged.
        if (known := requests.get(key)) and digest(replace(copy, atoms=known.atoms)) != digest(copy):
            requests[key] = known._replace(atoms=copy.atoms)
    for request in requests.values():
        store.request(*request)
    for row in _rows(connection, "labels", _LABEL):
        try:
            key, request = row[0], requests[row[0]]
            label = label_of((key, *_encoded(request), *row[1:7]))
            if not row[7] or row[7] == digest(label):
                store.put(label)
        except _UNREADABLE:
            continue
    for label in copies.values():
        if not isinstance(store.get(label.key), Label):
            store.put(label)
    for row in _rows(connection, "failures", _FAILURE):
        try:
            request = requests[row[0]]
            failure = failure_of((row[0], *_encoded(request), *row[1:]))
            if not isinstance(store.get(failure.key), Label):
                store.put(failure)
        except _UNREADABLE:
            continue
    lost += [key for key in done if not isinstance(store.get(key), Label)]
    for key in lost:
        store.request(key, requests[key].atoms, requests[key].info)


def _encoded(request: Request) -> tuple[Any, ...]:
    header, arrays = encode_atoms(request.atoms)
    return header, arrays, json.dumps(request.info)


def _rows(connection: sqlite3.Connection, table: str, query: str) -> Iterator[tuple[Any, ...]]:
    """The readable rows of a table, one by one."""
    for number in range(1, _last(connection, table) + 1):
        try:
            row = connection.execute(query, (number,)).fetchone()
        except sqlite3.Error:
            continue
        if row is not None:
            yield row


def _last(connection: sqlite3.Connection, table: str) -> int:
    """Largest row number that may be there."""
    for query in (f"SELECT seq FROM sqlite_sequence WHERE name = '{table}'", f"SELECT MAX(rowid) FROM {table}"):
        try:
            row = connection.execute(query).fetchone()
        except sqlite3.Error:
            continue
        if row is not None and row[0] is not None:
            return int(row[0])
    try:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    except sqlite3.Error:
        return 0
    return 100 * int(pages)


def _copies(connection: sqlite3.Connection, path: Path) -> Iterator[Label]:
    """The labels of ASE's tables whose checksum holds."""
    view = AseView(path, connection)
    for number in range(1, _last(connection, "systems") + 1):
        try:
            label, checksum = view.read(number)
            good = digest(label) == checksum
        except Exception:  # ASE's decoding of damaged rows may raise anything; such a row is no copy
            continue
        if good:
            yield label
