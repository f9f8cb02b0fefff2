"""Voronoi polycrystals: density, grains, contacts, order within the grains."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from ideal.errors import ConfigError
from ideal.polycrystal import polycrystal

LITHIUM = bulk("Li", "bcc", a=3.5)
NEAREST = 3.5 * np.sqrt(3) / 2


@pytest.fixture(scope="module")
def sample() -> Atoms:
    return polycrystal(LITHIUM, length=60.0, n_grains=5, seed=3)


def test_density_is_nearly_that_of_the_crystal(sample: Atoms) -> None:
    perfect = 2 / 3.5**3 * 60.0**3
    assert 0.9 < len(sample) / perfect < 1.0


def test_every_grain_is_there_and_compact(sample: Atoms) -> None:
    """Each grain's atoms fill about the volume of its Voronoi cell, and all grains the cube."""
    grains = sample.get_array("grain")
    assert sorted(set(grains.tolist())) == list(range(5))
    assert np.bincount(grains).min() > 100


def test_no_contacts(sample: Atoms) -> None:
    assert neighbor_list("d", sample, 0.8 * NEAREST).size == 0
    crowded = polycrystal(LITHIUM, length=60.0, n_grains=5, seed=3, contact=0)
    assert neighbor_list("d", crowded, 0.8 * NEAREST).size > 0
    assert len(crowded) == pytest.approx(2 / 3.5**3 * 60.0**3, rel=0.01)


def test_inside_of_grains_is_the_crystal(sample: Atoms) -> None:
    """Atoms with eight neighbors at the crystal's distance are the majority, and each grain has its own directions."""
    i, vectors = neighbor_list("iD", sample, 1.05 * NEAREST)
    perfect = (
        np.bincount(i[np.isclose(np.linalg.norm(vectors, axis=1), NEAREST, atol=1e-6)], minlength=len(sample)) == 8
    )
    assert perfect.mean() > 0.6
    grains = sample.get_array("grain")
    axes = []
    for grain in range(5):
        inside = np.flatnonzero(perfect & (grains == grain))
        axes.append(vectors[i == inside[0]])
        same = vectors[i == inside[-1]]
        assert np.allclose(np.sort(same @ axes[-1][0]), np.sort(axes[-1] @ axes[-1][0]), atol=1e-6)
    assert not np.allclose(np.sort(axes[0] @ axes[0][0]), np.sort(axes[1] @ axes[0][0]), atol=0.1)


def test_seeds_decide() -> None:
    first, again, other = (polycrystal(LITHIUM, 30.0, 2, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.positions, again.positions)
    assert len(other) != len(first) or not np.allclose(other.positions, first.positions)


def test_one_grain_and_a_compound() -> None:
    salt = bulk("NaCl", "rocksalt", a=5.6)
    atoms = polycrystal(salt, length=40.0, n_grains=1, seed=5, contact=0)
    sodium = int((atoms.numbers == 11).sum())
    assert len(atoms) == pytest.approx(8 / 5.6**3 * 40.0**3, rel=0.03)
    assert sodium == pytest.approx(len(atoms) / 2, rel=0.03)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crystal": Atoms("Li")}, "periodic along three"),
        ({"n_grains": 0}, "n_grains = 0"),
        ({"length": -1.0}, "length = -1.0"),
        ({"contact": 1.0}, "contact = 1.0"),
    ],
)
def test_arguments_out_of_range(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        polycrystal(**{"crystal": LITHIUM, "length": 20.0, "n_grains": 2, **changes})  # type: ignore[arg-type]
