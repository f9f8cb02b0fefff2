"""SoapPowerSpectrum: against DScribe, under symmetries, its derivative, its errors."""

from __future__ import annotations

import pickle

import mpmath as mp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from dscribe.descriptors import SOAP
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ideal import _core
from ideal.errors import ConfigError, UncertaintyError
from ideal.soap import SoapPowerSpectrum

from . import structures


def reference(atoms: Atoms, n_max: int, l_max: int, r_cut: float, sigma: float) -> np.ndarray:
    """DScribe's descriptor. It wants atoms inside the cell and one periodicity for all axes."""
    atoms = atoms.copy()
    atoms.wrap()
    periodic = bool(atoms.pbc.any())
    if periodic and not atoms.pbc.all():
        atoms.cell = atoms.cell.complete()
        for axis in np.flatnonzero(~atoms.pbc):
            atoms.cell[axis] *= 100.0 / np.linalg.norm(atoms.cell[axis])
        atoms.pbc = True
    soap = SOAP(
        species=sorted(set(atoms.symbols)), r_cut=r_cut, n_max=n_max, l_max=l_max, sigma=sigma, periodic=periodic
    )
    return soap.create(atoms).reshape(len(atoms), -1)


def soap_for(atoms: Atoms, **parameters) -> SoapPowerSpectrum:
    return SoapPowerSpectrum(sorted(set(atoms.symbols)), **parameters)


@pytest.fixture(params=_core.available_instruction_sets())
def instruction_set(request):
    before = _core.instruction_set()
    _core.select_instruction_set(request.param)
    yield request.param
    _core.select_instruction_set(before)


@pytest.mark.parametrize("name", structures.ALL)
def test_agrees_with_dscribe(name, instruction_set):
    atoms = structures.ALL[name]()
    ours = soap_for(atoms, r_cut=5.0, n_max=8, l_max=6, sigma=0.5, taper=False).create(atoms)
    theirs = reference(atoms, 8, 6, 5.0, 0.5)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-8 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("n_max", "l_max", "r_cut", "sigma"),
    [
        (1, 0, 3.0, 0.5),
        (2, 1, 4.0, 0.3),
        (3, 2, 6.0, 0.7),
        (4, 3, 5.0, 0.5),
        (4, 12, 4.5, 0.5),
        (6, 8, 5.0, 0.4),
        (7, 5, 5.5, 0.25),
        (9, 4, 5.0, 1.0),
    ],
)
def test_agrees_with_dscribe_for_other_parameters(n_max, l_max, r_cut, sigma, instruction_set):
    atoms = structures.salt()
    ours = soap_for(atoms, r_cut=r_cut, n_max=n_max, l_max=l_max, sigma=sigma, taper=False).create(atoms)
    theirs = reference(atoms, n_max, l_max, r_cut, sigma)
    assert np.abs(ours - theirs).max() < 1e-8 * np.abs(theirs).max()


def exact_cluster(positions: np.ndarray, n_max: int, r_cut: float, sigma: float) -> np.ndarray:
    """Descriptor of atom 0 of an open one-element cluster, l_max = 1, in 60-digit arithmetic."""
    mp.mp.dps = 60
    eta = 1 / (2 * mp.mpf(sigma) ** 2)
    features = []
    for degree in (0, 1):
        a = [1 + (mp.mpf(r_cut) - 1) * k / (n_max - 1) for k in range(n_max)]
        alpha = [-mp.log(mp.mpf("1e-3") / a_k**degree) / a_k**2 for a_k in a]
        power = mp.mpf(degree) + 1.5
        overlap = mp.matrix(n_max, n_max)
        for i, j in np.ndindex(n_max, n_max):
            overlap[i, j] = mp.gamma(power) / 2 * (alpha[i] + alpha[j]) ** (-power)
        values, vectors = mp.eigsy(overlap)
        beta = vectors * mp.diag([1 / mp.sqrt(value) for value in values]) * vectors.T
        c = mp.matrix(n_max, 2 * degree + 1)
        for x in positions - positions[0]:
            r2 = sum(mp.mpf(component) ** 2 for component in x.tolist())
            q = [1 + alpha_k / eta for alpha_k in alpha]
            g = mp.matrix(
                [
                    (mp.pi / eta) ** 1.5 * q_k ** (-power) * mp.exp(-a_k * r2 / q_k)
                    for q_k, a_k in zip(q, alpha, strict=True)
                ]
            )
            solid = [1] if degree == 0 else x.tolist()  # r^l Y_lm without its norm
            norm = mp.sqrt((2 * degree + 1) / (4 * mp.pi))
            c += beta * g * (norm * mp.matrix([solid]))
        p = mp.pi * mp.sqrt(mp.mpf(8) / (2 * degree + 1)) * c * c.T
        features += [float(p[n, m]) for n in range(n_max) for m in range(n, n_max)]
    return np.array(features)


