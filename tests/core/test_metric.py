"""Metrics for many features, screening, one distribution over all elements, merging, the C++ side of the state file."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from ideal import _core
from ideal.errors import ConfigError, UncertaintyError
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty import SoapMahalanobis

from . import structures


def large_soap() -> SoapPowerSpectrum:
    """546 features: above 500, where low rank begins."""
    return SoapPowerSpectrum(["Na", "Cl"], r_cut=4.0, n_max=6, l_max=6)


def small_soap() -> SoapPowerSpectrum:
    return SoapPowerSpectrum(["Na", "Cl"], r_cut=4.0, n_max=4, l_max=3)


def salts(n: int, first_seed: int = 0, amplitude: float = 0.15) -> list[Atoms]:
    return [structures.salt(seed, amplitude) for seed in range(first_seed, first_seed + n)]


@pytest.fixture(scope="module")
def metrics() -> dict[str, SoapMahalanobis]:
    made = {name: SoapMahalanobis(large_soap(), metric=name) for name in ("full", "low_rank", "auto")}
    for uncertainty in made.values():
        uncertainty.update(salts(120))
    return made


@pytest.fixture(scope="module")
def foreign() -> list[Atoms]:
    """From the training set's kind to far outside."""
    return [structures.salt(900 + k, amplitude) for k, amplitude in enumerate((0.05, 0.15, 0.25, 0.4))]


def test_low_rank_agrees_with_the_full_metric(metrics, foreign):
    full, low = metrics["full"], metrics["low_rank"]
    exact = np.concatenate([full.atomic(atoms) for atoms in foreign])
    u = np.concatenate([low.atomic(atoms) for atoms in foreign])
    assert full.ranks == {"Na": 546, "Cl": 546}
    assert full.error_bounds == {"Na": (1.0, 1.0), "Cl": (1.0, 1.0)}
    for symbol, (lower, upper) in low.error_bounds.items():
        assert 0.9 <= lower < 1 < upper <= 1.1
        assert low.ranks[symbol] < 400
    error = u / exact - 1
    assert np.abs(error).max() < 0.02
    assert np.sqrt((error**2).mean()) < 5e-3
    assert exact.max() / exact.min() > 20


def test_u_averages_to_one_over_the_training_set(metrics):
    for uncertainty in metrics.values():
        squares = np.concatenate([uncertainty.atomic(atoms) for atoms in salts(120)]) ** 2
        assert squares.mean() == pytest.approx(479 / 480, abs=2e-5)


def test_auto_is_low_rank_above_500_features(metrics, foreign):
    np.testing.assert_array_equal(metrics["auto"].atomic(foreign[1]), metrics["low_rank"].atomic(foreign[1]))
    small = SoapMahalanobis(small_soap())
    small.update(salts(10))
    assert small.ranks == {"Na": 144, "Cl": 144}


@pytest.mark.parametrize("metric", ["full", "low_rank"])
def test_screening_gives_the_exact_answer(metrics, foreign, metric):
    uncertainty = metrics[metric]
    for atoms in foreign[1:]:
        u = uncertainty.atomic(atoms)
        for threshold in (*u, *(u * (1 + 1e-7)), np.median(u), -1.0, np.inf):
            screened = uncertainty.screen(atoms, threshold)
            np.testing.assert_array_equal(screened > threshold, u > threshold)
            np.testing.assert_allclose(screened, u, rtol=1e-4 if metric == "low_rank" else 0.02)
        np.testing.assert_allclose(uncertainty.screen(atoms, u[3], centers=[3, 0])[0], u[3], rtol=1e-12)


def test_screening_few_features_is_exact():
    uncertainty = SoapMahalanobis(small_soap())
    uncertainty.update(salts(10))
    atoms = structures.salt(99)
    np.testing.assert_array_equal(uncertainty.screen(atoms, 1.0), uncertainty.atomic(atoms))
    assert uncertainty.screen(Atoms(), 1.0).shape == (0,)
    with pytest.raises(UncertaintyError, match="threshold must not be NaN"):
        uncertainty.screen(atoms, np.nan)
    assert np.isinf(SoapMahalanobis(small_soap()).screen(atoms, 1.0)).all()


