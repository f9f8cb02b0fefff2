"""Between LAMMPS and ASE: the data file of a structure, frames from what the ranks hold, units.

LAMMPS' box has its first vector along x and its second in the xy plane, so frames of a general cell are those of the
structure file turned; `ase.calculators.lammps.Prism` has the rotation. Atoms come in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.data import atomic_numbers
from ase.io.lammpsdata import write_lammps_data

from ideal.errors import ConfigError
from ideal.records import FloatArray

ATOM_STYLES = ("atomic", "charge", "full")
_WORDS_PER_GROUP = 200


class LammpsUnits(NamedTuple):
    """What LAMMPS' numbers are in ours.

    Attributes:
        name: of the unit style.
        time: fs.
        energy: eV.
    """

    name: str
    time: float
    energy: float


METAL = LammpsUnits("metal", 1000.0, 1.0)
REAL = LammpsUnits("real", 1.0, 1 / 23.060549)  # LAMMPS' own kcal/mol
UNITS = {style.name: style for style in (METAL, REAL)}


def write_structure(path: Path, atoms: Atoms, elements: Sequence[str], style: LammpsUnits, atom_style: str) -> None:
    """Write a structure as a LAMMPS data file; with its velocities where it has any.

    Raises:
        ConfigError: it has no cell, or the atom style needs more than a structure has.
    """
    if atom_style not in ATOM_STYLES:
        raise ConfigError(
            f"atom_style {atom_style}: a data file can be written for {', '.join(ATOM_STYLES)}; name one of them, or "
            "let the input read a data file of your own"
        )
    if atoms.cell.rank < 3:
        raise ConfigError(
            "LAMMPS needs a box: give the structure a cell of three vectors (atoms.center(vacuum=10), for example)"
        )
    plain = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    plain.set_masses(atoms.get_masses())
    plain.set_initial_charges(atoms.get_initial_charges())
    moving = atoms.has("momenta") and bool(np.any(atoms.get_momenta()))
    if moving:
        plain.set_momenta(atoms.get_momenta())
    write_lammps_data(
        path, plain, specorder=list(elements), masses=True, velocities=moving, units=style.name, atom_style=atom_style
    )


def boundary(atoms: Atoms) -> str:
    """LAMMPS' word for each axis: periodic, or as wide as the atoms need, at least as the cell.

    Example:
        >>> boundary(Atoms("H", cell=[5, 5, 5], pbc=[True, True, False]))
        'p p m'
    """
    return " ".join("p" if periodic else "m" for periodic in atoms.pbc)


def by_id(answers: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    """A quantity of all ranks' atoms, in the order of their ids."""
    ids = np.concatenate([arrays["id"] for arrays in answers])
    values = np.concatenate([arrays[name] for arrays in answers])
    if len(ids) and ids.min() == 1 and ids.max() == len(ids):
        ordered = np.empty_like(values)
        ordered[ids - 1] = values
        return ordered
    return values[np.argsort(ids, kind="stable")]  # atoms were lost or deposited


def box_cell(box: Mapping[str, Any]) -> FloatArray:
    """(3, 3) cell vectors in Å of what `do_measure` says of the box."""
    xy, xz, yz = box["tilt"]
    cell = np.diag(np.subtract(box["high"], box["low"]))
    cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    return cell


def frame(
    answers: Sequence[Mapping[str, np.ndarray]],
    measured: Mapping[str, Any],
    elements: Sequence[str],
    style: LammpsUnits,
    fixed: Sequence[int],
) -> Atoms:
    """The configuration of all ranks.

    Args:
        answers: arrays of every rank.
        measured: box and energy of the same step.
        elements: of the atom types, in order.
        style: LAMMPS' units.
        fixed: atoms that do not move.

    Returns:
        Atoms with unwrapped positions that count from the box's corner along periodic axes, momenta, energy, forces.
    """
    box = measured["box"]
    periodic = np.array(box["periodic"])
    types = by_id(answers, "type")
    numbers = np.array([atomic_numbers[element] for element in elements])[types - 1]
    positions = by_id(answers, "x") - np.where(periodic, box["low"], 0.0)
    atoms = Atoms(numbers, positions=positions, cell=box_cell(box), pbc=periodic)
    masses = answers[0]["mass"][types]
    atoms.set_masses(masses)
    atoms.set_momenta(masses[:, None] * by_id(answers, "v") / (style.time * units.fs))
    if fixed:
        atoms.set_constraint(FixAtoms(indices=list(fixed)))
    forces = by_id(answers, "f") * style.energy
    atoms.calc = SinglePointCalculator(atoms, energy=measured["energy"] * style.energy, forces=forces)
    return atoms


def fixed_atoms(atoms: Atoms, wanted: Sequence[int]) -> list[int]:
    """Indices of atoms that never move: those of the configuration and of the structure's own constraints.

    Raises:
        ConfigError: an index out of range, or a constraint that is more than fixed atoms.
    """
    wrong = [index for index in wanted if not 0 <= index < len(atoms)]
    if wrong:
        raise ConfigError(
            f"sampler.fix_atoms names atom {wrong[0]}, the structure has {len(atoms)} atoms; write indices from 0 to "
            f"{len(atoms) - 1}"
        )
    fixed = set(wanted)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise ConfigError(
                f"LAMMPS does not know the structure's constraint {type(constraint).__name__}; take it out of the file "
                "and write it as a fix of the input"
            )
        fixed.update(int(index) for index in constraint.get_indices())
    return sorted(fixed)


def group_commands(name: str, indices: Sequence[int]) -> Iterator[str]:
    """LAMMPS commands that put atoms (indices from 0) into a group.

    Example:
        >>> list(group_commands("ideal_fixed", [0, 1, 2, 7]))
        ['group ideal_fixed id 1:3 8']
    """
    ids = sorted(index + 1 for index in indices)
    starts = [ids[0]] + [later for earlier, later in pairwise(ids) if later != earlier + 1]
    ends = [earlier for earlier, later in pairwise(ids) if later != earlier + 1] + [ids[-1]]
    words = [str(a) if a == b else f"{a}:{b}" for a, b in zip(starts, ends, strict=True)]
    for first in range(0, len(words), _WORDS_PER_GROUP):
        yield f"group {name} id {' '.join(words[first : first + _WORDS_PER_GROUP])}"
