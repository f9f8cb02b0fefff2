"""The tables of a label store, how an older file is brought up to date, and the checksum of a label.

requests   every structure that was asked for, and whether it is pending, done or failed
labels     energy, forces, stress of those that are done, each with a checksum
failures   every failure with its cause, code, folder and the circumstances under which it stands
owners     processes that calculate for this store; claims: which of them calculates what
codes      the settings behind the short name that a label's info carries
systems, species, keys ...   the labels once more as ASE's database format has them (`ideal.ase_view`)
"""

from __future__ import annotations

import hashlib
import sqlite3

import numpy as np

from ideal.records import Label

SCHEMA_VERSION = 2
APPLICATION_ID = 0x1DEA1

TABLES = """
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
    time REAL NOT NULL,
    digest TEXT NOT NULL DEFAULT ''
);
CREATE TABLE failures (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL REFERENCES requests (key),
    cause TEXT NOT NULL,
    log_tail TEXT NOT NULL,
    seconds REAL NOT NULL,
    time REAL NOT NULL,
    code TEXT NOT NULL DEFAULT '',
    folder TEXT NOT NULL DEFAULT '',
    circumstances TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX failures_key ON failures (key);
CREATE INDEX requests_state ON requests (state);
"""
SHARING = """
CREATE TABLE owners (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started TEXT NOT NULL,
    place TEXT NOT NULL,
    beat INTEGER NOT NULL
);
CREATE TABLE claims (
    key TEXT PRIMARY KEY,
    owner INTEGER NOT NULL REFERENCES owners (id)
);
CREATE TABLE codes (
    settings TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    json TEXT NOT NULL
);
"""
_NEW_COLUMNS = (
    "ALTER TABLE labels ADD COLUMN digest TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE failures ADD COLUMN code TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE failures ADD COLUMN folder TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE failures ADD COLUMN circumstances TEXT NOT NULL DEFAULT '{}'",
)


def create(connection: sqlite3.Connection) -> None:
    """Make the tables of a new store, inside the caller's transaction."""
    for statement in (TABLES + SHARING).split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring version 1 up to date, inside the caller's transaction; checksums and ASE's tables are the caller's."""
    for statement in (*_NEW_COLUMNS, *SHARING.split(";")):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def digest(label: Label) -> str:
    """Checksum of what a model learns from a label: SQLite notices damaged pages, not every damaged number.

    Example:
        >>> from ase import Atoms
        >>> len(digest(Label("key", Atoms("H"), -1.0, np.zeros((1, 3)), None, "code")))
        64
    """
    found = hashlib.sha256(f"{label.key}\n{label.code}\n{label.energy_kind}\n".encode())
    found.update(np.asarray(label.atoms.numbers, "<i8").tobytes())
    found.update(np.asarray(label.atoms.pbc, "u1").tobytes())
    energy = label.energy + 0.0  # SQLite does not keep the sign of zero
    for array in (label.atoms.positions, label.atoms.cell.array, energy, label.forces, label.stress):
        found.update(b"none" if array is None else np.ascontiguousarray(array, "<f8").tobytes())
    return found.hexdigest()
