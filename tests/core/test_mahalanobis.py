"""SoapMahalanobis: against plain NumPy, its statistics, its derivatives, its file, its errors."""

from __future__ import annotations

import itertools
import json
import pickle
import threading

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ideal.errors import ConfigError, UncertaintyError
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty import AtomwiseUncertainty, SoapMahalanobis

from . import structures


def small_soap(species=("Li",), threads: int = 1) -> SoapPowerSpectrum:
    return SoapPowerSpectrum(species, r_cut=4.0, n_max=4, l_max=3, threads=threads)


def training_set(make=structures.lithium, n: int = 8, first_seed: int = 100) -> list[Atoms]:
    return [make(seed) for seed in range(first_seed, first_seed + n)]


@pytest.fixture(scope="module")
def lithium() -> SoapMahalanobis:
    uncertainty = SoapMahalanobis(small_soap())
    uncertainty.update(training_set())
    return uncertainty


@pytest.fixture(scope="module")
def salt() -> SoapMahalanobis:
    uncertainty = SoapMahalanobis(small_soap(("Na", "Cl")))
    uncertainty.update(training_set(structures.salt, 20))
    return uncertainty


def plain(features: np.ndarray, training: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Unc and u by the book, through an eigendecomposition."""
    covariance = np.cov(training, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0)
    shift = ridge * values.sum()
    projected = (features - training.mean(axis=0)) @ vectors
    squared = (projected**2 / (values + shift)).sum(axis=1)
    return squared, np.sqrt(squared / (values / (values + shift)).sum())


def test_is_an_atomwise_uncertainty(lithium):
    assert isinstance(lithium, AtomwiseUncertainty)


@pytest.mark.parametrize("ridge", [1e-8, 1e-4])
def test_agrees_with_the_definition(ridge):
    soap = small_soap(("Na", "Cl"))
    train = training_set(structures.salt, 12)
    uncertainty = SoapMahalanobis(soap, ridge=ridge)
    uncertainty.update(train)
    atoms = structures.salt(5, amplitude=0.3)
    squared, u = uncertainty.squared_mahalanobis(atoms), uncertainty.atomic(atoms)
    for symbol in ("Na", "Cl"):
        own = atoms.symbols == symbol
        learned = np.concatenate([soap.create(a)[a.symbols == symbol] for a in train])
        expected_squared, expected_u = plain(soap.create(atoms)[own], learned, ridge)
        np.testing.assert_allclose(squared[own], expected_squared, rtol=1e-6)
        np.testing.assert_allclose(u[own], expected_u, rtol=1e-6)


def test_counts_and_species(salt):
    assert salt.counts == {"Na": 80, "Cl": 80}
    assert all(0 < dimension < 80 for dimension in salt.effective_dimensions.values())


@pytest.mark.parametrize(("n_max", "l_max", "ridge"), [(3, 2, 1e-8), (4, 3, 1e-8), (8, 6, 1e-8), (4, 3, 1e-3)])
def test_mean_square_is_one_over_the_training_set(n_max, l_max, ridge):
    soap = SoapPowerSpectrum(["Li"], n_max=n_max, l_max=l_max)
    uncertainty = SoapMahalanobis(soap, ridge=ridge)
    train = training_set(n=4)
    uncertainty.update(train)
    n = uncertainty.counts["Li"]
    u = np.concatenate([uncertainty.atomic(atoms) for atoms in train])
    assert (u**2).mean() == pytest.approx((n - 1) / n, rel=1e-7)


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(1, 7), max_size=3), order=st.permutations(range(8)))
def test_any_partition_gives_the_same_statistics(cuts, order):
    """Chan's rule: batches, merges and order do not matter."""
    train = training_set()
    whole = SoapMahalanobis(small_soap())
    whole.update(train)
    merged = SoapMahalanobis(small_soap())
    bounds = [0, *sorted(set(cuts)), 8]
    for begin, end in itertools.pairwise(bounds):
        part = SoapMahalanobis(small_soap())
        part.update([train[k] for k in order[begin:end]])
        merged.merge(part)
    (n, mean, scatter), (n_merged, mean_merged, scatter_merged) = whole.statistics("Li"), merged.statistics("Li")
    assert n == n_merged
    np.testing.assert_allclose(mean_merged, mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(scatter_merged, scatter, rtol=0, atol=1e-12 * np.abs(scatter).max())


def test_scatter_is_that_of_numpy(lithium):
    features = np.concatenate([lithium.soap.create(atoms) for atoms in training_set()])
    n, mean, scatter = lithium.statistics("Li")
    assert n == len(features)
    centered = features - features.mean(axis=0)
    np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scatter, centered.T @ centered, rtol=0, atol=1e-12 * np.abs(scatter).max())


def test_large_updates_are_cut_into_batches():
    """More atoms than one internal batch holds."""
    atoms = structures.lithium(repeat=13)
    uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Li"], r_cut=2.0, n_max=2, l_max=1))
    uncertainty.update(atoms)
    features = uncertainty.soap.create(atoms)
    n, mean, scatter = uncertainty.statistics("Li")
    assert n == len(atoms) == 4394
    np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scatter, n * np.cov(features, rowvar=False, bias=True), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("amplitude", [1e-2, 1e-4, 1e-6, 1e-8])
def test_nearly_perfect_crystals(amplitude):
    """Tiny fluctuations on large means: the covariance must stay positive definite."""
    uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Li"]), ridge=1e-10)
    train = [structures.lithium(seed, amplitude=amplitude) for seed in range(4)]
    for atoms in train:
        uncertainty.update(atoms)
    u = np.concatenate([uncertainty.atomic(atoms) for atoms in train])
    n = uncertainty.counts["Li"]
    assert (u**2).mean() == pytest.approx((n - 1) / n, rel=1e-3)
    assert uncertainty.atomic(structures.lithium(9, amplitude=100 * amplitude)).min() > 10


def test_nothing_known_is_infinite():
    uncertainty = SoapMahalanobis(small_soap(("Na", "Cl")))
    atoms = structures.salt()
    assert np.isinf(uncertainty.atomic(atoms)).all()
    assert np.isinf(uncertainty.squared_mahalanobis(atoms)).all()
    uncertainty.update(atoms, masks=np.arange(len(atoms)) == 0)
    assert sum(uncertainty.counts.values()) == 1
    assert np.isinf(uncertainty.atomic(atoms)).all()
    uncertainty.update(
        training_set(structures.salt, 3), masks=[a.symbols == "Na" for a in training_set(structures.salt, 3)]
    )
    u = uncertainty.atomic(atoms)
    assert np.isfinite(u[atoms.symbols == "Na"]).all()
    assert np.isinf(u[atoms.symbols == "Cl"]).all()


def test_identical_environments_are_infinite():
    uncertainty = SoapMahalanobis(small_soap())
    uncertainty.update([bulk("Li", cubic=True), bulk("Li") * (3, 2, 1)])
    assert uncertainty.counts == {"Li": 8}
    assert uncertainty.effective_dimensions == {"Li": 0.0}
    assert np.isinf(uncertainty.atomic(structures.lithium())).all()


def test_centers(salt):
    atoms = structures.salt(7)
    u = salt.atomic(atoms)
    np.testing.assert_allclose(salt.atomic(atoms, centers=[6, 1, 3]), u[[6, 1, 3]], rtol=1e-12)
    np.testing.assert_allclose(
        salt.squared_mahalanobis(atoms, centers=[2])[0], salt.squared_mahalanobis(atoms)[2], rtol=1e-12
    )
    assert salt.atomic(atoms, centers=[]).shape == (0,)
    assert salt.atomic(Atoms()).shape == (0,)


def test_masks_choose_what_is_learned():
    train = training_set(n=3)
    masks = [np.arange(len(atoms)) < 5 for atoms in train]
    masked = SoapMahalanobis(small_soap())
    masked.update(train, masks=masks)
    features = np.concatenate([masked.soap.create(atoms)[:5] for atoms in train])
    assert masked.counts == {"Li": 15}
    np.testing.assert_allclose(masked.statistics("Li")[1], features.mean(axis=0), rtol=1e-12)
    partly = SoapMahalanobis(small_soap())
    partly.update(train[:2], masks=[None, masks[0]])
    assert partly.counts == {"Li": len(train[0]) + 5}


@pytest.mark.parametrize(
    "make", [structures.lithium, structures.salt, structures.triclinic, structures.slab, structures.ethanol]
)
def test_gradient_against_finite_differences(make):
    atoms = make(3)
    uncertainty = SoapMahalanobis(small_soap(sorted(set(atoms.symbols))), ridge=1e-6)
    uncertainty.update(training_set(make, 12))
    weights = np.random.default_rng(0).normal(size=len(atoms))
    weights[1] = 0
    gradient, strain = uncertainty.gradient(atoms, weights)
    structures.check_gradient(
        lambda a: float(weights @ uncertainty.squared_mahalanobis(a)), atoms, gradient, strain, tolerance=1e-6
    )
    default = uncertainty.gradient(atoms)
    np.testing.assert_array_equal(default[0], uncertainty.gradient(atoms, np.ones(len(atoms)))[0])


def test_hinge(salt):
    atoms = structures.salt(3, amplitude=0.25)
    u = salt.atomic(atoms)
    floor = float(np.median(u**2))
    mask = np.arange(len(atoms)) != int(u.argmax())
    value, gradient, strain, u_hinge = salt.hinge(atoms, floor, mask)
    np.testing.assert_allclose(u_hinge, u, rtol=1e-13)
    assert value == pytest.approx(np.maximum(0, u**2 - floor)[mask].sum(), rel=1e-12)
    structures.check_gradient(
        lambda a: float(np.maximum(0, salt.atomic(a) ** 2 - floor)[mask].sum()), atoms, gradient, strain, tolerance=1e-6
    )


def test_hinge_with_floor_and_weight_per_atom(salt):
    atoms = structures.salt(3)
    u = salt.atomic(atoms)
    rng = np.random.default_rng(2)
    floor, weights = u**2 * rng.uniform(0.5, 1.5, len(atoms)), rng.random(len(atoms))
    value, gradient, strain, _ = salt.hinge(atoms, floor, weights)
    assert value == pytest.approx((weights * np.maximum(0, u**2 - floor)).sum(), rel=1e-12)
    dimensions = np.array([salt.effective_dimensions[symbol] for symbol in atoms.symbols])
    expected = salt.gradient(atoms, weights * (u**2 > floor) / dimensions)
    np.testing.assert_allclose(gradient, expected[0], rtol=0, atol=1e-12 * np.abs(gradient).max())
    np.testing.assert_allclose(strain, expected[1], rtol=0, atol=1e-12 * np.abs(strain).max())


def test_hinge_with_a_rounded_corner(salt):
    atoms = structures.salt(3, amplitude=0.25)
    u = salt.atomic(atoms)
    floor, width = 0.5 * u**2, np.where(np.arange(len(atoms)) % 2, 0.2, 1.0) * u**2  # beyond the corner, within it

    def rounded(squared):
        over = np.maximum(0, squared - floor)
        return float(np.where(over < width, over**2 / (2 * width), over - width / 2).sum())

    value, gradient, strain, u_hinge = salt.hinge(atoms, floor, width=width)
    np.testing.assert_allclose(u_hinge, u, rtol=1e-13)
    assert value == pytest.approx(rounded(u**2), rel=1e-12)
    structures.check_gradient(lambda a: rounded(salt.atomic(a) ** 2), atoms, gradient, strain, tolerance=1e-6)


def test_inactive_hinge(salt):
    atoms = structures.salt(3)
    value, gradient, strain, u = salt.hinge(atoms, 1e9)
    assert value == 0
    assert not gradient.any()
    assert not strain.any()
    assert (u > 0).all()


def test_hinge_leaves_masked_unknown_atoms_alone():
    uncertainty = SoapMahalanobis(small_soap(("Na", "Cl")))
    train = training_set(structures.salt, 5)
    uncertainty.update(train, masks=[a.symbols == "Na" for a in train])
    atoms = structures.salt(1)
    value, gradient, _, u = uncertainty.hinge(atoms, 0.0, mask=atoms.symbols == "Na")
    assert np.isinf(u[atoms.symbols == "Cl"]).all()
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert uncertainty.gradient(atoms, np.where(atoms.symbols == "Na", 1.0, 0.0))[0].any()
    for call in (lambda: uncertainty.hinge(atoms, 0.0), lambda: uncertainty.gradient(atoms)):
        with pytest.raises(UncertaintyError, match=r"atom \d \(Cl\) is infinite.*0 environments of Cl.*update"):
            call()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_invariance(lithium, seed):
    """A supercell repeats u; translation and permutation only move it."""
    atoms = structures.lithium(seed)
    u = lithium.atomic(atoms)
    order = np.random.default_rng(seed).permutation(len(atoms))
    moved = atoms[order]
    moved.positions += [0.3, -7.0, 2.2]
    np.testing.assert_allclose(lithium.atomic(moved), u[order], rtol=1e-6)
    np.testing.assert_allclose(lithium.atomic(atoms * (1, 2, 1)), np.tile(u, 2), rtol=1e-6)


def test_threads_change_nothing(lithium):
    train, atoms = training_set(n=3), structures.lithium(repeat=6)
    results = []
    for threads in (1, 3):
        uncertainty = SoapMahalanobis(small_soap(threads=threads))
        uncertainty.update(train)
        results.append((*uncertainty.hinge(atoms, 0.5), *uncertainty.gradient(atoms), *uncertainty.statistics("Li")))
    for one, three in zip(*results, strict=True):
        np.testing.assert_allclose(three, one, rtol=1e-12, atol=1e-12)


def test_evaluations_while_another_thread_learns(lithium):
    uncertainty, atoms = lithium.copy(), structures.lithium(2)
    failures: list[BaseException] = []

    def evaluate() -> None:
        try:
            for _ in range(30):
                assert np.isfinite(uncertainty.atomic(atoms)).all()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=evaluate) for _ in range(2)]
    for worker in workers:
        worker.start()
    for seed in range(10):
        uncertainty.update(structures.lithium(seed))
    for worker in workers:
        worker.join()
    assert not failures


