"""The records that the stages hand to each other.

frame -> uncertainty -> selection -> embedding -> labelling -> dataset -> training -> model -> sampler -> frame

A stage takes and returns these plain records and knows nothing of the stage after it. Units are ASE's: eV, Å, fs, K,
amu; stress in eV/Å³, Voigt order xx, yy, zz, yz, xz, xy, positive under tension (ASE's sign).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Frame:
    """One configuration of one trajectory.

    Attributes:
        atoms: the configuration, without a calculator.
        trajectory: name of the trajectory it belongs to.
        step: MD step (0 is the start).
    """

    atoms: Atoms
    trajectory: str
    step: int


@dataclass(frozen=True)
class Selection:
    """The atoms of a frame that earn a label.

    Attributes:
        frame: the frame.
        indices: (n_selected,) atoms to embed, in the order of choice.
        u: (n_atoms,) uncertainty of every atom of the frame.
        threshold: value of u above which an atom counts as uncertain.
        cells: for each of ``indices``, the atoms that one cell shall take in; itself comes first.
    """

    frame: Frame
    indices: IntArray
    u: FloatArray
    threshold: float
    cells: tuple[tuple[int, ...], ...] = ()


class Provenance(IntEnum):
    """Where an atom of an embedded cell comes from."""

    CORE = 0
    KEPT = 1
    MOVED = 2
    ADDED = 3
    CAP = 4
    """Hydrogen that saturates a cut bond of a cluster; its parent is the atom that it stands for."""


@dataclass(frozen=True)
class Substructure:
    """A small periodic cell around one atom of a large frame.

    Attributes:
        atoms: the cell, without a calculator.
        core: (n_atoms,) true for the atoms whose positions are the frame's own.
        center: index in ``atoms`` of the atom that was asked for.
        parent_indices: (n_atoms,) index in the frame of the atom each one was copied from.
        provenance: (n_atoms,) values of `Provenance`.
        u_before: (n_atoms,) uncertainty of the cropped cell before its filler was optimized.
        u: (n_atoms,) uncertainty of the final cell.
        max_u: largest ``u`` of the filler (0 when there is no filler).
        threshold: the value that ``max_u`` was held against.
        accepted: whether the cell may be labelled and learned.
        reason: why it was refused; of an accepted whole frame, why no smaller cell would do; else empty.
        whole_frame: true when the "cell" is the frame itself.
        composition: what its composition was held to ("formula SiO2", "charges Al +3, O -2 (guessed)", "as cut").
        trajectory: name of the trajectory that the frame belongs to; empty where it was not told.
        step: MD step of the frame; None where it was not told.
        physical: false when it was refused because atoms of the frame itself are in contact.
    """

    atoms: Atoms
    core: BoolArray
    center: int
    parent_indices: IntArray
    provenance: IntArray
    u_before: FloatArray
    u: FloatArray
    max_u: float
    threshold: float
    accepted: bool
    reason: str = ""
    whole_frame: bool = False
    composition: str = ""
    trajectory: str = ""
    step: int | None = None
    physical: bool = True

    @property
    def parent_atom(self) -> int:
        """Index in the frame of the atom that was asked for."""
        return int(self.parent_indices[self.center])


@dataclass(frozen=True)
class Label:
    """A reference calculation's result.

    Attributes:
        key: hash of structure and settings (`structure_key`).
        atoms: the structure, without a calculator.
        energy: eV; with smearing, the free energy that the forces are the derivative of.
        forces: (n_atoms, 3), eV/Å.
        stress: (6,), eV/Å³, or None where the code gives none.
        code: name of the code with its version.
        energy_kind: "free_energy" or "total_energy".
        seconds: wall time of the calculation.
        info: origin of the structure (trajectory, step, atom ...), JSON-able.
    """

    key: str
    atoms: Atoms
    energy: float
    forces: FloatArray
    stress: FloatArray | None
    code: str
    energy_kind: str = "free_energy"
    seconds: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FailedLabel:
    """A reference calculation that gave no trustworthy result: a cause, never a number.

    Attributes:
        key: hash of structure and settings (`structure_key`).
        atoms: the structure, without a calculator.
        cause: one line: what failed and what to do about it.
        log_tail: last lines of the code's output.
        seconds: wall time spent.
        info: origin of the structure, JSON-able.
        code: name of the code with its version.
        folder: what the calculation left; empty when none was started.
        circumstances: what the failure depends on beside structure and settings (gate, time limit, run), JSON-able.
    """

    key: str
    atoms: Atoms
    cause: str
    log_tail: str = ""
    seconds: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    folder: str = ""
    circumstances: Mapping[str, Any] = field(default_factory=dict)


def structure_key(atoms: Atoms, settings: Mapping[str, Any]) -> str:
    """Hash of a structure and of everything that decides its label.

    Positions and cell enter rounded to 1e-8 Å, so that a round trip through text keeps the key.

    Args:
        atoms: the structure.
        settings: JSON-able settings of the code, its name and version included.

    Returns:
        64 hexadecimal digits (SHA-256).

    Example:
        >>> from ase.build import bulk
        >>> len(structure_key(bulk("Li"), {"code": "gpaw", "cutoff": 200}))
        64
    """
    digest = hashlib.sha256()
    digest.update(np.asarray(atoms.numbers, dtype="<i8").tobytes())
    for array in (atoms.positions, atoms.cell.array):
        digest.update(np.rint(np.asarray(array) * 1e8).astype("<i8").tobytes())
    digest.update(np.asarray(atoms.pbc, dtype="u1").tobytes())
    magnetic_moments = atoms.get_initial_magnetic_moments()
    charges = atoms.get_initial_charges()
    if magnetic_moments.any() or charges.any():
        digest.update(np.rint(np.concatenate([magnetic_moments.ravel(), charges]) * 1e8).astype("<i8").tobytes())
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()
