"""Labels and structures in files: extended XYZ, HDF5 (`.h5`), a database of ASE's (`.db`, a label store included).

Any other format that ASE reads will do, as long as each frame carries energy and forces; stress is taken when present.
Where both a free energy and an energy are given, the free energy is the label's: with smearing it is the one that the
forces are the derivative of.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from ideal.ase_view import write_database
from ideal.dataset.extxyz import format_frame
from ideal.errors import ConfigError, IdealError
from ideal.records import Label, structure_key

HDF5_SUFFIXES, ASE_SUFFIX = (".h5", ".hdf5"), ".db"
_STORE_MARK = (0x1DEA1).to_bytes(4, "big")
_UNKNOWN_CODE = "file"
_KEY = re.compile(r"[0-9a-f]{64}")
_OWN_KEYS = ("code", "energy_kind", "seconds", "label_key", "origin")


def read_structures(path: str | Path) -> list[Atoms]:
    """Every frame of a file, without calculators; momenta, constraints and ``info`` are kept.

    Raises:
        ConfigError: the file is missing, unreadable or empty, or a position is not finite.

    Example:
        >>> len(read_structures("structures.extxyz"))  # doctest: +SKIP
        20
    """
    frames = _read(Path(path))
    for frame in frames:
        frame.calc = None
    return frames


def read_labels(path: str | Path, keep_keys: bool = False) -> list[Label]:
    """Every frame of a file as a label.

    Keys are `structure_key` of the structure with ``{"source": code}``, where the code is what the frame's ``code``
    entry names, else "file".

    Args:
        path: the file.
        keep_keys: take the key under which a store knew the label, where the file (one of `write_labels`) names it.

    Raises:
        ConfigError: as `read_structures`, or a frame has no finite energy or forces; the message names file and frame.
            Or some frames of an unnamed code have a free energy and others only an energy.

    Example:
        >>> read_labels("lithium.extxyz")[0].energy  # doctest: +SKIP
        -30.41
    """
    labels = []
    for index, frame in enumerate(_read(Path(path))):
        known = str(frame.info.get("label_key", ""))
        label = _label(frame, Path(path), index)
        labels.append(replace(label, key=known) if keep_keys and _KEY.fullmatch(known) else label)
    _same_kind_of_energy(labels, Path(path))
    return labels


def read_labels_and_structures(path: str | Path) -> tuple[list[Label], list[Atoms]]:
    """A file that may be labelled in part: its labels, and the structures that have neither energy nor forces.

    Raises:
        ConfigError: as `read_labels`, or a frame has forces without energy.
    """
    labels, structures = [], []
    for index, frame in enumerate(_read(Path(path))):
        results = {} if frame.calc is None else frame.calc.results
        if any(key in results for key in ("energy", "free_energy", "forces")):
            labels.append(_label(frame, Path(path), index))
        else:
            frame.calc = None
            structures.append(frame)
    _same_kind_of_energy(labels, Path(path))
    return labels, structures


def write_labels(path: str | Path, labels: Iterable[Label]) -> None:
    """Write labels; `read_labels` gives the same numbers back to the last bit.

    The suffix decides the format: ``.h5`` and ``.hdf5`` (`ideal.dataset.hdf5`), ``.db`` (a database of ASE's), else
    extended XYZ. The file appears whole or not at all.

    Raises:
        ConfigError: the file is a label store, which is never replaced.
        MissingPackageError: h5py is not installed.
        OSError: the folder cannot be written to.

    Example:
        >>> write_labels("labels.extxyz", labels)  # doctest: +SKIP
    """
    path = Path(path)
    if is_label_store(path):
        raise ConfigError(f"{path} is a label store and is never replaced; write to another file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix in HDF5_SUFFIXES:
            from ideal.dataset.hdf5 import write_hdf5

            write_hdf5(temporary, labels)
        elif path.suffix == ASE_SUFFIX:
            write_database(temporary, iter(labels))
        else:
            with temporary.open("w", encoding="utf-8") as file:
                for label in labels:
                    file.write(_format_label(label))
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_label_store(path: Path) -> bool:
    """Whether a file is a label store (`ideal.labelling.store`), by the program's mark in its header."""
    try:
        with path.open("rb") as file:
            return file.read(72)[68:] == _STORE_MARK
    except OSError:
        return False


def _format_label(label: Label) -> str:
    info: dict[str, Any] = {"energy": float(label.energy)}
    if label.energy_kind == "free_energy":
        info["free_energy"] = float(label.energy)
    if label.stress is not None:
        info["stress"] = voigt_6_to_full_3x3_stress(label.stress)
    info["code"] = label.code
    info["energy_kind"] = label.energy_kind
    info["seconds"] = float(label.seconds)
    info["label_key"] = label.key
    if label.info:
        info["origin"] = dict(label.info)
    return format_frame(label.atoms, info, {"forces": label.forces})


def _read(path: Path) -> list[Atoms]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; correct the path")
    if path.stat().st_size == 0:
        raise ConfigError(f"{path}: the file is empty; give a file with at least one frame")
    try:
        read = _READERS.get(path.suffix, _read_with_ase)(path)
    except IdealError:
        raise
    except Exception as error:
        # ASE's readers raise whatever their parsing meets; the cause is kept in the chain.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{path}: cannot be read as a structure file ({type(error).__name__}: {reason}); "
            "give extended XYZ or another format that ASE reads"
        ) from error
    frames = [read] if isinstance(read, Atoms) else list(read)
    if not frames:
        raise ConfigError(f"{path}: holds no structure; give a file with at least one frame")
    for index, frame in enumerate(frames):
        if len(frame) == 0:
            raise ConfigError(f"{path}: frame {index} has no atoms; remove it")
        bad = np.flatnonzero(~np.isfinite(frame.positions).all(axis=1))
        if bad.size:
            raise ConfigError(
                f"{path}: frame {index}: the position of atom {bad[0]} is not finite; correct or remove it"
            )
        if not np.isfinite(frame.cell.array).all():
            raise ConfigError(f"{path}: frame {index}: the cell is not finite; correct or remove it")
    return frames


