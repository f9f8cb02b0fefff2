"""Extended XYZ that loses nothing: every float is written with 17 significant digits.

ASE writes per-atom columns with eight decimals, too few for a label (forces) or a restart (momenta). The text made here
is read back by `ase.io.read` bit for bit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

_KIND = {"f": ("R", "%24.16e"), "i": ("I", "%8d"), "u": ("I", "%8d"), "b": ("L", "%s"), "U": ("S", "%s")}
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LEFT_OUT = ("numbers", "positions")


def format_frame(
    atoms: Atoms, info: Mapping[str, Any] | None = None, arrays: Mapping[str, NDArray[Any]] | None = None
) -> str:
    """One frame as extended XYZ text, ended by a newline.

    Args:
        atoms: structure; its calculator and constraints are not written.
        info: entries of the comment line; None: ``atoms.info``. Numbers, booleans, text, numeric arrays of one
            dimension and ``stress`` (3, 3); anything else JSON-able is written as JSON.
        arrays: per-atom columns (n_atoms,) or (n_atoms, k) added to (or replacing) those of ``atoms``.

    Raises:
        ValueError: a column has the wrong length or type, or a key cannot be written.

    Example:
        >>> from ase import Atoms
        >>> print(format_frame(Atoms("H", positions=[[0, 0, 0.5]]), {"energy": -1.0}).splitlines()[1])
        Properties=species:S:1:pos:R:3 energy=-1.0 pbc="F F F"
    """
    columns: dict[str, NDArray[Any]] = {
        "species": np.array(atoms.get_chemical_symbols(), dtype=str),
        "pos": np.asarray(atoms.positions, dtype=np.float64),
    }
    columns.update({key: value for key, value in atoms.arrays.items() if key not in _LEFT_OUT})
    columns.update({key: np.asarray(value) for key, value in (arrays or {}).items()})

    properties: list[str] = []
    formats: list[str] = []
    cells: list[list[Any]] = []
    for name, column in columns.items():
        if len(column) != len(atoms) or column.ndim > 2 or column.dtype.kind not in _KIND or not _KEY.fullmatch(name):
            raise ValueError(
                f"column {name!r} of shape {column.shape} and type {column.dtype} cannot be written for "
                f"{len(atoms)} atoms: give numbers, booleans or text of shape (n_atoms,) or (n_atoms, k)"
            )
        letter, number_format = _KIND[column.dtype.kind]
        table = column.reshape(len(atoms), -1)
        if letter == "S" and any(len(text.split()) != 1 for text in table.ravel().tolist()):
            raise ValueError(f"column {name!r} has empty text or text with spaces, which extended XYZ cannot hold")
        properties.append(f"{name}:{letter}:{table.shape[1]}")
        formats.extend([number_format] * table.shape[1])
        values = np.where(table, "T", "F") if letter == "L" else table
        cells.extend(values[:, k].tolist() for k in range(table.shape[1]))

    entries = []
    if atoms.cell.rank:
        entries.append(f'Lattice="{_numbers(atoms.cell.array)}"')
    entries.append(f"Properties={':'.join(properties)}")
    for key, value in (atoms.info if info is None else info).items():
        if not _KEY.fullmatch(key):
            raise ValueError(f"info key {key!r} cannot be written: use letters, digits and '_'")
        entries.append(f"{key}={_value(key, value)}")
    entries.append(f'pbc="{_numbers(atoms.pbc)}"')
    row = " ".join(formats)
    rows = [row % values for values in zip(*cells, strict=True)]
    return "\n".join([str(len(atoms)), " ".join(entries), *rows]) + "\n"


def _numbers(array: Any) -> str:
    return " ".join(_number(value) for value in np.asarray(array).ravel().tolist())


def _number(value: float | int | bool) -> str:
    return ("T" if value else "F") if isinstance(value, bool) else repr(value)


def _value(key: str, value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        return _number(value)
    if isinstance(value, str):
        return _quoted(value)
    array = value if isinstance(value, np.ndarray) else None
    if array is not None and array.dtype.kind in "fib":
        if key == "stress" and array.shape == (3, 3):
            return f'"{_numbers(array.T)}"'
        if array.ndim == 1 and array.size > 1:
            return f'"{_numbers(array)}"'
    return _quoted("_JSON " + json.dumps(value, default=_jsonable))


def _quoted(text: str) -> str:
    text = text.replace("\n", " ").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