def test_copies_are_independent(lithium):
    copy = lithium.copy()
    before = lithium.atomic(structures.lithium(1))
    copy.update(structures.lithium(1, amplitude=0.4))
    assert copy.counts["Li"] == lithium.counts["Li"] + 16
    np.testing.assert_array_equal(lithium.atomic(structures.lithium(1)), before)
    assert (copy.atomic(structures.lithium(1)) != before).any()


def test_file_round_trip(salt, tmp_path):
    path = tmp_path / "distribution.safetensors"
    path.write_text("an old file is replaced")
    salt.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    loaded = SoapMahalanobis.load(path, threads=2)
    assert loaded.soap == salt.soap
    assert loaded.soap.threads == 2
    assert loaded.ridge == salt.ridge
    assert loaded.counts == salt.counts
    atoms = structures.salt(4)
    np.testing.assert_array_equal(loaded.atomic(atoms), salt.atomic(atoms))
    loaded.update(atoms)  # a restored state learns on as the original would
    other = salt.copy()
    other.update(atoms)
    np.testing.assert_array_equal(loaded.statistics("Na")[2], other.statistics("Na")[2])
    pickled = pickle.loads(pickle.dumps(salt))
    np.testing.assert_array_equal(pickled.atomic(atoms), salt.atomic(atoms))