@pytest.mark.parametrize("n_max", [4, 8, 12])
def test_agrees_with_exact_arithmetic(n_max, instruction_set):
    """DScribe orthonormalizes in double precision, which costs it half its digits at n_max = 10."""
    positions = np.array([[0, 0, 0], [0.9, -1.3, 1.1], [-2.0, 0.4, -1.7], [1.0, 3.0, 2.5]])
    ours = SoapPowerSpectrum(["Li"], r_cut=5.0, n_max=n_max, l_max=1, taper=False).create(Atoms("Li4", positions))[0]
    exact = exact_cluster(positions, n_max, 5.0, 0.5)
    assert np.abs(ours - exact).max() < 1e-9 * np.abs(exact).max()


def test_many_neighbors():
    """Twenty thousand neighbors from one atom in a tiny cell."""
    atoms = Atoms("Li", cell=[0.5, 0.6, 0.7], pbc=True)
    soap = soap_for(atoms, r_cut=7.0, n_max=2, l_max=2, taper=False)
    theirs = reference(atoms, 2, 2, 7.0, 0.5)
    assert np.abs(soap.create(atoms) - theirs).max() < 1e-8 * np.abs(theirs).max()


def test_nearly_empty_box():
    """Atoms very far apart must not cost memory for the space between them."""
    atoms = Atoms("Li3", positions=[[0, 0, 0], [3, 0, 0], [1e7, 1e7, -1e7]])
    features = soap_for(atoms, n_max=4, l_max=3).create(atoms)
    alone = soap_for(atoms, n_max=4, l_max=3).create(Atoms("Li"))
    np.testing.assert_allclose(features[2], alone[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(features[0], features[1], rtol=1e-10, atol=1e-12)


def test_taper_changes_only_the_rim():
    soap = SoapPowerSpectrum(["Li"])
    hard = SoapPowerSpectrum(["Li"], taper=False)
    assert hard.taper_width == 0
    assert soap.taper_width == pytest.approx((soap.support - soap.r_cut) / 2, rel=0.05)
    rim = soap.support - soap.taper_width
    inside = Atoms("Li2", positions=[[0, 0, 0], [0, 0, rim - 0.01]])
    np.testing.assert_allclose(soap.create(inside), hard.create(inside), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("taper", [True, False])
def test_smoothness_at_the_support(taper):
    soap = SoapPowerSpectrum(["Li"], taper=taper)
    edge = soap.support

    def features(distance: float) -> np.ndarray:
        return soap.create(Atoms("Li2", positions=[[0, 0, 0], [0, 0, distance]]))[0]

    scale = np.abs(features(edge + 0.1)).max()
    jump = np.abs(features(edge - 1e-6) - features(edge + 1e-6)).max() / scale
    slope = np.abs(features(edge - 1e-3) - features(edge - 2e-3)).max() / 1e-3 / scale
    if taper:
        assert jump < 1e-12
        assert slope < 1e-6
    else:
        assert jump > 1e-6


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(["lithium", "triclinic", "wire", "slab", "ethanol"]))
def test_rotation_translation_permutation(seed, name):
    atoms = structures.ALL[name](seed)
    soap = soap_for(atoms, n_max=4, l_max=4)
    before = soap.create(atoms)
    rng = np.random.default_rng(seed)
    moved = atoms.copy()
    rotation = Rotation.random(random_state=seed).as_matrix()
    moved.set_cell(atoms.cell.array @ rotation.T)
    moved.positions = atoms.positions @ rotation.T + rng.normal(scale=20, size=3)
    order = rng.permutation(len(atoms))
    after = soap.create(moved[order])
    np.testing.assert_allclose(after, before[order], rtol=0, atol=1e-10 * np.abs(before).max())


@pytest.mark.parametrize("name", ["lithium", "triclinic", "salt"])
def test_supercell(name):
    atoms = structures.ALL[name]()
    soap = soap_for(atoms, n_max=4, l_max=3)
    small = soap.create(atoms)
    for large in (atoms * (2, 1, 2), structures.oblique_supercell(atoms)):
        rows = soap.create(large)
        copies = len(large) // len(atoms)
        distances = np.abs(rows[:, None] - small[None]).max(axis=2)
        assert distances.min(axis=1).max() < 1e-10 * np.abs(small).max()
        assert rows.sum() == pytest.approx(copies * small.sum(), rel=1e-12)


def test_open_axes_ignore_their_cell_vector():
    atoms = structures.slab()
    soap = soap_for(atoms, n_max=4, l_max=3)
    before = soap.create(atoms)
    atoms.cell[2] = [1.0, 7.0, 1e-3]
    np.testing.assert_allclose(soap.create(atoms), before, rtol=0, atol=1e-11 * np.abs(before).max())


def test_centers_in_any_order():
    atoms = structures.triclinic()
    soap = soap_for(atoms, n_max=3, l_max=2)
    chosen = [5, 0, 6]
    np.testing.assert_allclose(soap.create(atoms, centers=chosen), soap.create(atoms)[chosen], rtol=1e-13, atol=1e-13)
    assert soap.create(atoms, centers=[]).shape == (0, soap.n_features)


def test_unused_species_have_zero_features():
    atoms = structures.lithium()
    wide = SoapPowerSpectrum(["Li", "Na"], n_max=3, l_max=2)
    narrow = SoapPowerSpectrum(["Li"], n_max=3, l_max=2)
    features = wide.create(atoms)
    np.testing.assert_allclose(features[:, : narrow.n_features], narrow.create(atoms), rtol=1e-13, atol=1e-13)
    assert not features[:, narrow.n_features :].any()


def test_no_atoms():
    soap = SoapPowerSpectrum(["Li"])
    assert soap.create(Atoms()).shape == (0, soap.n_features)
    assert soap.create(Atoms(cell=[3, 3, 3], pbc=True)).shape == (0, soap.n_features)


@pytest.mark.parametrize("name", ["lithium", "triclinic", "wire", "ethanol"])
@pytest.mark.parametrize(("n_max", "l_max"), [(4, 3), (9, 7)])
def test_pull_back_against_finite_differences(name, n_max, l_max, instruction_set):
    atoms = structures.ALL[name](3)
    soap = soap_for(atoms, n_max=n_max, l_max=l_max)
    centers = np.arange(len(atoms))[::2]
    rng = np.random.default_rng(0)
    adjoint = rng.normal(size=(len(centers), soap.n_features))
    adjoint /= np.abs(soap.create(atoms)).max()
    gradient, strain = soap.pull_back(atoms, adjoint, centers=centers)

    def value(displaced: Atoms) -> float:
        return float((adjoint * soap.create(displaced, centers=centers)).sum())

    structures.check_gradient(value, atoms, gradient, strain, tolerance=1e-6)


def test_threads_change_nothing():
    atoms = structures.lithium(repeat=5)
    soaps = [SoapPowerSpectrum(["Li"], n_max=4, l_max=3, threads=threads) for threads in (1, 2, 5)]
    features = [soap.create(atoms) for soap in soaps]
    gradients = [soap.pull_back(atoms, features[0]) for soap in soaps]
    for other, (gradient, strain) in zip(features[1:], gradients[1:], strict=True):
        np.testing.assert_array_equal(other, features[0])
        np.testing.assert_array_equal(gradient, gradients[0][0])
        np.testing.assert_array_equal(strain, gradients[0][1])


def test_properties():
    soap = SoapPowerSpectrum(["O", "Al", "O"], r_cut=4.0, n_max=3, l_max=2, sigma=0.4, threads=2)
    assert soap.species == ["O", "Al"]
    assert soap.n_features == 6 * 7 // 2 * 3
    assert soap.support == pytest.approx(4.0 + 0.4 * np.sqrt(-2 * np.log(1e-3)))
    assert SoapPowerSpectrum(**soap.parameters) == soap
    copy = pickle.loads(pickle.dumps(soap))
    assert copy == soap
    assert copy.threads == 2
    assert hash(copy) == hash(soap)
    assert soap != SoapPowerSpectrum(["O", "Al"])
    assert "r_cut=4.0" in repr(soap)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"species": []}, "at least one species"),
        ({"species": ["li"]}, "'li'.*did you mean 'Li'"),
        ({"r_cut": 1.0}, "r_cut = 1 .*above 1"),
        ({"r_cut": np.nan}, "r_cut"),
        ({"sigma": 0.0}, "sigma = 0 .*positive"),
        ({"n_max": 0}, "n_max = 0 .*1 ... 16"),
        ({"n_max": 17}, "n_max = 17"),
        ({"n_max": 16}, "linearly dependent.*smaller n_max"),
        ({"l_max": -1}, "l_max = -1 .*0 ... 12"),
        ({"l_max": 13}, "l_max = 13"),
        ({"threads": 0}, "threads = 0"),
    ],
)
def test_refuses_parameters(parameters, message):
    with pytest.raises(ConfigError, match=message):
        SoapPowerSpectrum(**{"species": ["Li"], **parameters})


