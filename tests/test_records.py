"""The key of a structure."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ideal.records import Provenance, structure_key

SETTINGS = {"code": "gpaw 26.7", "cutoff": 200.0, "nested": {"b": 1, "a": [1, 2]}}


def test_key_does_not_depend_on_what_does_not_matter() -> None:
    atoms = bulk("Li", cubic=True)
    key = structure_key(atoms, SETTINGS)
    assert len(key) == 64
    copy = atoms.copy()
    copy.info["origin"] = "somewhere"
    copy.set_momenta(np.ones((2, 3)))
    copy.positions += 1e-10
    assert structure_key(copy, {"nested": {"a": [1, 2], "b": 1}, "cutoff": 200.0, "code": "gpaw 26.7"}) == key


def change_positions(atoms: Atoms) -> None:
    atoms.positions[0, 0] += 1e-6


def change_cell(atoms: Atoms) -> None:
    atoms.cell[0, 0] += 1e-6


def change_element(atoms: Atoms) -> None:
    atoms.symbols[0] = "Na"


def change_periodicity(atoms: Atoms) -> None:
    atoms.pbc = (True, True, False)


def change_magnetic_moment(atoms: Atoms) -> None:
    atoms.set_initial_magnetic_moments([1.0, 0.0])


def change_charge(atoms: Atoms) -> None:
    atoms.set_initial_charges([1.0, 0.0])


@pytest.mark.parametrize(
    "change",
    [
        change_positions,
        change_cell,
        change_element,
        change_periodicity,
        change_magnetic_moment,
        change_charge,
    ],
)
def test_key_depends_on_what_matters(change: object) -> None:
    atoms = bulk("Li", cubic=True)
    key = structure_key(atoms, SETTINGS)
    change(atoms)  # type: ignore[operator]
    assert structure_key(atoms, SETTINGS) != key


def test_key_depends_on_settings() -> None:
    atoms = bulk("Li", cubic=True)
    assert structure_key(atoms, SETTINGS) != structure_key(atoms, {**SETTINGS, "cutoff": 300.0})


def test_moments_and_charges_are_not_confused() -> None:
    magnetic, charged = bulk("Li", cubic=True), bulk("Li", cubic=True)
    magnetic.set_initial_magnetic_moments([1.0, 0.0])
    charged.set_initial_charges([1.0, 0.0])
    assert structure_key(magnetic, SETTINGS) != structure_key(charged, SETTINGS)


def test_provenance_values_are_fixed() -> None:
    """They are written to files."""
    assert [int(p) for p in Provenance] == [0, 1, 2, 3, 4]
    assert [p.name for p in Provenance] == ["CORE", "KEPT", "MOVED", "ADDED", "CAP"]