def test_file_of_an_empty_state(tmp_path):
    SoapMahalanobis(small_soap()).save(tmp_path / "empty.safetensors")
    assert SoapMahalanobis.load(tmp_path / "empty.safetensors").counts == {"Li": 0}


def test_failed_save_keeps_the_old_file(lithium, tmp_path):
    with pytest.raises(OSError, match="missing"):
        lithium.save(tmp_path / "missing" / "distribution.safetensors")
    assert not list(tmp_path.iterdir())


def rewritten(uncertainty: SoapMahalanobis, path, metadata=None, **tensors) -> None:
    """Save, then replace metadata or arrays (None removes one)."""
    uncertainty.save(path)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    arrays = load_file(path)
    for name, value in tensors.items():
        key = name.replace("_", ".")
        arrays.pop(key, None)
        if value is not None:
            arrays[key] = value
    save_file(arrays, path, metadata=header | (metadata or {}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"format": "other"}}, "not a file written by"),
        ({"metadata": {"version": "99"}}, "version 99.*reads version 1"),
        ({"metadata": {"soap": "{}"}}, "cannot be read"),
        ({"metadata": {"soap": "not json"}}, "cannot be read"),
        ({"metadata": {"ridge": "-1"}}, "ridge = -1"),
        ({"Li_mean": np.zeros(3)}, "Li.mean must be"),
        ({"Li_mean": None}, "Li.mean must be"),
        ({"Li_scatter": np.full((40, 40), np.nan)}, "Li.scatter must be"),
        ({"Li_count": np.array([-4])}, "Li.count is -4"),
        ({"Li_count": np.array([4.0])}, "Li.count must be"),
        ({"Na_count": np.array([4])}, "no element of its descriptor: Na.count"),
    ],
)
def test_refuses_damaged_files(lithium, tmp_path, changes, message):
    path = tmp_path / "distribution.safetensors"
    rewritten(lithium, path, **changes)
    with pytest.raises(UncertaintyError, match=message):
        SoapMahalanobis.load(path)