def test_low_rank_gradient_against_finite_differences(foreign):
    uncertainty = SoapMahalanobis(small_soap(), ridge=1e-6, metric="low_rank", rank=60)
    uncertainty.update(salts(30))
    atoms = foreign[1]
    weights = np.random.default_rng(0).normal(size=len(atoms))
    gradient, strain = uncertainty.gradient(atoms, weights)
    structures.check_gradient(
        lambda a: float(weights @ uncertainty.squared_mahalanobis(a)), atoms, gradient, strain, tolerance=1e-6
    )
    u = uncertainty.atomic(atoms)
    floor = float(np.median(u**2))
    value, gradient, strain, u_hinge = uncertainty.hinge(atoms, floor)
    np.testing.assert_allclose(u_hinge, u, rtol=1e-12)
    assert value == pytest.approx(np.maximum(0, u**2 - floor).sum(), rel=1e-12)
    structures.check_gradient(
        lambda a: float(np.maximum(0, uncertainty.atomic(a) ** 2 - floor).sum()),
        atoms,
        gradient,
        strain,
        tolerance=1e-6,
    )


def test_rank():
    uncertainty = SoapMahalanobis(small_soap(), metric="low_rank", rank=20)
    uncertainty.update(salts(30))
    assert uncertainty.ranks == {"Na": 20, "Cl": 20}
    assert all(upper > 1.1 for _, upper in uncertainty.error_bounds.values())
    whole, full = (SoapMahalanobis(small_soap(), metric=m, rank=r) for m, r in (("low_rank", 144), ("full", None)))
    for every in (whole, full):
        every.update(salts(30))
    atoms = structures.salt(77, 0.3)
    np.testing.assert_allclose(whole.atomic(atoms), full.atomic(atoms), rtol=1e-6)


