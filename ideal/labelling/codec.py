"""Structures as a JSON header and raw little-endian bytes, bit for bit.

Cell, periodicity and all per-atom arrays are kept (numbers, positions, momenta, magnetic moments, masks ...);
calculators, constraints and ``atoms.info`` are not.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from ase import Atoms

from ideal.errors import LabelError


def encode_atoms(atoms: Atoms) -> tuple[str, bytes]:
    """Header (JSON) and array bytes of a structure.

    Raises:
        LabelError: a per-atom array holds Python objects.
    """
    arrays = {"cell": atoms.cell.array, **atoms.arrays}
    entries, chunks = [], []
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        if array.dtype.kind not in "biufcU":
            raise LabelError(
                f"the per-atom array {name!r} holds {array.dtype} values; only numbers, booleans and text "
                "can be stored: remove it"
            )
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        entries.append({"name": name, "dtype": array.dtype.str, "shape": list(array.shape)})
        chunks.append(array.tobytes())
    header = json.dumps({"pbc": [bool(p) for p in atoms.pbc], "arrays": entries})
    return header, b"".join(chunks)


def decode_atoms(header: str, blob: bytes) -> Atoms:
    """The structure that `encode_atoms` wrote.

    Example:
        >>> from ase.build import bulk
        >>> bool(decode_atoms(*encode_atoms(bulk("Li"))) == bulk("Li"))
        True
    """
    described = json.loads(header)
    arrays, offset = {}, 0
    for entry in described["arrays"]:
        dtype = np.dtype(entry["dtype"])
        count = int(np.prod(entry["shape"]))
        array = np.frombuffer(blob, dtype=dtype, count=count, offset=offset).reshape(entry["shape"])
        arrays[entry["name"]] = array.astype(dtype.newbyteorder("="))
        offset += count * dtype.itemsize
    atoms = Atoms(
        numbers=arrays.pop("numbers"),
        positions=arrays.pop("positions"),
        cell=arrays.pop("cell"),
        pbc=described["pbc"],
    )
    for name, array in arrays.items():
        atoms.set_array(name, array)
    return atoms


def atoms_to_json(atoms: Atoms) -> dict[str, Any]:
    """The same as one JSON object, for the files of the workers."""
    header, blob = encode_atoms(atoms)
    return {"header": json.loads(header), "arrays": base64.b64encode(blob).decode("ascii")}


def atoms_from_json(data: dict[str, Any]) -> Atoms:
    """The structure that `atoms_to_json` wrote."""
    return decode_atoms(json.dumps(data["header"]), base64.b64decode(data["arrays"]))