def _read_with_ase(path: Path) -> Any:
    return ase.io.read(path, index=":")


def _read_hdf5(path: Path) -> list[Atoms]:
    from ideal.dataset.hdf5 import read_hdf5

    return read_hdf5(path)


def _read_database(path: Path) -> list[Atoms]:
    """The frames of a database of ASE's, with what we know of rows that we wrote."""
    frames = []
    with ase.db.connect(path, use_lock_file=False) as database:
        for row in database.select():
            atoms = row.toatoms()
            atoms.info = dict(row.key_value_pairs)
            data = row.data
            if "label_key" in data:
                atoms.info |= {"label_key": data["label_key"], "origin": data["origin"]}
                for name, values in data.get("arrays", {}).items():
                    atoms.set_array(name, np.array(values, dtype=data["dtypes"][name]))
                atoms.info.pop("digest", None)
            frames.append(atoms)
    return frames


_READERS = {".h5": _read_hdf5, ".hdf5": _read_hdf5, ".db": _read_database}


def _label(frame: Atoms, path: Path, index: int) -> Label:
    results = {} if frame.calc is None else frame.calc.results
    where = f"{path}: frame {index}"
    kind = "free_energy" if results.get("free_energy") is not None else "energy"
    energy = results.get(kind)
    if energy is None:
        present = ", ".join(sorted([*results, *frame.info])) or "nothing"
        raise ConfigError(
            f"{where} has no energy (it has {present}); write `energy=` (eV) into its comment line, or leave energy "
            "and "
            "forces out of the whole file and name it as unlabelled `dataset.initial`"
        )
    forces = results.get("forces")
    if forces is None:
        raise ConfigError(f"{where} has an energy but no forces; add a `forces` column (eV/Å) or remove the frame")
    energy = float(energy)
    forces = np.array(forces, dtype=np.float64)
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        raise ConfigError(f"{where}: energy or forces are not finite; remove the frame")
    stress = results.get("stress")
    if stress is not None:
        stress = np.array(stress, dtype=np.float64)
        stress = full_3x3_to_voigt_6_stress(stress) if stress.shape == (3, 3) else stress
        if stress.shape != (6,) or not np.isfinite(stress).all():
            raise ConfigError(
                f"{where}: the stress of shape {stress.shape} is not six finite numbers (Voigt) or 3 x 3; correct it"
            )
    info = dict(frame.info)
    code = str(info.get("code", _UNKNOWN_CODE))
    stated = info.get("energy_kind")
    origin = info.get("origin")
    frame.calc = None
    frame.info = {}
    return Label(
        key=structure_key(frame, {"source": code}),
        atoms=frame,
        energy=energy,
        forces=forces,
        stress=stress,
        code=code,
        energy_kind=str(stated) if stated else ("free_energy" if kind == "free_energy" else "total_energy"),
        seconds=float(info.get("seconds", 0.0)),
        info={
            **(origin if isinstance(origin, dict) else {}),
            **{key: _plain(value) for key, value in info.items() if key not in _OWN_KEYS},
        },
    )


def _same_kind_of_energy(labels: list[Label], path: Path) -> None:
    """Refuse free and other energies side by side: with smeared electrons they differ by the entropy.

    Labels that name their code are left alone: a code's energy is the one whose slopes its forces are.
    """
    kinds = {label.energy_kind: number for number, label in enumerate(labels) if label.code == _UNKNOWN_CODE}
    if len(kinds) > 1:
        (kind, one), (other_kind, another) = sorted(kinds.items())[:2]
        raise ConfigError(
            f"{path}: the energy of label {one} is a {kind}, that of label {another} a {other_kind}: with smeared "
            "electrons they differ, and a model that learns both takes the difference for structure; give "
            "`free_energy` in every frame (equal to `energy` where electrons are not smeared), or in none"
        )


def _plain(value: Any) -> Any:
    """JSON-able form of an ``info`` entry."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value if isinstance(value, bool | int | float | str | list | dict) or value is None else str(value)
