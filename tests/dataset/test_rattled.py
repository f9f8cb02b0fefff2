"""Initial structures made from the starting structures."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, make_supercell, molecule, nanotube
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from ideal.config import RattleConfig
from ideal.dataset import rattled_structures
from ideal.dataset.rattled import repeat_unit, shortest_distance
from ideal.errors import ConfigError


def test_count_seed_and_turns() -> None:
    bases = [bulk("Li", cubic=True).repeat(2), bulk("Al", cubic=True)]
    config = RattleConfig(count=5)
    made = rattled_structures(bases, config, seed=3)
    assert [str(atoms.symbols) for atoms in made] == ["Li16", "Al4", "Li16", "Al4", "Li16"]
    again = rattled_structures(bases, config, seed=3)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(made, again, strict=True))
    more = rattled_structures(bases, RattleConfig(count=7), seed=3)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(made, more, strict=False))
    assert not np.array_equal(made[0].positions, rattled_structures(bases, config, seed=4)[0].positions)
    assert rattled_structures(bases, RattleConfig(count=0), seed=3) == []
    assert made[1].info == {"origin": "rattled", "structure": 1, "index": 1}


def test_displacements_and_strain_have_the_stated_size() -> None:
    base = bulk("Al", cubic=True).repeat(2)
    config = RattleConfig(count=60, rattle=0.08, strain=0.05)
    strains, displacements = [], []
    for atoms in rattled_structures([base], config, seed=0):
        deformation = np.linalg.solve(base.cell.array, atoms.cell.array).T
        assert deformation == pytest.approx(deformation.T, abs=1e-12)
        strains.append(deformation - np.eye(3))
        displacements.append(atoms.positions @ np.linalg.inv(deformation).T - base.positions)
    assert np.abs(strains).max() <= 0.05
    assert np.abs(strains).max() > 0.045
    assert np.std(displacements) == pytest.approx(0.08, rel=0.05)


def test_vacuum_and_molecules_are_not_strained() -> None:
    slab = fcc111("Al", (2, 2, 2), vacuum=6.0)
    made = rattled_structures([slab], RattleConfig(count=3, strain=0.1), seed=0)
    for atoms in made:
        assert atoms.cell.array[2] == pytest.approx(slab.cell.array[2])
        assert atoms.cell.array[:2, 2] == pytest.approx(0)
        assert not np.allclose(atoms.cell.array[:2], slab.cell.array[:2], atol=1e-3)
    water = molecule("H2O")
    moved = rattled_structures([water], RattleConfig(count=1, rattle=0.02, strain=0.2), seed=0)[0]
    assert np.abs(moved.positions - water.positions).max() < 0.1
    assert moved.cell.rank == 0


def test_nothing_of_the_run_is_carried_along() -> None:
    atoms = bulk("Al", cubic=True)
    atoms.set_constraint(FixAtoms([0]))
    atoms.set_momenta(np.ones((4, 3)))
    atoms.calc = EMT()
    made = rattled_structures([atoms], RattleConfig(count=1), seed=0)[0]
    assert not made.constraints
    assert not made.has("momenta")
    assert made.calc is None
    assert not np.array_equal(made.positions[0], atoms.positions[0])
    assert np.array_equal(atoms.positions, bulk("Al", cubic=True).positions)


@pytest.mark.parametrize(
    ("unit", "repeat"),
    [
        (bulk("Li", cubic=True), (3, 4, 5)),
        (bulk("Al"), (4, 4, 6)),
        (bulk("NaCl", "rocksalt", a=5.64, cubic=True), (2, 3, 1)),
        (bulk("Ti"), (6, 5, 3)),
        (fcc111("Al", (1, 1, 3), vacuum=5.0), (5, 3, 1)),
        (nanotube(4, 4, length=1, vacuum=5.0), (1, 1, 6)),
    ],
    ids=["bcc", "fcc primitive", "NaCl", "hcp", "slab", "nanotube"],
)
def test_repeat_unit_is_found_whatever_the_cell(unit: Atoms, repeat: tuple[int, int, int]) -> None:
    large = unit.repeat(repeat)
    rng = np.random.default_rng(0)
    large.positions += rng.uniform(-3, 3, size=3)
    large.wrap()
    large = large[rng.permutation(len(large))]
    found = repeat_unit(large)
    assert len(found) <= len(unit)
    factors = np.rint(large.cell.lengths() / found.cell.lengths()).astype(int)
    rebuilt = found.repeat(factors)
    assert sorted(rebuilt.numbers) == sorted(large.numbers)
    # The same crystal: every atom has its twin, up to one common translation that is none here.
    for number in np.unique(large.numbers):
        ours = Atoms(cell=large.cell, pbc=large.pbc) + rebuilt[rebuilt.numbers == number]
        combined = ours + large[large.numbers == number]
        n = len(ours)
        distances = combined.get_all_distances(mic=True)[:n, n:]
        assert distances.min(axis=1).max() < 1e-6


def test_disordered_structures_repeat_nothing() -> None:
    atoms = bulk("Li", cubic=True).repeat(3)
    atoms.rattle(0.05, seed=0)
    assert len(repeat_unit(atoms)) == 54
    vacancy = bulk("Li", cubic=True).repeat(3)
    del vacancy[5]
    assert len(repeat_unit(vacancy)) == 53


def test_large_crystals_are_cut_to_whole_units() -> None:
    large = bulk("Li", cubic=True).repeat(6)
    made = rattled_structures([large], RattleConfig(count=1, max_atoms=64, rattle=0, strain=0), seed=0)[0]
    assert len(made) == 54
    assert made.cell.lengths() == pytest.approx(large.cell.lengths() / 2)
    assert made.get_volume() / 54 == pytest.approx(large.get_volume() / 432)
    assert shortest_distance(made) == pytest.approx(shortest_distance(large))
    slab = fcc111("Al", (6, 6, 3), vacuum=6.0)
    small = rattled_structures([slab], RattleConfig(count=1, max_atoms=30, rattle=0, strain=0), seed=0)[0]
    assert len(small) == 27
    assert small.cell.array[2] == pytest.approx(slab.cell.array[2])


def test_large_disorder_is_refused_with_a_remedy() -> None:
    atoms = make_supercell(bulk("Li", cubic=True), np.diag([4, 4, 4]))
    atoms.rattle(0.1, seed=0)
    with pytest.raises(ConfigError, match=r"128 atoms \(Li128\) is larger than max_atoms 64 .*dataset\.initial"):
        rattled_structures([atoms], RattleConfig(count=2), seed=0)
    with pytest.raises(ConfigError, match="no starting structure"):
        rattled_structures([], RattleConfig(count=2), seed=0)


def test_atoms_never_come_into_contact() -> None:
    base = bulk("Li", cubic=True).repeat(2)
    for atoms in rattled_structures([base], RattleConfig(count=20, rattle=0.2), seed=0):
        assert shortest_distance(atoms) > 0.7 * shortest_distance(base)
    with pytest.raises(ConfigError, match=r"displacements of 2\.0 Å .* lower dataset\.rattled\.rattle"):
        rattled_structures([base], RattleConfig(count=1, rattle=2.0), seed=0)