def test_refuses_structures():
    soap = SoapPowerSpectrum(["Li"], n_max=3, l_max=2)
    atoms = structures.lithium()
    with pytest.raises(UncertaintyError, match=r"does not know the element Na.*made for Li.*Make"):
        soap.create(bulk("Na"))
    for bad in (np.nan, np.inf):
        broken = atoms.copy()
        broken.positions[5, 1] = bad
        with pytest.raises(UncertaintyError, match=r"atom 5 .*not finite"):
            soap.create(broken)
    broken = atoms.copy()
    broken.positions[7] = broken.positions[2] + 1e-9
    with pytest.raises(UncertaintyError, match=r"atoms (2 and 7|7 and 2) coincide.*remove"):
        soap.create(broken)
    shifted = atoms.copy()  # coincident through a periodic image
    shifted.positions[7] = shifted.positions[2] + shifted.cell[0]
    with pytest.raises(UncertaintyError, match="coincide"):
        soap.create(shifted)
    for cell in ([0, 4, 4], [[4, 0, 0], [4, 0, 0], [0, 0, 4]], [np.nan, 4, 4], [1e-7, 4, 4]):
        with pytest.raises(UncertaintyError, match=r"cell.*(degenerate|independent)"):
            soap.create(Atoms("Li", cell=cell, pbc=True))


