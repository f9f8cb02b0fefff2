"""Contacts, holes and composition of raw crops."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ideal.embedding.composition import build_crop, formula_ratio, holds_near, parse_ratio
from ideal.embedding.crop import FrameView, Surroundings
from ideal.embedding.distances import CONTACT, ShortestDistances, minimum_distances, periodic_pairs
from ideal.errors import EmbeddingError


def view_of(atoms: Atoms, index: int = 0, r_core: float = 4.0) -> Surroundings:
    return FrameView(atoms, index, vacuum=5.0).surroundings(r_core, 2.5, 200)


def closest(crop_atoms: Atoms, shortest: ShortestDistances) -> float:
    pairs = periodic_pairs(crop_atoms.positions, crop_atoms.cell.array, crop_atoms.pbc, 4.0)
    numbers = crop_atoms.numbers
    return float((pairs.distances / shortest.of(numbers[pairs.first], numbers[pairs.second])).min())


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [("Cu64", None), ("Mg32O32", {8: 1, 12: 1}), ("Al324O486", {8: 3, 13: 2}), ("Mg32O31", None)],
)
def test_formula_of_the_frame(symbols: str, expected: dict[int, int] | None) -> None:
    assert formula_ratio(Atoms(symbols).numbers) == expected


def test_ratio_is_read_from_text_or_mapping() -> None:
    assert parse_ratio("Al2O3") == parse_ratio({"Al": 2, "O": 3}) == {13: 2, 8: 3}


@pytest.mark.parametrize("wrong", ["Xx2", {"Mg": 0}, {"Zz": 1}, {}])
def test_wrong_ratio_is_an_error(wrong: object) -> None:
    with pytest.raises(EmbeddingError, match="ratio"):
        parse_ratio(wrong)  # type: ignore[arg-type]


def test_formula_does_not_bind_at_an_interface() -> None:
    magnesia = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat((4, 4, 5))
    metal = Atoms("Li", cell=[3.4, 3.4, 3.4], pbc=True).repeat((5, 5, 10))
    metal.positions[:, 2] += magnesia.cell[2, 2]
    both = magnesia + metal
    both.cell[2, 2] += 34.0
    in_metal = int(np.argmin(np.abs(both.positions[:, 2] - magnesia.cell[2, 2] - 17.0)))
    assert not holds_near(view_of(both, in_metal), {3: 2, 8: 1, 12: 1})
    assert holds_near(view_of(magnesia), {8: 1, 12: 1})


def test_perfect_period_loses_and_gains_nothing() -> None:
    atoms = bulk("MgO", "rocksalt", a=4.0, cubic=True).repeat(5)
    shortest = ShortestDistances(minimum_distances(atoms))
    crop = build_crop(view_of(atoms, r_core=3.0), np.full(3, -4.1), np.full(3, 3.9), shortest, {8: 1, 12: 1})
    assert crop is not None
    assert len(crop) == crop.n_cut == 64 and not crop.added.any() and crop.removed == 0
    assert closest(crop.atoms(), shortest) == pytest.approx(1.0)


def test_contacts_go_and_holes_are_filled() -> None:
    atoms = bulk("Cu", cubic=True).repeat(6)
    atoms.rattle(0.1, seed=4)
    shortest = ShortestDistances(minimum_distances(atoms))
    rng = np.random.default_rng(0)
    view = view_of(atoms)
    n_removed = n_added = 0
    for _ in range(20):
        lo, hi = -4.0 - rng.uniform(0, 2.5, 3), 4.0 + rng.uniform(0, 2.5, 3)
        crop = build_crop(view, lo, hi, shortest, None)
        if crop is None:
            continue
        assert closest(crop.atoms(), shortest) >= CONTACT
        assert crop.core.sum() == view.core.sum()
        n_added += int(crop.added.sum())
        n_removed += crop.n_cut + int(crop.added.sum()) - len(crop)
    assert n_removed > 0 and n_added > 0


def test_composition_is_kept_whatever_the_faces_are() -> None:
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat(5)
    atoms.rattle(0.05, seed=4)
    shortest = ShortestDistances(minimum_distances(atoms))
    rng = np.random.default_rng(0)
    view, built, repaired = view_of(atoms), 0, 0
    for _ in range(30):
        lo, hi = -4.0 - rng.uniform(0, 2.5, 3), 4.0 + rng.uniform(0, 2.5, 3)
        free = build_crop(view, lo, hi, shortest, None)
        crop = build_crop(view, lo, hi, shortest, {8: 1, 12: 1})
        if crop is None or free is None:
            continue
        built += 1
        assert (crop.numbers == 8).sum() == (crop.numbers == 12).sum()
        repaired += int((free.numbers == 8).sum() != (free.numbers == 12).sum())
        assert crop.core.sum() == view.core.sum()
    assert built > 10 and repaired > 0
