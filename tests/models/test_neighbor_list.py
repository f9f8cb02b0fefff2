"""The neighbor list: against ASE's, reused within its skin, and independent of its age."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list

from ideal import IdealCalculator
from ideal.models.neighbor_list import NeighborList, find_edges

from .conftest import crystal, tiny_potential


def test_equals_ase(structure: Atoms) -> None:
    edges = find_edges(structure, 5.0)
    source, vectors = neighbor_list("iD", structure, 5.0)
    np.testing.assert_array_equal(edges.counts, np.bincount(source, minlength=len(structure)))
    np.testing.assert_allclose(
        np.sort(np.linalg.norm(edges.vectors, axis=1)), np.sort(np.linalg.norm(vectors, axis=1)), atol=1e-12
    )


def test_age_changes_no_bit() -> None:
    atoms = crystal().repeat(2)
    neighbors = NeighborList(5.0, skin=1.0)
    rng = np.random.default_rng(0)
    for _ in range(6):
        atoms.positions += rng.normal(scale=0.05, size=(len(atoms), 3))
        old, new = neighbors(atoms), find_edges(atoms, 5.0)
        for ours, theirs in zip(old, new, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert neighbors.builds == 1


@pytest.mark.parametrize("change", ["far", "cell", "periodicity", "atoms"])
def test_made_anew_when_it_must_be(change: str) -> None:
    atoms = crystal().repeat(2)
    neighbors = NeighborList(5.0, skin=0.5)
    neighbors(atoms)
    if change == "far":
        atoms.positions[3] += [0.2, 0.2, 0.0]
    elif change == "cell":
        atoms.cell[0, 0] += 0.01
    elif change == "periodicity":
        atoms.pbc = (True, False, True)
    else:
        del atoms[5]
    for ours, theirs in zip(neighbors(atoms), find_edges(atoms, 5.0), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert neighbors.builds == 2


def test_dynamics_reuses_the_list() -> None:
    potential = tiny_potential()
    potential.set_normalization(energy_scale=1.0)
    atoms = crystal().repeat(2)
    atoms.calc = IdealCalculator(potential)
    VelocityVerlet(atoms, 0.2 * units.fs).run(10)
    assert potential._neighbors.builds == 1