@pytest.mark.parametrize(
    ("centers", "message"),
    [
        ([0, 16], "center 16 .*0 to 15"),
        ([-1], "center -1"),
        ([1, 1], "twice"),
        ([0.5], "dtype float64"),
        (np.ones(16, dtype=bool), "flatnonzero"),
        ([[1]], "shape"),
    ],
)
def test_refuses_centers(centers, message):
    with pytest.raises(UncertaintyError, match=message):
        SoapPowerSpectrum(["Li"], n_max=2, l_max=1).create(structures.lithium(), centers=centers)


def test_refuses_adjoint():
    soap = SoapPowerSpectrum(["Li"], n_max=2, l_max=1)
    with pytest.raises(UncertaintyError, match=r"adjoint has shape \(3, 2\)"):
        soap.pull_back(structures.lithium(), np.zeros((3, 2)))


def test_instruction_sets_agree():
    atoms = structures.triclinic()
    soap = soap_for(atoms)
    before = _core.instruction_set()
    results = []
    for name in _core.available_instruction_sets():
        _core.select_instruction_set(name)
        results.append(soap.create(atoms))
    _core.select_instruction_set(before)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-12 * np.abs(results[0]).max())
    with pytest.raises(ConfigError, match=r"'mmx' is not available.*baseline"):
        _core.select_instruction_set("mmx")
