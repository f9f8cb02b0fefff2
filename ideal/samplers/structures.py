"""What every sampler does with its structure: copy and check it, fix atoms, refuse values that left the range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from ideal.errors import ConfigError, SamplerError
from ideal.records import FloatArray


def prepare(atoms: Atoms, fix_atoms: Sequence[int], name: str) -> Atoms:
    """A copy of the structure with its constraints, further atoms fixed.

    Args:
        atoms: the structure.
        fix_atoms: indices, from ``sampler.fix_atoms``.
        name: of the trajectory, for messages.

    Raises:
        SamplerError: it is empty, or a position is not finite.
        ConfigError: an index is out of range.
    """
    if len(atoms) == 0 or not np.isfinite(atoms.positions).all():
        raise SamplerError(f"trajectory {name!r}: the structure is empty or has positions that are not finite")
    atoms = atoms.copy()
    wrong = [index for index in fix_atoms if not 0 <= index < len(atoms)]
    if wrong:
        raise ConfigError(
            f"trajectory {name!r}: sampler.fix_atoms names atom {wrong[0]}, the structure has {len(atoms)} atoms; "
            f"write indices from 0 to {len(atoms) - 1}"
        )
    if fix_atoms:
        atoms.set_constraint([*atoms.constraints, FixAtoms(indices=sorted(set(fix_atoms)))])
    return atoms


def check_forces(atoms: Atoms, max_force: float, where: str, remedy: str) -> None:
    """Refuse positions or forces that are not finite, and forces on free atoms beyond a limit.

    Args:
        atoms: with a calculator.
        max_force: limit, eV/Å.
        where: begins the message, such as "trajectory 'md' at step 3".
        remedy: ends it.

    Raises:
        SamplerError: names the atom, the force and the limit.
    """
    check_finite(where, remedy, positions=atoms.positions, forces=atoms.get_forces(apply_constraint=False))
    norms = np.linalg.norm(atoms.get_forces(), axis=1)
    worst = int(norms.argmax())
    if norms[worst] > max_force:
        raise SamplerError(
            f"{where}: the force on atom {worst} is {norms[worst]:.4g} eV/Å, above max_force {max_force:g} eV/Å; "
            f"{remedy}, or raise max_force"
        )


def check_finite(where: str, remedy: str, **arrays: FloatArray) -> None:
    """Refuse values that are not finite.

    Args:
        where: begins the message.
        remedy: ends it.
        arrays: (n_atoms, 3) by their names, such as ``positions``.

    Raises:
        SamplerError: names array and atom.
    """
    for what, array in arrays.items():
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if bad.size:
            raise SamplerError(f"{where}: the {what} of atom {bad[0]} are not finite; {remedy}")


def check_ends(first: Atoms, last: Atoms, name: str) -> None:
    """Refuse two ends of a path that do not belong together.

    Args:
        first: the structure of the trajectory.
        last: that of ``sampler.final``.
        name: of the trajectory, for messages.

    Raises:
        ConfigError: other atoms, another order or another cell.
    """
    where = f"trajectory {name!r}: sampler.final"
    if len(first) != len(last) or (first.numbers != last.numbers).any():
        raise ConfigError(
            f"{where} holds {last.get_chemical_formula()}, the structure {first.get_chemical_formula()}: both ends "
            "need the same atoms in the same order"
        )
    if (first.pbc != last.pbc).any() or np.abs(first.cell.array - last.cell.array).max() > 1e-6:
        raise ConfigError(
            f"{where} has the cell {last.cell.cellpar().round(4).tolist()}, pbc {last.pbc.tolist()}, the structure "
            f"{first.cell.cellpar().round(4).tolist()}, {first.pbc.tolist()}: both ends need the same"
        )


def check_same_atoms(state: Mapping[str, Any], atoms: Atoms, kind: str, name: str) -> None:
    """Refuse a state that another sampler saved, or one of another structure.

    Raises:
        SamplerError: names both.
    """
    if str(state.get("kind", "")) != kind:
        raise SamplerError(
            f"trajectory {name!r}: the state was saved by {str(state.get('kind', 'another sampler'))!r}, the "
            f"configuration says {kind!r}; resume with the configuration of the run"
        )
    check_numbers(state, atoms, name)


def check_numbers(state: Mapping[str, Any], atoms: Atoms, name: str) -> None:
    """Refuse a state of another structure.

    Raises:
        SamplerError: says how many atoms each has.
    """
    if not np.array_equal(state["numbers"], atoms.numbers):
        raise SamplerError(
            f"trajectory {name!r}: the state has {len(state['numbers'])} atoms, other ones than the structure's "
            f"{len(atoms)}; resume with the structure of the run"
        )
