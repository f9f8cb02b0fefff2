"""The labels of a run, in one SQLite file: every finished label is committed at once and never overwritten or
deleted.

A request is recorded before it is calculated, so that a killed run knows exactly what to ask again. A failure is
recorded with its cause; when it is asked again, a later success takes its place. Arrays are raw little-endian
bytes, everything else is JSON or a number: nothing is pickled. The file is in write-ahead mode with full
synchronization: others may read it while a run writes.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ase import Atoms

from ideal.errors import LabelError
from ideal.labelling.codec import decode_atoms, encode_atoms
from ideal.records import FailedLabel, Label

SCHEMA_VERSION = 1
APPLICATION_ID = 0x1DEA1

_SCHEMA = """
CREATE TABLE requests (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('pending', 'done', 'failed')),
    header TEXT NOT NULL,
    arrays BLOB NOT NULL,
    info TEXT NOT NULL,
    time REAL NOT NULL
);
CREATE TABLE labels (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE REFERENCES requests (key),
    energy REAL NOT NULL,
    forces BLOB NOT NULL,
    stress BLOB,
    code TEXT NOT NULL,
    energy_kind TEXT NOT NULL,
    seconds REAL NOT NULL,
    time REAL NOT NULL
);
CREATE TABLE failures (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL REFERENCES requests (key),
    cause TEXT NOT NULL,
    log_tail TEXT NOT NULL,
    seconds REAL NOT NULL,
    time REAL NOT NULL
);
CREATE INDEX failures_key ON failures (key);
CREATE INDEX requests_state ON requests (state);
"""

_LABEL = """SELECT l.key, r.header, r.arrays, r.info, l.energy, l.forces, l.stress, l.code, l.energy_kind, l.seconds
FROM labels l JOIN requests r ON r.key = l.key"""
_FAILURE = """SELECT f.key, r.header, r.arrays, r.info, f.cause, f.log_tail, f.seconds
FROM failures f JOIN requests r ON r.key = f.key"""


class Request(NamedTuple):
    """A structure that was asked for and has no answer yet."""

    key: str
    atoms: Atoms
    info: dict[str, Any]


class LabelStore:
    """The label database of a run; safe to use from several threads.

    Args:
        path: the file; made when it does not exist.
        read_only: for readers such as ``ideal-run status``; the file must exist.

    Raises:
        LabelError: the file is not a label database, is damaged, is newer than this version, or cannot be written.

    Example:
        >>> with LabelStore("labels.sqlite") as store:          # doctest: +SKIP
        ...     store.request(key, atoms, {"trajectory": "melt"})
        ...     store.put(label)
        ...     store.labels()
    """

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._lock = threading.RLock()
        if read_only and not self.path.is_file():
            raise LabelError(f"no label database {self.path}; give the folder of a run")
        with self._explained():
            self._connection = self._connect()
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def request(self, key: str, atoms: Atoms, info: Mapping[str, Any] | None = None) -> None:
        """Record that ``key`` is wanted: it is pending until `put`. A key that has a label stays as it is."""
        header, arrays = encode_atoms(atoms)
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO requests (key, state, header, arrays, info, time) VALUES (?, 'pending', ?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET state = 'pending' WHERE state = 'failed'",
                (key, header, arrays, _json(dict(info or {})), time.time()),
            )

    def pending(self) -> list[Request]:
        """What was asked for and has no answer yet, in the order of asking."""
        rows = self._read("SELECT key, header, arrays, info FROM requests WHERE state = 'pending' ORDER BY sequence")
        return [Request(key, decode_atoms(header, arrays), json.loads(info)) for key, header, arrays, info in rows]

    def put(self, label: Label | FailedLabel) -> bool:
        """Commit a finished label with its info; on return it is on the disk.

        Returns:
            False when the key has a label already: the first one stays.
        """
        header, arrays = encode_atoms(label.atoms)
        with self._transaction() as connection:
            if connection.execute("SELECT 1 FROM labels WHERE key = ?", (label.key,)).fetchone():
                return False
            state = "done" if isinstance(label, Label) else "failed"
            connection.execute(
                "INSERT INTO requests (key, state, header, arrays, info, time) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET state = excluded.state, info = excluded.info",
                (label.key, state, header, arrays, _json(dict(label.info)), time.time()),
            )
            if isinstance(label, Label):
                connection.execute(
                    "INSERT INTO labels (key, energy, forces, stress, code, energy_kind, seconds, time) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        label.key,
                        float(label.energy),
                        np.ascontiguousarray(label.forces, dtype="<f8").tobytes(),
                        None if label.stress is None else np.ascontiguousarray(label.stress, "<f8").tobytes(),
                        label.code,
                        label.energy_kind,
                        label.seconds,
                        time.time(),
                    ),
                )
            else:
                connection.execute(
                    "INSERT INTO failures (key, cause, log_tail, seconds, time) VALUES (?, ?, ?, ?, ?)",
                    (label.key, label.cause, label.log_tail, label.seconds, time.time()),
                )
            return True

    def get(self, key: str) -> Label | FailedLabel | None:
        """The label of ``key``, its last failure, or None while it is unknown or pending."""
        rows = self._read(f"{_LABEL} WHERE l.key = ?", key)
        if rows:
            return _label(rows[0])
        rows = self._read(f"{_FAILURE} WHERE f.key = ? AND r.state = 'failed' ORDER BY f.number DESC LIMIT 1", key)
        return _failure(rows[0]) if rows else None

    def labels(self, order: Literal["finished", "asked"] = "finished") -> list[Label]:
        """All labels, in the order in which they were committed ("finished") or in which they were asked for."""
        column = {"finished": "l.number", "asked": "r.sequence"}[order]
        return [_label(row) for row in self._read(f"{_LABEL} ORDER BY {column}")]

    def failures(self) -> list[FailedLabel]:
        """The last failure of every key that failed and was not asked again, oldest first."""
        rows = self._read(
            f"{_FAILURE} WHERE r.state = 'failed' AND f.number = "
            "(SELECT MAX(number) FROM failures WHERE key = f.key) ORDER BY f.number"
        )
        return [_failure(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many keys are "done", "failed" and "pending"."""
        found = dict(self._read("SELECT state, COUNT(*) FROM requests GROUP BY state"))
        return {state: int(found.get(state, 0)) for state in ("done", "failed", "pending")}

    def close(self) -> None:
        """Close the file; safe to call twice."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        options: dict[str, Any] = {"timeout": 60.0, "isolation_level": None, "check_same_thread": False}
        if not self.read_only:
            return sqlite3.connect(self.path, **options)
        uri = self.path.resolve().as_uri()
        connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, **options)
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:  # a folder that may not be written has no room for the shared index
            connection.close()
            connection = sqlite3.connect(f"{uri}?immutable=1", uri=True, **options)
        return connection

    def _prepare(self) -> None:
        def value(pragma: str) -> Any:
            return self._connection.execute(f"PRAGMA {pragma}").fetchone()[0]

        empty = value("schema_version") == 0
        if not empty and value("application_id") != APPLICATION_ID:
            raise LabelError(f"{self.path} is an SQLite file of another program; give another path")
        version = value("user_version")
        if not empty and version != SCHEMA_VERSION:
            raise LabelError(
                f"{self.path} has schema version {version}, this version of IDEAL reads {SCHEMA_VERSION}; use "
                "the version that wrote it"
            )
        if self.read_only:
            if empty:
                raise LabelError(f"{self.path} holds no labels: it is empty")
            return
        value("journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        if empty:
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        elif (verdict := value("quick_check(1)")) != "ok":
            raise sqlite3.DatabaseError(f"malformed: {verdict}")

    def _read(self, query: str, *parameters: Any) -> list[Any]:
        with self._lock, self._explained():
            return self._connection.execute(query, parameters).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into one `LabelError` with the path and the remedy."""
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            if "full" in text:
                remedy = "free space on that disk, then `ideal-run resume`; every label committed before is kept"
            elif "malformed" in text or "not a database" in text:
                remedy = "the file is damaged: restore a copy, or save what is left with `sqlite3 FILE .recover`"
            elif "locked" in text:
                remedy = "another process writes to it: wait for it or end it"
            elif "readonly" in text or "unable to open" in text:
                remedy = "check that the folder exists and may be written"
            else:
                remedy = "check the disk; every label committed before is kept"
            raise LabelError(f"label database {self.path}: {text}; {remedy}") from error


def _json(value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value, default=_plain, sort_keys=True)
    except TypeError as error:
        raise LabelError(f"the info of a label must be JSON-able: {error}") from error


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays and paths as JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} of type {type(value).__name__}")


def _array(blob: bytes, shape: tuple[int, ...]) -> Any:
    return np.frombuffer(blob, dtype="<f8").astype(np.float64).reshape(shape)


def _label(row: tuple[Any, ...]) -> Label:
    key, header, arrays, info, energy, forces, stress, code, energy_kind, seconds = row
    return Label(
        key=key,
        atoms=decode_atoms(header, arrays),
        energy=energy,
        forces=_array(forces, (-1, 3)),
        stress=None if stress is None else _array(stress, (6,)),
        code=code,
        energy_kind=energy_kind,
        seconds=seconds,
        info=json.loads(info),
    )


def _failure(row: tuple[Any, ...]) -> FailedLabel:
    key, header, arrays, info, cause, log_tail, seconds = row
    return FailedLabel(
        key=key,
        atoms=decode_atoms(header, arrays),
        cause=cause,
        log_tail=log_tail,
        seconds=seconds,
        info=json.loads(info),
    )
