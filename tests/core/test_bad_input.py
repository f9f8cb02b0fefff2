"""Odd and broken input: a defined answer or a clear error, never a wrong number."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ideal.errors import UncertaintyError
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty import SoapMahalanobis

from . import structures

quick = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
KINDS = st.sampled_from([("full", None), ("low_rank", None), ("low_rank", 12), ("auto", None)])


def soap() -> SoapPowerSpectrum:
    return SoapPowerSpectrum(["Na", "Cl"], r_cut=3.5, n_max=3, l_max=3)


def made(kind: tuple[str, int | None] = ("auto", None), per_species: bool = True) -> SoapMahalanobis:
    return SoapMahalanobis(soap(), per_species=per_species, metric=kind[0], rank=kind[1])


@pytest.fixture(scope="module")
def known() -> dict[tuple[str, int | None], SoapMahalanobis]:
    learned = {kind: made(kind) for kind in (("full", None), ("low_rank", None), ("low_rank", 12), ("auto", None))}
    for uncertainty in learned.values():
        uncertainty.update([structures.salt(seed) for seed in range(20)])
    return learned


def random_atoms(seed: int, n: int, periodic: tuple[bool, bool, bool], edge: float, skew: float) -> Atoms:
    """Atoms at least 1 Å apart (images too) in a cell of any shape; fewer than n where there is no room."""
    rng = np.random.default_rng(seed)
    cell = edge * (np.eye(3) + skew * rng.uniform(-1, 1, (3, 3)))
    atoms = Atoms(cell=cell, pbc=periodic)
    for _ in range(10 * n):
        if len(atoms) == n:
            break
        trial = atoms + Atoms("Na" if rng.random() < 0.5 else "Cl", [rng.random(3) @ cell])
        distances = trial.get_all_distances(mic=True)
        if len(trial) == 1 or distances[-1, :-1].min() > 1.0:
            atoms = trial
    return atoms


@quick
@given(kind=KINDS, n=st.integers(1, 12), copies=st.integers(1, 3), per_species=st.booleans())
def test_tiny_training_sets(kind, n, copies, per_species):
    """One environment, two, a few: rank-deficient covariances, never fewer digits than that."""
    uncertainty = made(kind, per_species)
    train = structures.salt(3)[:]
    mask = np.arange(8) < n
    for _ in range(copies):
        uncertainty.update(train, masks=mask)
    atoms = structures.salt(4)
    u = uncertainty.atomic(atoms)
    assert not np.isnan(u).any()
    assert (u > 0).all()
    for symbol in ("Na", "Cl"):
        distinct = mask.sum() if not per_species else (mask & (train.symbols == symbol)).sum()
        own = atoms.symbols == symbol
        if distinct < 2:
            assert np.isinf(u[own]).all()
        else:
            assert np.isfinite(u[own]).all()
            learned = mask if not per_species else mask & (train.symbols == symbol)
            count = copies * learned.sum()
            mean = (uncertainty.atomic(train)[learned] ** 2).mean()
            assert mean == pytest.approx((count - 1) / count, rel=1e-6)
    np.testing.assert_array_equal(uncertainty.screen(atoms, 1.0) > 1.0, u > 1.0)


@quick
@given(copies=st.integers(2, 5), kind=KINDS)
def test_identical_environments(copies, kind):
    uncertainty = made(kind)
    uncertainty.update([bulk("NaCl", "rocksalt", a=5.6)] * copies)
    assert uncertainty.counts == {"Na": copies, "Cl": copies}
    assert np.isinf(uncertainty.atomic(structures.salt())).all()
    with pytest.raises(UncertaintyError, match="at least two different"):
        uncertainty.gradient(structures.salt())


@quick
@given(kind=KINDS)
def test_unseen_species_is_infinite_and_said_so(kind):
    uncertainty = made(kind)
    uncertainty.update([structures.salt(seed) for seed in range(5)], masks=[structures.salt().symbols == "Na"] * 5)
    atoms = structures.salt(7)
    chlorine = atoms.symbols == "Cl"
    for u in (uncertainty.atomic(atoms), uncertainty.screen(atoms, 2.0), uncertainty.hinge(atoms, 4.0, ~chlorine)[3]):
        assert np.isinf(u[chlorine]).all()
        assert np.isfinite(u[~chlorine]).all()
    with pytest.raises(UncertaintyError, match=r"\(Cl\) is infinite"):
        uncertainty.hinge(atoms, 4.0)


@quick
@given(
    where=st.sampled_from(["positions", "cell"]),
    value=st.sampled_from([np.nan, np.inf, -np.inf, 1e300, -1e12]),
    atom=st.integers(0, 7),
    axis=st.integers(0, 2),
)
def test_numbers_that_are_not_finite(known, where, value, atom, axis):
    atoms = structures.salt(1)
    if where == "positions":
        atoms.positions[atom, axis] = value
    else:
        atoms.cell[axis, axis] = value if abs(value) != 1e12 else 1e-12
    uncertainty = known["auto", None].copy()
    before = uncertainty.statistics("Na")
    for call in (
        uncertainty.soap.create,
        uncertainty.atomic,
        uncertainty.gradient,
        uncertainty.update,
        lambda a: uncertainty.screen(a, 1.0),
        lambda a: uncertainty.hinge(a, 1.0),
    ):
        with pytest.raises(UncertaintyError):
            call(atoms)
    for ours, theirs in zip(uncertainty.statistics("Na"), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@quick
@given(distance=st.floats(0, 1e-9), image=st.booleans())
def test_atoms_on_top_of_each_other(known, distance, image):
    atoms = structures.salt(1)
    shift = atoms.cell[1] if image else 0.0
    atoms += Atoms("Na", [atoms.positions[3] + [distance, 0, 0] + shift])
    for call in (known["full", None].atomic, known["full", None].gradient):
        with pytest.raises(UncertaintyError, match="coincide"):
            call(atoms)


def test_thousands_of_neighbors(known):
    """A density a hundred times that of any solid: all neighbors count, values stay finite and far out."""
    rng = np.random.default_rng(0)
    n = 3000
    grid = np.stack(np.meshgrid(*[np.arange(15)] * 3), axis=-1).reshape(-1, 3)[:n] * 0.35
    atoms = Atoms(rng.choice(["Na", "Cl"], n), grid + rng.normal(0, 0.02, (n, 3)))
    few = [0, 1500, 2999]
    features = known["full", None].soap.create(atoms, few)
    assert np.isfinite(features).all()
    inside = np.linalg.norm(atoms.positions - atoms.positions[1500], axis=1) <= known["full", None].soap.support
    assert inside.sum() > 2000
    alone = atoms[inside]
    index = int(inside[:1500].sum())
    np.testing.assert_allclose(known["full", None].soap.create(alone, [index])[0], features[1], rtol=1e-10)
    for uncertainty in known.values():
        u = uncertainty.atomic(atoms, few)
        assert np.isfinite(u).all()
        assert u.min() > 100


@quick
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 10),
    periodic=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    edge=st.sampled_from([1.3, 2.5, 5.0, 30.0]),
    skew=st.floats(0, 0.4),
    kind=KINDS,
)
def test_cells_of_every_kind(known, seed, n, periodic, edge, skew, kind):
    """Smaller than the cutoff, skewed, open: u of the cell is u of an explicit supercell, moved, permuted, rotated."""
    atoms = random_atoms(seed, n, periodic, edge, skew)
    uncertainty = known[kind]
    u = uncertainty.atomic(atoms)
    assert u.shape == (len(atoms),)
    assert np.isfinite(u).all()
    repeat = [2 if p else 1 for p in periodic]
    np.testing.assert_allclose(
        uncertainty.atomic(atoms * repeat), np.tile(u, int(np.prod(repeat))), rtol=1e-6, atol=1e-6
    )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(atoms))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    moved = atoms[order]
    moved.positions = (moved.positions + rng.uniform(-20, 20, 3)) @ rotation
    moved.set_cell(atoms.cell.array @ rotation)
    np.testing.assert_allclose(uncertainty.atomic(moved), u[order], rtol=1e-5)


@quick
@given(seed=st.integers(0, 10_000), kind=KINDS, periodic=st.booleans())
def test_gradient_and_hinge_agree_with_values(known, seed, kind, periodic):
    atoms = random_atoms(seed, 6, (periodic, True, False), 4.5, 0.2)
    uncertainty = known[kind]
    u = uncertainty.atomic(atoms)
    floor = float(np.median(u)) ** 2
    value, gradient, _, u_hinge = uncertainty.hinge(atoms, floor)
    np.testing.assert_allclose(u_hinge, u, rtol=1e-9)
    assert value == pytest.approx(np.maximum(0, u**2 - floor).sum(), rel=1e-9)
    active = np.where(u**2 > floor, 1 / np.array([uncertainty.effective_dimensions[s] for s in atoms.symbols]), 0.0)
    np.testing.assert_allclose(
        gradient, uncertainty.gradient(atoms, active)[0], rtol=0, atol=1e-9 * np.abs(gradient).max() + 1e-300
    )
    direction = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    values = []
    for step in (-2e-5, -1e-5, 1e-5, 2e-5):
        shifted = atoms.copy()
        shifted.positions += step * direction
        values.append(float(active @ uncertainty.squared_mahalanobis(shifted)))
    numeric = (8 * (values[2] - values[1]) - (values[3] - values[0])) / 1.2e-4
    scale = np.linalg.norm(gradient) * np.linalg.norm(direction) + abs(value) * 1e-3
    assert abs(numeric - float((gradient * direction).sum())) < 1e-5 * scale


def test_degenerate_cells(known):
    for cell in ([[4, 0, 0], [4, 0, 0], [0, 0, 4]], np.zeros((3, 3)), [[4, 0, 0], [0, 4, 0], [4, 4, 0]]):
        atoms = Atoms("NaCl", [[0, 0, 0], [2, 0, 0]], cell=cell, pbc=True)
        with pytest.raises(UncertaintyError, match="cell"):
            known["full", None].atomic(atoms)


def test_flat_cell(known):
    """1.5 Å thick, 40 Å wide: seven images up and down."""
    atoms = Atoms("NaClNaCl", [[0, 0, 0], [3, 0.2, 0.7], [20, 1, 1], [23, 0, 0.3]], cell=[40, 6, 1.5], pbc=True)
    u = known["full", None].atomic(atoms)
    np.testing.assert_allclose(known["full", None].atomic(atoms * (1, 1, 3)), np.tile(u, 3), rtol=1e-6)


def test_nothing_to_do(known):
    for uncertainty in known.values():
        before = uncertainty.counts
        uncertainty.update([])
        uncertainty.update(Atoms())
        uncertainty.update(structures.salt(), masks=np.zeros(8, dtype=bool))
        assert uncertainty.counts == before
        assert uncertainty.atomic(Atoms()).shape == (0,)
        assert uncertainty.atomic(structures.salt(), centers=[]).shape == (0,)
        assert uncertainty.screen(structures.salt(), 1.0, centers=[]).shape == (0,)
        gradient, strain = uncertainty.gradient(Atoms())
        assert gradient.shape == (0, 3)
        assert not strain.any()
