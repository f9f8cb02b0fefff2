"""What every uncertainty must satisfy; add one to `CASES` and these tests run on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from scipy.spatial.transform import Rotation

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.errors import UncertaintyError
from ideal.uncertainty import AtomwiseUncertainty, DistributionUncertainty, TotalUncertainty
from ideal.uncertainty.committee import ModelCommittee
from ideal.uncertainty.gradient_features import GradientFeatures
from ideal.uncertainty.loading import load_uncertainty

from .examples import ELEMENTS, STRUCTURES, check_gradient, potential, salt, training_set


@dataclass(frozen=True)
class Case:
    """An implementation: one that has learned nothing, how to load it, and what it promises beyond the protocol."""

    make: Callable[[], Any]
    load: Callable[[Path], Any]
    has_total: bool = True
    training_rms: float = 1.0


def _soap(**metric: Any) -> SoapMahalanobis:
    soap = SoapPowerSpectrum(ELEMENTS, r_cut=4.0, n_max=3, l_max=2, sigma=0.5)
    return SoapMahalanobis(soap, ridge=1e-6, **metric)


def _committee(measure: str) -> Case:
    return Case(lambda: ModelCommittee([potential(seed) for seed in range(3)], measure), ModelCommittee.load)


def _gradient_features(measure: str, training_rms: float) -> Case:
    return Case(
        lambda: GradientFeatures(potential(), measure, size=48, regularization=1e-6),
        GradientFeatures.load,
        training_rms=training_rms,
    )


CASES = {
    "soap": Case(_soap, SoapMahalanobis.load, has_total=False),
    "soap, low rank": Case(lambda: _soap(metric="low_rank", rank=40), SoapMahalanobis.load, has_total=False),
    "committee, force std": _committee("force_std"),
    "committee, relative force": _committee("relative_force"),
    "gradient features, posterior": _gradient_features("posterior", 1.0),
    "gradient features, distance": _gradient_features("distance", 0.0),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def learned(case: Case) -> Any:
    """Knows environments of Na and Cl; tests must not change it."""
    uncertainty = case.make()
    uncertainty.update(training_set())
    return uncertainty


@pytest.fixture(scope="module")
def fresh(case: Case) -> Any:
    return case.make()


def test_satisfies_the_protocols(case: Case, fresh: Any) -> None:
    assert isinstance(fresh, AtomwiseUncertainty)
    assert isinstance(fresh, TotalUncertainty) == case.has_total
    assert isinstance(fresh, DistributionUncertainty) == isinstance(fresh, SoapMahalanobis)


def test_values_are_of_order_one(case: Case, learned: Any) -> None:
    u = np.concatenate([learned.atomic(atoms) for atoms in training_set()])
    assert np.sqrt((u**2).mean()) == pytest.approx(case.training_rms, abs=0.03)
    for make in STRUCTURES.values():
        u = learned.atomic(make(7))
        assert u.shape == (8,)
        assert u.dtype == np.float64
        assert (u >= 0).all()
        assert np.isfinite(u).all()
    unseen = np.concatenate([learned.atomic(salt(seed)) for seed in range(4)])
    assert 0.3 < np.sqrt((unseen**2).mean()) < 5


def test_nothing_known_is_infinite(case: Case, fresh: Any, learned: Any) -> None:
    atoms = salt()
    assert fresh.counts == dict.fromkeys(ELEMENTS, 0)
    assert np.isinf(fresh.atomic(atoms)).all()
    atoms.symbols[3] = "O"
    u = learned.atomic(atoms)
    assert np.isinf(u[3])
    assert np.isfinite(np.delete(u, 3)).all()
    with pytest.raises(UncertaintyError, match=r"atom 3 \(O\) is infinite.*update"):
        learned.squared_gradient(atoms)
    gradient, _ = learned.squared_gradient(atoms, np.arange(8) != 3)
    assert np.isfinite(gradient).all()
    assert gradient.any()


def test_centers(learned: Any) -> None:
    atoms = salt(7)
    u = learned.atomic(atoms)
    np.testing.assert_allclose(learned.atomic(atoms, centers=[6, 1, 3]), u[[6, 1, 3]], rtol=1e-12)
    assert learned.atomic(atoms, centers=[]).shape == (0,)
    with pytest.raises(UncertaintyError, match="center 8"):
        learned.atomic(atoms, centers=[8])


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_translation_rotation_permutation(learned: Any, name: str) -> None:
    atoms = STRUCTURES[name](5)
    rotation = Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix()
    order = np.random.default_rng(0).permutation(len(atoms))
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ rotation.T)
    moved.positions = atoms.positions @ rotation.T + [3.0, -7.0, 11.0]
    np.testing.assert_allclose(learned.atomic(moved[order]), learned.atomic(atoms)[order], rtol=1e-6)


def test_supercell(learned: Any) -> None:
    atoms = salt(5)
    np.testing.assert_allclose(learned.atomic(atoms * (1, 2, 1)), np.tile(learned.atomic(atoms), 2), rtol=1e-6)


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_gradient_is_the_derivative(learned: Any, name: str) -> None:
    atoms = STRUCTURES[name](3)
    weights = np.random.default_rng(0).normal(size=len(atoms))
    weights[1] = 0
    gradient, strain = learned.squared_gradient(atoms, weights)
    check_gradient(lambda a: float(weights @ learned.atomic(a) ** 2), atoms, gradient, strain)


def test_weights_are_one_by_default(learned: Any) -> None:
    atoms = salt(3)
    for found, expected in zip(
        learned.squared_gradient(atoms), learned.squared_gradient(atoms, np.ones(8)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_learning_counts_environments_and_lowers_u(case: Case) -> None:
    uncertainty = case.make()
    uncertainty.update(training_set())
    assert uncertainty.counts == {"Na": 24, "Cl": 24, "O": 0}
    foreign = [salt(seed, amplitude=0.4) for seed in range(3)]
    before = np.concatenate([uncertainty.atomic(atoms) for atoms in foreign])
    assert before.mean() > 1
    uncertainty.update(foreign)
    after = np.concatenate([uncertainty.atomic(atoms) for atoms in foreign])
    assert after.mean() < before.mean()
    uncertainty.update(salt(1), masks=np.arange(8) < 3)
    assert sum(uncertainty.counts.values()) == 75
    uncertainty.update([])
    uncertainty.update([salt(2), salt(3)], masks=[None, np.zeros(8, dtype=bool)])
    assert sum(uncertainty.counts.values()) == 83


def test_order_and_grouping_of_updates_do_not_matter(case: Case, learned: Any) -> None:
    uncertainty = case.make()
    for atoms in reversed(training_set()):
        mask = np.arange(8) < 3
        uncertainty.update(atoms, masks=mask)
        uncertainty.update([atoms], masks=[~mask])
    np.testing.assert_allclose(uncertainty.atomic(salt(5)), learned.atomic(salt(5)), rtol=1e-7)


def test_save_and_load(case: Case, tmp_path: Path) -> None:
    uncertainty, path = case.make(), tmp_path / "uncertainty"
    uncertainty.save(path)
    assert case.load(path).counts == dict.fromkeys(ELEMENTS, 0)
    uncertainty.update(training_set())
    uncertainty.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["uncertainty"]
    assert type(load_uncertainty(path)) is type(uncertainty)
    loaded, atoms = case.load(path), salt(4)
    assert loaded.counts == uncertainty.counts
    np.testing.assert_allclose(loaded.atomic(atoms), uncertainty.atomic(atoms), rtol=1e-12)
    for both in (loaded, uncertainty):
        both.update(atoms)
    np.testing.assert_allclose(loaded.atomic(salt(5)), uncertainty.atomic(salt(5)), rtol=1e-12)


def test_files_that_cannot_be_read(case: Case, learned: Any, tmp_path: Path) -> None:
    with pytest.raises(UncertaintyError, match="does not exist"):
        case.load(tmp_path / "nothing")
    path = tmp_path / "uncertainty"
    learned.save(path)
    file = path if path.is_file() else path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UncertaintyError, match="cannot be read"):
        case.load(path)


@pytest.mark.parametrize("method", ["atomic", "squared_gradient", "update"])
def test_structures_that_cannot_be_evaluated(case: Case, method: str) -> None:
    uncertainty = case.make()
    uncertainty.update(training_set())
    broken = {"Si": salt(), "finite": salt(), "atoms 2 and 5|atoms 5 and 2": salt()}
    broken["Si"].symbols[2] = "Si"
    broken["finite"].positions[2, 1] = np.nan
    broken["atoms 2 and 5|atoms 5 and 2"].positions[2] = broken["atoms 2 and 5|atoms 5 and 2"].positions[5]
    for message, atoms in broken.items():
        with pytest.raises(UncertaintyError, match=message):
            getattr(uncertainty, method)(atoms)
    assert sum(uncertainty.counts.values()) == 48


def test_one_thread_learns_while_others_evaluate(case: Case) -> None:
    uncertainty = case.make()
    uncertainty.update(training_set())

    def evaluate(seed: int) -> bool:
        return all(np.isfinite(uncertainty.atomic(salt(seed))).all() for _ in range(5))

    with ThreadPoolExecutor(3) as threads:
        results = [threads.submit(evaluate, seed) for seed in range(3)]
        for seed in range(5):
            uncertainty.update(salt(seed))
        assert all(result.result() for result in results)
    assert sum(uncertainty.counts.values()) == 88


def test_no_atoms(case: Case) -> None:
    uncertainty = case.make()
    uncertainty.update(Atoms())
    assert uncertainty.atomic(Atoms()).shape == (0,)
    gradient, strain = uncertainty.squared_gradient(Atoms())
    assert gradient.shape == (0, 3)
    np.testing.assert_array_equal(strain, np.zeros((3, 3)))
    assert not any(uncertainty.counts.values())


def test_arguments_that_do_not_fit(learned: Any) -> None:
    with pytest.raises(UncertaintyError, match=r"mask of shape \(3,\)"):
        learned.update([salt()], masks=[np.ones(3, dtype=bool)])
    with pytest.raises(UncertaintyError, match="2 masks for 1"):
        learned.update([salt()], masks=[None, None])
    with pytest.raises(UncertaintyError, match=r"weights has shape \(3,\)"):
        learned.squared_gradient(salt(), np.ones(3))
    with pytest.raises(UncertaintyError, match="finite"):
        learned.squared_gradient(salt(), np.full(8, np.nan))


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.has_total], indirect=True)
@pytest.mark.parametrize("name", list(STRUCTURES))
def test_total_and_its_gradient(case: Case, learned: Any, name: str) -> None:
    atoms = STRUCTURES[name](3)
    value, gradient, strain = learned.total_gradient(atoms)
    assert value == pytest.approx(learned.total(atoms), rel=1e-12)
    assert 0 < value < np.inf
    check_gradient(learned.total, atoms, gradient, strain)


def test_importing_the_package_loads_no_torch() -> None:
    code = (
        "import sys, ideal.uncertainty, ideal.uncertainty.committee, ideal.uncertainty.gradient_features as _;"
        "sys.exit(bool({'torch', 'matgl'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