def test_refuses_foreign_files(lithium, tmp_path):
    with pytest.raises(UncertaintyError, match="does not exist"):
        SoapMahalanobis.load(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello, this is no tensor file")
    with pytest.raises(UncertaintyError, match="cannot be read"):
        SoapMahalanobis.load(tmp_path / "text")
    save_file({"x": np.zeros(2)}, tmp_path / "tensors")
    with pytest.raises(UncertaintyError, match="not a file written by"):
        SoapMahalanobis.load(tmp_path / "tensors")
    lithium.save(tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-100])
    with pytest.raises(UncertaintyError, match="cannot be read"):
        SoapMahalanobis.load(tmp_path / "cut")


@pytest.mark.parametrize("ridge", [0.0, -1e-8, np.nan])
def test_refuses_ridge(ridge):
    with pytest.raises(ConfigError, match=r"ridge = .*positive"):
        SoapMahalanobis(small_soap(), ridge=ridge)


def test_refuses_merging_different_descriptors(lithium):
    with pytest.raises(UncertaintyError, match="same descriptor"):
        lithium.copy().merge(SoapMahalanobis(small_soap(("Li", "Na"))))


def test_refuses_arguments(lithium):
    atoms = structures.lithium()
    calls = [
        (lambda u: u.update(atoms, masks=np.ones(3, dtype=bool)), r"mask of shape \(3,\)"),
        (lambda u: u.update([atoms], masks=[np.ones(16)]), "dtype float64"),
        (lambda u: u.update([atoms, atoms], masks=[None]), "1 masks for 2 structures"),
        (lambda u: u.update(bulk("Na")), "element Na"),
        (lambda u: u.atomic(bulk("Na")), "element Na"),
        (lambda u: u.gradient(atoms, np.ones(3)), r"weights has shape \(3,\)"),
        (lambda u: u.gradient(atoms, np.full(16, np.nan)), "weights must be finite"),
        (lambda u: u.hinge(atoms, np.nan), "floor must not be NaN"),
        (lambda u: u.hinge(atoms, 1.0, np.full(16, -1.0)), "mask must hold"),
        (lambda u: u.hinge(atoms, 1.0, width=-1.0), "width must hold"),
        (lambda u: u.statistics("Na"), "knows Li"),
        (lambda u: u.atomic(atoms, centers=[99]), "center 99"),
    ]
    for call, message in calls:
        uncertainty = lithium.copy()
        with pytest.raises(UncertaintyError, match=message):
            call(uncertainty)
        assert uncertainty.counts == lithium.counts


def test_a_broken_structure_is_not_learned_in_part(lithium):
    uncertainty = lithium.copy()
    broken = structures.lithium()
    broken.positions[15] = np.nan
    with pytest.raises(UncertaintyError, match="atom 15"):
        uncertainty.update(broken)
    for ours, original in zip(uncertainty.statistics("Li"), lithium.statistics("Li"), strict=True):
        np.testing.assert_array_equal(ours, original)
