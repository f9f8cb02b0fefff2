"""Labels in one SQLite file: every finished label is committed at once and never overwritten or deleted.

A request is recorded before it is calculated, so that a killed run knows exactly what to ask again. A failure is
recorded with its cause; when it is asked again, a later success takes its place. Arrays are raw little-endian
bytes, everything else is JSON or a number: nothing is pickled. The file is in write-ahead mode with full
synchronization: others may read it while a run writes. Several runs may share it (`ideal.labelling.claims`), and
``ase db`` reads it (`ideal.ase_view`).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ase import Atoms

from ideal.ase_view import AseView, create_tables
from ideal.errors import LabelError
from ideal.labelling import store_schema
from ideal.labelling.claims import BEAT_SECONDS, Claim, Claims
from ideal.labelling.codec import decode_atoms, encode_atoms
from ideal.labelling.store_schema import APPLICATION_ID, SCHEMA_VERSION
from ideal.records import FailedLabel, Label

NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "fuse.sshfs", "ceph", "afs", "9p")
"""Where the memory that write-ahead mode shares between processes does not reach other machines."""

BUSY_SECONDS = 60.0
"""How long to wait for another process that writes."""

_LABEL = """SELECT l.key, r.header, r.arrays, r.info, l.energy, l.forces, l.stress, l.code, l.energy_kind, l.seconds,
l.digest FROM labels l JOIN requests r ON r.key = l.key"""
_FAILURE = """SELECT f.key, r.header, r.arrays, r.info, f.cause, f.log_tail, f.seconds, f.code, f.folder,
f.circumstances FROM failures f JOIN requests r ON r.key = f.key"""


class Request(NamedTuple):
    """A structure that was asked for and has no answer yet."""

    key: str
    atoms: Atoms
    info: dict[str, Any]


class DamagedStoreError(LabelError):
    """The file of a store is damaged; `ideal.labelling.rescue` saves what can be read."""


class LabelStore:
    """A label database; safe to use from several threads, and by several processes at once.

    Args:
        path: the file; made when it does not exist.
        read_only: for readers such as ``ideal-run status``; the file must exist.

    Raises:
        DamagedStoreError: the file is damaged.
        LabelError: the file is not a label database, is newer than this version, or cannot be written.

    Example:
        >>> with LabelStore("labels.db") as store:              # doctest: +SKIP
        ...     store.request(key, atoms, {"trajectory": "melt"})
        ...     store.put(label)
        ...     store.labels()
    """

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._lock = threading.RLock()
        self._claims = Claims(str(self.path.absolute().parent))
        self._heart: threading.Thread | None = None
        self._closing = threading.Event()
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
        with self._transaction() as connection:
            self._request(connection, key, atoms, info)

    def claim(self, key: str, atoms: Atoms, info: Mapping[str, Any] | None = None) -> Claim:
        """Like `request`, for one who will calculate it: "elsewhere" when another process does or did so.

        A claim ends with `put`, `release` or `close`, or with its process.
        """
        owner = self._claims.owner
        try:
            with self._transaction() as connection:
                self._request(connection, key, atoms, info)
                if connection.execute("SELECT 1 FROM labels WHERE key = ?", (key,)).fetchone():
                    return "elsewhere"  # committed since the caller looked
                claim = self._claims.claim(connection, key)
        except BaseException:
            self._claims.owner = owner  # its row went with the transaction
            raise
        if claim == "mine" and self._heart is None:
            self._heart = threading.Thread(target=self._beat, name="label-store", daemon=True)
            self._heart.start()
        return claim

    def release(self, keys: Iterable[str]) -> None:
        """Give up claims: whoever wants these labels may calculate them."""
        with self._transaction() as connection:
            self._claims.release(connection, keys)

    def describe_code(self, settings: str, name: str, description: Mapping[str, Any]) -> None:
        """Note the settings that the short name ``settings`` in the info of labels stands for."""
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO codes VALUES (?, ?, ?)", (settings, name, _json(description)))

    def codes(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Name and settings of every code that labelled for this store, by their short name."""
        rows = self._read("SELECT settings, name, json FROM codes")
        return {settings: (name, json.loads(text)) for settings, name, text in rows}

    def requested(self, key: str) -> Request | None:
        """What was asked for under a key."""
        rows = self._read("SELECT key, header, arrays, info FROM requests WHERE key = ?", key)
        return request_of(rows[0]) if rows else None

    def pending(self) -> list[Request]:
        """What was asked for and has no answer yet, in the order of asking."""
        rows = self._read("SELECT key, header, arrays, info FROM requests WHERE state = 'pending' ORDER BY sequence")
        return [request_of(row) for row in rows]

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
            self._claims.release(connection, [label.key])
            if isinstance(label, Label):
                header, arrays = connection.execute(
                    "SELECT header, arrays FROM requests WHERE key = ?", (label.key,)
                ).fetchone()
                checksum = store_schema.digest(replace(label, atoms=decode_atoms(header, arrays)))
                connection.execute(
                    "INSERT INTO labels (key, energy, forces, stress, code, energy_kind, seconds, time, digest) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        label.key,
                        float(label.energy),
                        np.ascontiguousarray(label.forces, dtype="<f8").tobytes(),
                        None if label.stress is None else np.ascontiguousarray(label.stress, "<f8").tobytes(),
                        label.code,
                        label.energy_kind,
                        label.seconds,
                        time.time(),
                        checksum,
                    ),
                )
                self._ase.add(replace(label, atoms=decode_atoms(header, arrays)), checksum)
            else:
                connection.execute(
                    "INSERT INTO failures (key, cause, log_tail, seconds, time, code, folder, circumstances) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        label.key,
                        label.cause,
                        label.log_tail,
                        label.seconds,
                        time.time(),
                        label.code,
                        label.folder,
                        _json(dict(label.circumstances)),
                    ),
                )
            return True

    def get(self, key: str) -> Label | FailedLabel | None:
        """The label of ``key``, its last failure, or None while it is unknown or pending."""
        rows = self._read(f"{_LABEL} WHERE l.key = ?", key)
        if rows:
            return self._label(rows[0])
        rows = self._read(f"{_FAILURE} WHERE f.key = ? AND r.state = 'failed' ORDER BY f.number DESC LIMIT 1", key)
        return failure_of(rows[0]) if rows else None

    def labels(self, order: Literal["finished", "asked"] = "finished") -> list[Label]:
        """All labels, in the order in which they were committed ("finished") or in which they were asked for."""
        column = {"finished": "l.number", "asked": "r.sequence"}[order]
        return [self._label(row) for row in self._read(f"{_LABEL} ORDER BY {column}")]

    def failures(self) -> list[FailedLabel]:
        """The last failure of every key that failed and was not asked again, oldest first."""
        rows = self._read(
            f"{_FAILURE} WHERE r.state = 'failed' AND f.number = "
            "(SELECT MAX(number) FROM failures WHERE key = f.key) ORDER BY f.number"
        )
        return [failure_of(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many keys are "done", "failed" and "pending"."""
        found = dict(self._read("SELECT state, COUNT(*) FROM requests GROUP BY state"))
        return {state: int(found.get(state, 0)) for state in ("done", "failed", "pending")}

    def verify(self) -> None:
        """Read every page, and hold every label against its checksum.

        Raises:
            DamagedStoreError: something is damaged.
        """
        with self._lock, self._explained():
            if (verdict := self._value("integrity_check(1)")) != "ok":
                raise sqlite3.DatabaseError(f"malformed: {verdict}")
        self.labels()
        self.pending()
        self.failures()

    def checkpoint(self) -> None:
        """Move everything from the write-ahead log into the file itself, where no reader holds it back."""
        self._read("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file and give up what is claimed; safe to call twice."""
        self._closing.set()
        with self._lock:
            if self._claims.owner is not None:
                # The disk may be what ends the run; that the process is gone says the same.
                with contextlib.suppress(LabelError), self._transaction() as connection:
                    self._claims.release(connection)
                self._claims.owner = None
            self._connection.close()

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        options: dict[str, Any] = {"timeout": BUSY_SECONDS, "isolation_level": None, "check_same_thread": False}
        if not self.read_only:
            return sqlite3.connect(self.path, **options)
        uri = self.path.resolve().as_uri()
        connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, **options)
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            if "locked" in str(error):
                raise
            # a folder that may not be written has no room for the shared index
            connection = sqlite3.connect(f"{uri}?immutable=1", uri=True, **options)
        return connection

    def _value(self, pragma: str) -> Any:
        return self._connection.execute(f"PRAGMA {pragma}").fetchone()[0]

    def _prepare(self) -> None:
        value = self._value
        empty = value("schema_version") == 0
        if not empty and value("application_id") != APPLICATION_ID:
            raise LabelError(f"{self.path} is an SQLite file of another program; give another path")
        version = value("user_version")
        if not empty and not 1 <= version <= SCHEMA_VERSION:
            raise LabelError(
                f"{self.path} has schema version {version}, this version of IDEAL reads {SCHEMA_VERSION}; use "
                "the version that wrote it"
            )
        self._ase = AseView(self.path, self._connection)
        if self.read_only:
            if empty:
                raise LabelError(f"{self.path} holds no labels: it is empty")
            if version < SCHEMA_VERSION:
                raise LabelError(
                    f"{self.path} was written by an older version of IDEAL; open it once for writing "
                    "(`ideal-run resume`), which brings it up to date"
                )
            return
        if empty:
            self._connection.execute("PRAGMA page_size = 4096")
        self._set_journal_mode("delete" if on_network(self.path) else "wal")
        self._connection.execute("PRAGMA synchronous = FULL")
        if not empty and (verdict := value("quick_check(1)")) != "ok":
            raise sqlite3.DatabaseError(f"malformed: {verdict}")
        if empty or version < SCHEMA_VERSION:
            with self._transaction() as connection:
                self._make_tables(connection)

    def _set_journal_mode(self, mode: str) -> None:
        """Wait for other processes here: SQLite does not, it refuses this change at once while they write."""
        deadline = time.monotonic() + BUSY_SECONDS
        while self._value("journal_mode") != mode:
            try:
                self._value(f"journal_mode = {mode}")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        """Make or upgrade the tables; another process may have been first."""
        if self._value("schema_version") == 0:
            store_schema.create(connection)
            create_tables(connection)
        elif self._value("user_version") < SCHEMA_VERSION:
            store_schema.upgrade(connection)
            create_tables(connection)
            for row in connection.execute(f"{_LABEL} ORDER BY l.number").fetchall():
                label = self._label(row)
                checksum = store_schema.digest(label)
                connection.execute("UPDATE labels SET digest = ? WHERE key = ?", (checksum, label.key))
                self._ase.add(label, checksum)

    def _request(self, connection: sqlite3.Connection, key: str, atoms: Atoms, info: Mapping[str, Any] | None) -> None:
        header, arrays = encode_atoms(atoms)
        connection.execute(
            "INSERT INTO requests (key, state, header, arrays, info, time) VALUES (?, 'pending', ?, ?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET state = 'pending' WHERE state = 'failed'",
            (key, header, arrays, _json(dict(info or {})), time.time()),
        )

    def _beat(self) -> None:
        """Tell other processes, while there are claims, that this one is alive."""
        while not self._closing.wait(BEAT_SECONDS):
            with contextlib.suppress(LabelError), self._transaction() as connection:  # a full disk is told by `put`
                self._claims.beat(connection)

    def _label(self, row: tuple[Any, ...]) -> Label:
        label = label_of(row[:-1])
        if row[-1] and row[-1] != store_schema.digest(label):
            raise DamagedStoreError(_damaged(self.path, f"the checksum of label {label.key[:16]} does not hold"))
        return label

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
            elif _means_damage(error):
                raise DamagedStoreError(_damaged(self.path, text)) from error
            elif "locked" in text:
                remedy = "another process writes to it: wait for it or end it"
            elif "readonly" in text or "unable to open" in text:
                remedy = "check that the folder exists and may be written"
            else:
                remedy = "check the disk; every label committed before is kept"
            raise LabelError(f"label database {self.path}: {text}; {remedy}") from error


def on_network(path: Path) -> bool:
    """Whether a file lies on a file system of another machine; False where that cannot be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    folder, best, kind = str(path.resolve().parent), "", ""
    for _, mount, name, *_ in (line.split() for line in mounts):
        inside = mount == "/" or folder == mount or folder.startswith(mount + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, name
    return kind in NETWORK_FILE_SYSTEMS


def _means_damage(error: sqlite3.Error) -> bool:
    text = str(error)
    return any(word in text for word in ("malformed", "not a database", "Could not decode"))


def _damaged(path: Path, what: str) -> str:
    return (
        f"label database {path}: {what}; the file is damaged: restore a copy, or save what can be read with "
        f"`ideal-run rescue {path}`"
    )


def request_of(row: tuple[Any, ...]) -> Request:
    """A request from key, header, arrays and info as the tables hold them."""
    key, header, arrays, info = row
    return Request(key, decode_atoms(header, arrays), json.loads(info))


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


def label_of(row: tuple[Any, ...]) -> Label:
    """A label from key, header, arrays, info, energy, forces, stress, code, energy kind and seconds."""
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


def failure_of(row: tuple[Any, ...]) -> FailedLabel:
    """A failure from key, header, arrays, info and the columns of its table."""
    key, header, arrays, info, cause, log_tail, seconds, code, folder, circumstances = row
    return FailedLabel(
        key=key,
        atoms=decode_atoms(header, arrays),
        cause=cause,
        log_tail=log_tail,
        seconds=seconds,
        info=json.loads(info),
        code=code,
        folder=folder,
        circumstances=json.loads(circumstances),
    )
