"""Pairs in periodic cells of any shape, and the shortest distances of a training set."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from ideal.embedding.distances import (
    COVALENT_FRACTION,
    ShortestDistances,
    contact_in,
    minimum_distances,
    periodic_pairs,
)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
@pytest.mark.parametrize("cutoff", [1.5, 4.5])
def test_pairs_agree_with_ase(pbc: tuple[bool, bool, bool], cutoff: float) -> None:
    rng = np.random.default_rng(3)
    cell = np.array([[4.0, 0, 0], [1.7, 3.1, 0], [-1.1, 0.8, 5.0]])
    atoms = Atoms("H9", positions=rng.uniform(-3, 7, (9, 3)), cell=cell, pbc=pbc)
    pairs = periodic_pairs(atoms.positions, cell, pbc, cutoff)
    i, j, d = neighbor_list("ijd", atoms, cutoff)
    ours = sorted(zip(pairs.first, pairs.second, pairs.distances.round(9), strict=True))
    assert ours == sorted(zip(i, j, d.round(9), strict=True))
    assert np.allclose(np.linalg.norm(pairs.vectors, axis=1), pairs.distances)


def test_pairs_of_a_cell_smaller_than_the_cutoff() -> None:
    pairs = periodic_pairs(np.zeros((1, 3)), 3.0 * np.eye(3), (True, True, True), 3.1)
    assert np.allclose(pairs.distances, 3.0) and len(pairs.distances) == 6


def test_minimum_distances_of_each_species_pair() -> None:
    found = minimum_distances([bulk("MgO", "rocksalt", a=4.2), bulk("MgO", "rocksalt", a=4.1)])
    assert found == {
        (8, 8): pytest.approx(4.1 / np.sqrt(2)),
        (8, 12): pytest.approx(2.05),
        (12, 12): pytest.approx(4.1 / np.sqrt(2)),
    }


def test_minimum_distances_leave_out_distant_pairs() -> None:
    assert minimum_distances(Atoms("H2", positions=[[0, 0, 0], [0, 0, 4.5]])) == {}


def test_unknown_pairs_take_covalent_radii() -> None:
    shortest = ShortestDistances({(8, 12): 1.9})
    assert shortest.of(np.array([12]), np.array([8]))[0] == 1.9
    assert shortest.of(np.array([8]), np.array([8]))[0] == pytest.approx(COVALENT_FRACTION * 2 * 0.66)


@pytest.mark.parametrize("pbc", [True, False])
def test_contact_names_the_two_atoms(pbc: bool) -> None:
    atoms = Atoms("CuOCu", positions=[[0.1, 0, 0], [3, 0, 0], [8.9, 0, 0]], cell=[10, 9, 9], pbc=pbc)
    found = contact_in(atoms, ShortestDistances({(29, 29): 2.5, (8, 29): 1.8}))
    assert ("atoms 0 and 2 (Cu-Cu) are 1.200 Å apart, in contact below 2.000 Å" in found) is pbc
    assert contact_in(atoms, ShortestDistances({(29, 29): 1.4, (8, 29): 1.8})) == ""
    assert contact_in(Atoms("H"), ShortestDistances()) == ""
