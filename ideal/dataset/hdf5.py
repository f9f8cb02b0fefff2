"""Labels in HDF5, laid out as MACE's preprocessed data sets are, so that MACE and what follows it read the file.

    /config_batch_0/config_N/
        atomic_numbers (n,), positions (n, 3) Å, cell (3, 3) Å, pbc (3,), weight, config_type
        properties/         energy eV, forces (n, 3) eV/Å, stress (6,) eV/Å³ (Voigt, where there is one)
        property_weights/   energy, forces, stress: 1, or 0 where there is none
        arrays/             our addition: further per-atom arrays (core, momenta ...)
        @label              our addition: key, code, energy_kind, seconds and origin of the label as JSON

Numbers are kept bit for bit. A file of MACE's own is read too: its labels are of the code "file".
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ideal.errors import ConfigError, MissingPackageError
from ideal.records import Label

if TYPE_CHECKING:
    from types import ModuleType

_ABSENT = "None"
"""What MACE writes for a value that is not there."""


def write_hdf5(path: Path, labels: Iterable[Label]) -> None:
    """Write labels to a new file.

    Raises:
        MissingPackageError: h5py is not installed.
    """
    with _h5py().File(path, "w") as file:
        file.attrs["drop_last"] = False
        batch = file.create_group("config_batch_0")
        for number, label in enumerate(labels):
            atoms = label.atoms
            group = batch.create_group(f"config_{number}")
            group["atomic_numbers"] = atoms.numbers
            group["positions"] = atoms.positions
            group["cell"] = atoms.cell.array
            group["pbc"] = atoms.pbc
            group["weight"] = 1.0
            group["config_type"] = "Default"
            properties = {"energy": float(label.energy), "forces": label.forces, "stress": label.stress}
            for name, value in properties.items():
                group[f"property_weights/{name}"] = float(value is not None)
                if value is not None:
                    group[f"properties/{name}"] = value
            for name, array in atoms.arrays.items():
                if name not in ("numbers", "positions"):
                    group[f"arrays/{name}"] = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
            group.attrs["label"] = json.dumps(
                {
                    "code": label.code,
                    "energy_kind": label.energy_kind,
                    "seconds": float(label.seconds),
                    "label_key": label.key,
                    "origin": dict(label.info),
                },
                default=_plain,
            )


def read_hdf5(path: Path) -> list[Atoms]:
    """The structures of a file with their results as calculators, in the order of writing.

    Raises:
        ConfigError: the file is no HDF5 file, or laid out in another way.
        MissingPackageError: h5py is not installed.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            batches = sorted((name for name in file if name.startswith("config_batch_")), key=_number)
            if not batches:
                raise ConfigError(f"{path}: holds no group config_batch_0; give a file in the layout of MACE")
            return [_frame(file[name][item]) for name in batches for item in sorted(file[name], key=_number)]
    except (OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path}: cannot be read as HDF5 in the layout of MACE ({reason}); give another file"
        ) from error


def _frame(group: Any) -> Atoms:
    cell, pbc = _value(group, "cell"), _value(group, "pbc")
    atoms = Atoms(
        numbers=group["atomic_numbers"][()],
        positions=group["positions"][()],
        cell=cell,
        pbc=False if pbc is None else pbc.astype(bool),
    )
    for name, array in group.get("arrays", {}).items():
        values = array[()]
        atoms.set_array(name, np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values)
    properties = group.get("properties", group)  # older files of MACE have no group of properties
    results = {name: _value(properties, name) for name in ("energy", "forces", "stress")}
    results = {name: value for name, value in results.items() if value is not None}
    atoms.info = json.loads(group.attrs.get("label", "{}"))
    if atoms.info.get("energy_kind") == "free_energy":
        results["free_energy"] = results["energy"]
    if "energy" in results:
        results["energy"] = float(results["energy"])
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _value(group: Any, name: str) -> Any:
    """A value, None where it is absent or MACE's word for that."""
    if name not in group:
        return None
    value = group[name][()]
    return None if isinstance(value, bytes) and value.decode() == _ABSENT else value


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise MissingPackageError("h5py", "HDF5 files") from None
    module: ModuleType = h5py
    return module