@pytest.mark.parametrize("ridge", [10.0, 1e3])
def test_low_rank_under_a_ridge_above_every_variance(ridge: float):
    low, full = (SoapMahalanobis(small_soap(), ridge=ridge, metric=metric) for metric in ("low_rank", "full"))
    for uncertainty in (low, full):
        uncertainty.update(salts(10))
    assert min(low.ranks.values()) >= 1
    atoms = structures.salt(77, 0.3)
    np.testing.assert_allclose(low.atomic(atoms), full.atomic(atoms), rtol=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "best"}, "metric = 'best'.*'auto', 'full' or 'low_rank'"),
        ({"metric": "low_rank", "rank": 0}, r"rank = 0.*1 \.\.\. 144"),
        ({"metric": "low_rank", "rank": 145}, "rank = 145"),
        ({"metric": "full", "rank": 10}, "no meaning for metric='full'"),
    ],
)
def test_refuses_metrics(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SoapMahalanobis(small_soap(), **arguments)


# ---- one distribution over all elements ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pooled() -> SoapMahalanobis:
    uncertainty = SoapMahalanobis(small_soap(), per_species=False)
    uncertainty.update(salts(20))
    return uncertainty


def test_one_distribution_over_all_elements(pooled):
    features = np.concatenate([pooled.soap.create(atoms) for atoms in salts(20)])
    n, mean, scatter = pooled.statistics("Cl")
    assert n == len(features) == 160
    assert pooled.counts == {"Na": 80, "Cl": 80}
    np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(scatter, 159 * np.cov(features, rowvar=False), atol=1e-10 * np.abs(scatter).max())
    covariance = np.cov(features, rowvar=False)
    atoms = structures.salt(50, 0.3)
    delta = pooled.soap.create(atoms) - mean
    ridge = 1e-8 * np.trace(covariance) * np.eye(len(mean))
    np.testing.assert_allclose(
        pooled.squared_mahalanobis(atoms),
        np.einsum("ij,ji->i", delta, np.linalg.solve(covariance + ridge, delta.T)),
        rtol=1e-5,
    )


def test_one_distribution_judges_unseen_elements():
    uncertainty = SoapMahalanobis(small_soap(), per_species=False)
    train = salts(10)
    uncertainty.update(train, masks=[atoms.symbols == "Na" for atoms in train])
    assert uncertainty.counts == {"Na": 40, "Cl": 0}
    u = uncertainty.atomic(train[0])
    assert np.isfinite(u).all()
    assert u[train[0].symbols == "Cl"].min() > 10 * u[train[0].symbols == "Na"].max()


def test_one_distribution_is_saved_and_merged(pooled, tmp_path):
    path = tmp_path / "pooled.safetensors"
    pooled.save(path)
    loaded = SoapMahalanobis.load(path)
    assert loaded.counts == pooled.counts
    assert not loaded.per_species
    atoms = structures.salt(50)
    np.testing.assert_array_equal(loaded.atomic(atoms), pooled.atomic(atoms))
    loaded.merge(pooled.copy())
    assert loaded.counts == {"Na": 160, "Cl": 160}
    with pytest.raises(UncertaintyError, match="per species"):
        loaded.merge(SoapMahalanobis(small_soap()))


# ---- learning in parts ---------------------------------------------------------------------------------------------


def learned(part: list[Atoms]) -> SoapMahalanobis:
    uncertainty = SoapMahalanobis(small_soap())
    uncertainty.update(part)
    return uncertainty


def assert_equal_statistics(a: SoapMahalanobis, b: SoapMahalanobis, tolerance: float) -> None:
    for symbol in a.soap.species:
        (n, mean, scatter), (n_b, mean_b, scatter_b) = a.statistics(symbol), b.statistics(symbol)
        assert n == n_b
        np.testing.assert_allclose(mean_b, mean, rtol=tolerance, atol=tolerance * np.abs(mean).max())
        np.testing.assert_allclose(scatter_b, scatter, rtol=0, atol=tolerance * np.abs(scatter).max())


def test_parts_learned_in_processes_merge_to_the_whole():
    train = salts(20)
    parts = [train[:3], train[3:4], train[4:15], train[15:]]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        learners = pool.map(learned, parts)
    whole = learned(train)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        merged = SoapMahalanobis(small_soap())
        for k in order:
            merged.merge(learners[k])
        assert_equal_statistics(whole, merged, 1e-12)
        atoms = structures.salt(60)
        np.testing.assert_allclose(merged.atomic(atoms), whole.atomic(atoms), rtol=1e-6)


def test_structures_one_by_one_or_together():
    train = salts(30)
    single = SoapMahalanobis(small_soap())
    for atoms in train:
        single.update(atoms)
    assert_equal_statistics(learned(train), single, 1e-12)


def test_structures_before_a_broken_one_are_learned():
    train = salts(3)
    train[2].positions[1] = np.inf
    uncertainty = SoapMahalanobis(small_soap())
    with pytest.raises(UncertaintyError, match="atom 1"):
        uncertainty.update(train)
    assert_equal_statistics(learned(train[:2]), uncertainty, 1e-15)
    other = SoapMahalanobis(small_soap())
    with pytest.raises(UncertaintyError, match="element K"):
        other.update([*train[:2], Atoms("K")])
    assert other.counts == uncertainty.counts


@pytest.mark.slow
def test_many_updates_lose_no_accuracy():
    """1e5 updates of one environment each, against one batch."""
    soap = SoapPowerSpectrum(["Na", "Cl"], r_cut=3.0, n_max=2, l_max=1)
    train = salts(25)
    uncertainty = SoapMahalanobis(soap)
    masks = [np.arange(8) == k for k in range(8)]
    for _ in range(500):
        for atoms in train:
            for mask in masks:
                uncertainty.update(atoms, masks=mask)
    whole = SoapMahalanobis(soap)
    whole.update(train * 500)
    assert sum(whole.counts.values()) == 100_000
    assert_equal_statistics(whole, uncertainty, 1e-10)
    atoms = structures.salt(40, 0.3)
    np.testing.assert_allclose(uncertainty.atomic(atoms), whole.atomic(atoms), rtol=1e-8)


# ---- the state file in C++ -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_species", [True, False])
@pytest.mark.parametrize(("metric", "rank"), [("auto", None), ("full", None), ("low_rank", 50)])
def test_python_and_cpp_read_each_others_files(tmp_path: Path, per_species, metric, rank):
    uncertainty = SoapMahalanobis(small_soap(), 3e-9, per_species, metric, rank)
    uncertainty.update(salts(10))
    atoms = structures.salt(70, 0.3)
    u = uncertainty.atomic(atoms)
    uncertainty.save(tmp_path / "python")
    core = _core.SoapMahalanobis.read(str(tmp_path / "python"))
    np.testing.assert_array_equal(core.atomic(*uncertainty.soap.arrays(atoms), centers=None, threads=1), u)
    core.write(str(tmp_path / "cpp"))
    back = SoapMahalanobis.load(tmp_path / "cpp")
    assert (back.soap, back.ridge, back.per_species, back.metric, back.rank) == (
        uncertainty.soap,
        3e-9,
        per_species,
        metric,
        rank,
    )
    assert back.counts == uncertainty.counts
    np.testing.assert_array_equal(back.atomic(atoms), u)
    (tmp_path / "python").write_bytes((tmp_path / "python").read_bytes()[:-16])
    with pytest.raises(UncertaintyError, match=r"cannot be read as a state.*does not fit its offsets"):
        _core.SoapMahalanobis.read(str(tmp_path / "python"))
