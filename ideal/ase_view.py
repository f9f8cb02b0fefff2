"""Labels as rows of ASE's own database format, which ``ase db`` reads.

A label store holds them beside its own tables, in one file: ASE writes the rows (`ase.db.sqlite`) into our connection
and within our transaction, so that both forms of a label appear together or not at all. They are also the second copy
that a rescue falls back on when a page of the first is damaged. What is edited there by ``ase db`` does not reach the
labels of the store.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db.sqlite import SQLite3Database, index_statements, init_statements

from ideal.records import Label

_COLUMNS = ("numbers", "positions", "momenta", "tags", "masses", "initial_magmoms", "initial_charges")
"""Per-atom arrays that ASE's format has columns for."""


def create_tables(connection: sqlite3.Connection) -> None:
    """Make ASE's tables, inside the caller's transaction."""
    for statement in (*init_statements, *index_statements):
        connection.execute(statement)


class AseView:
    """Writes and reads labels in the tables that `create_tables` made.

    Args:
        path: the file.
        connection: open on that file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._database = SQLite3Database(str(path), use_lock_file=False)
        self._database.connection = connection
        self._database.change_count = 0

    def add(self, label: Label, digest: str) -> None:
        """Write a label, inside the caller's transaction."""
        atoms = label.atoms.copy()
        results: dict[str, Any] = {"energy": float(label.energy), "forces": label.forces}
        if label.energy_kind == "free_energy":
            results["free_energy"] = float(label.energy)
        if label.stress is not None:
            results["stress"] = label.stress
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.calc.name = label.code.split()[0]
        self._database.change_count = 0  # ASE commits by itself after many changes
        self._database.write(
            atoms,
            {"code": label.code, "energy_kind": label.energy_kind, "seconds": float(label.seconds)},
            {
                "label_key": label.key,
                "digest": digest,
                "origin": dict(label.info),
                "arrays": {name: array.tolist() for name, array in atoms.arrays.items() if name not in _COLUMNS},
                "dtypes": {name: array.dtype.str for name, array in atoms.arrays.items() if name not in _COLUMNS},
            },
        )

    def ids(self) -> list[int]:
        """The rows that are there."""
        return [row[0] for row in self._connection.execute("SELECT id FROM systems")]

    def read(self, number: int) -> tuple[Label, str]:
        """The label of a row, and the checksum that was written with it.

        Raises:
            KeyError: the row is no label of a store, or is gone; what else a damaged row makes ASE raise.
        """
        row = self._database.get(id=number)
        atoms = row.toatoms()
        atoms.calc, atoms.info = None, {}
        for name, values in row.data.get("arrays", {}).items():
            atoms.set_array(name, np.array(values, dtype=row.data["dtypes"][name]))
        stress = row.get("stress")
        label = Label(
            key=row.data["label_key"],
            atoms=atoms,
            energy=row.energy,
            forces=row.forces,
            stress=None if stress is None else stress.copy(),
            code=row.code,
            energy_kind=row.energy_kind,
            seconds=row.seconds,
            info=row.data["origin"],
        )
        return label, row.data["digest"]


def write_database(path: Path, labels: Iterator[Label]) -> None:
    """A database of ASE's with these labels.

    Args:
        path: a file that does not exist yet.
        labels: written in this order.
    """
    connection = sqlite3.connect(path)
    try:
        create_tables(connection)
        view = AseView(path, connection)
        for label in labels:
            view.add(label, "")
        connection.commit()
    finally:
        connection.close()
