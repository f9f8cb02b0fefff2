"""Options of SoapPowerSpectrum: polynomial basis, compression, weights, outer support, many species, few centers."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from dscribe.descriptors import SOAP

from ideal.errors import ConfigError, UncertaintyError
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty import SoapMahalanobis

from . import structures

WEIGHTS = {"O": 0.5, "Ti": 1.25, "Sr": 2.0}
OPTIONS = [
    {"radial_basis": "polynomial"},
    {"compression": "mu2"},
    {"compression": "mu2", "species_weights": WEIGHTS},
    {"compression": "mu1nu1"},
    {"compression": "mu1nu1", "species_weights": WEIGHTS, "radial_basis": "polynomial"},
    {"compression": "crossover", "outer_support": False},
    {"species_weights": WEIGHTS, "outer_support": False},
]


def difference(soap: SoapPowerSpectrum, reference: SOAP, atoms: Atoms) -> float:
    """Largest difference of features over the largest feature."""
    wrapped = atoms.copy()
    wrapped.wrap()
    theirs = reference.create(wrapped)
    ours = soap.create(atoms)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(("n_max", "l_max", "r_cut", "sigma"), [(1, 0, 3.0, 0.5), (4, 3, 5.0, 0.5), (3, 9, 4.0, 0.4)])
def test_polynomial_basis_agrees_with_dscribe(n_max, l_max, r_cut, sigma):
    atoms = structures.triclinic()
    sizes = {"r_cut": r_cut, "n_max": n_max, "l_max": l_max, "sigma": sigma}
    ours = SoapPowerSpectrum(set(atoms.symbols), **sizes, radial_basis="polynomial", taper=False)
    theirs = SOAP(species=ours.species, **sizes, rbf="polynomial", periodic=True)
    assert difference(ours, theirs, atoms) < 1e-8


class ExactPolynomials(SOAP):
    """DScribe with its basis orthonormalized in 60 digits: in double precision it loses all but six at n_max = 8."""

    def get_basis_poly(self, r_cut, n_max):
        nodes, _ = super().get_basis_poly(r_cut, 1)
        mp.mp.dps = 60
        overlap = mp.matrix(n_max, n_max)
        for i, j in np.ndindex(n_max, n_max):
            overlap[i, j] = mp.mpf(2) * mp.mpf(r_cut) ** (9 + i + j) / ((7 + i + j) * (8 + i + j) * (9 + i + j))
        values, vectors = mp.eigsy(overlap)
        beta = vectors * mp.diag([1 / mp.sqrt(value) for value in values]) * vectors.T
        powers = mp.matrix([[(mp.mpf(r_cut) - mp.mpf(r)) ** (k + 3) for r in nodes.tolist()] for k in range(n_max)])
        return nodes, np.array((beta * powers).tolist(), dtype=float)


@pytest.mark.parametrize("n_max", [8, 16])
def test_polynomial_basis_keeps_its_digits(n_max):
    atoms = structures.lithium()
    sizes = {"r_cut": 5.0, "n_max": n_max, "l_max": 6, "sigma": 0.5}
    ours = SoapPowerSpectrum(["Li"], **sizes, radial_basis="polynomial", taper=False)
    assert difference(ours, ExactPolynomials(species=["Li"], **sizes, rbf="polynomial", periodic=True), atoms) < 1e-8


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("mode", ["off", "mu2", "mu1nu1", "crossover"])
def test_compression_agrees_with_dscribe(mode, weights):
    atoms = structures.triclinic()
    sizes = {"r_cut": 5.0, "n_max": 4, "l_max": 3, "sigma": 0.5}
    ours = SoapPowerSpectrum(set(atoms.symbols), **sizes, compression=mode, species_weights=weights, taper=False)
    compression = {"mode": mode} if weights is None else {"mode": mode, "species_weighting": weights}
    theirs = SOAP(species=ours.species, **sizes, compression=compression, periodic=True)
    assert difference(ours, theirs, atoms) < 1e-9


@pytest.mark.parametrize("options", OPTIONS)
def test_pull_back_against_finite_differences(options):
    atoms = structures.triclinic(3)
    soap = SoapPowerSpectrum(set(atoms.symbols), n_max=4, l_max=3, **options)
    centers = [0, 1, 2, 5]
    features = soap.create(atoms, centers)
    adjoint = np.random.default_rng(0).normal(size=features.shape) / np.abs(features).max()
    gradient, strain = soap.pull_back(atoms, adjoint, centers=centers)

    def value(displaced: Atoms) -> float:
        return float((adjoint * soap.create(displaced, centers)).sum())

    structures.check_gradient(value, atoms, gradient, strain, tolerance=1e-6)


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[4], OPTIONS[5]])
def test_uncertainty_with_options(options, tmp_path):
    frames = [structures.triclinic(seed) for seed in range(6)]
    uncertainty = SoapMahalanobis(SoapPowerSpectrum(WEIGHTS, n_max=3, l_max=2, **options), ridge=1e-4)
    uncertainty.update(frames)
    atoms = structures.triclinic(77)
    gradient, strain = uncertainty.gradient(atoms)

    def value(displaced: Atoms) -> float:
        return float(uncertainty.squared_mahalanobis(displaced).sum())

    structures.check_gradient(value, atoms, gradient, strain, tolerance=1e-5)
    uncertainty.save(tmp_path / "state.safetensors")
    loaded = SoapMahalanobis.load(tmp_path / "state.safetensors")
    assert loaded.soap == uncertainty.soap
    np.testing.assert_array_equal(loaded.atomic(atoms), uncertainty.atomic(atoms))
    with pytest.raises(UncertaintyError, match="same descriptor"):
        uncertainty.merge(SoapMahalanobis(SoapPowerSpectrum(WEIGHTS, n_max=3, l_max=2), ridge=1e-4))


def test_support_that_ends_at_the_cutoff():
    inner = SoapPowerSpectrum(["Li"], r_cut=5.0, outer_support=False)
    assert inner.support == 5.0
    assert inner.taper_width == pytest.approx(SoapPowerSpectrum(["Li"]).taper_width)

    def features(soap: SoapPowerSpectrum, distance: float) -> np.ndarray:
        return soap.create(Atoms("Li2", positions=[[0, 0, 0], [0, 0, distance]]))[0]

    alone = inner.create(Atoms("Li"))[0]
    np.testing.assert_allclose(features(inner, 5.001), alone, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(features(inner, 4.9999), alone, rtol=0, atol=1e-9 * np.abs(alone).max())
    # Away from the rim nothing changes.
    np.testing.assert_allclose(
        features(inner, 3.0), features(SoapPowerSpectrum(["Li"]), 3.0), rtol=1e-9, atol=1e-9 * np.abs(alone).max()
    )


@pytest.mark.parametrize("mode", ["off", "mu1nu1"])
def test_many_species(mode):
    """Seven elements, of which most neighborhoods lack some: each pair of species as if it were alone."""
    elements = ["Li", "O", "Al", "Ti", "Fe", "Cu", "Au"]
    atoms = bulk("Cu", "fcc", a=8.0, cubic=True) * (2, 2, 1)
    rng = np.random.default_rng(2)
    atoms.symbols = rng.choice(elements, size=len(atoms))
    atoms.rattle(0.2, seed=1)
    sizes = {"r_cut": 4.5, "n_max": 3, "l_max": 2}
    soap = SoapPowerSpectrum(elements, **sizes, taper=False, compression=mode)
    theirs = SOAP(species=soap.species, **sizes, sigma=0.5, compression={"mode": mode}, periodic=True)
    assert difference(soap, theirs, atoms) < 1e-8
    adjoint = rng.normal(size=(len(atoms), soap.n_features)) / np.abs(soap.create(atoms)).max()
    gradient, strain = soap.pull_back(atoms, adjoint)

    def value(displaced: Atoms) -> float:
        return float((adjoint * soap.create(displaced)).sum())

    structures.check_gradient(value, atoms, gradient, strain, tolerance=1e-6)


@pytest.mark.parametrize("kind", ["periodic", "skewed", "slab", "cluster"])
def test_few_centers_of_a_large_frame(kind):
    """Only what the centers can see is binned."""
    atoms = fcc111("Al", (12, 12, 8), vacuum=5.0) if kind == "slab" else bulk("Al", cubic=True) * (7, 7, 6)
    if kind == "skewed":
        atoms.set_cell(np.add(atoms.cell, [[0, 3, 0], [0, 0, -4], [2, 0, 0]]), scale_atoms=True)
    if kind == "cluster":
        atoms.pbc = False
    atoms.rattle(0.1, seed=0)
    soap = SoapPowerSpectrum(["Al"], n_max=3, l_max=2)
    centers = [0, len(atoms) // 2, len(atoms) - 1, 17]
    everything = soap.create(atoms)
    np.testing.assert_allclose(soap.create(atoms, centers), everything[centers], rtol=1e-12, atol=1e-12)
    adjoint = np.ones((len(centers), soap.n_features))
    gradient, strain = soap.pull_back(atoms, adjoint, centers)
    padded = np.zeros_like(everything)
    padded[centers] = 1
    full_gradient, full_strain = soap.pull_back(atoms, padded)
    np.testing.assert_allclose(gradient, full_gradient, rtol=0, atol=1e-11 * np.abs(full_gradient).max())
    np.testing.assert_allclose(strain, full_strain, rtol=0, atol=1e-11 * np.abs(full_strain).max())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"radial_basis": "bessel"}, "'bessel' is not valid; use gto or polynomial"),
        ({"compression": "mu3"}, "'mu3' is not valid; use off, mu2, mu1nu1 or crossover"),
        ({"species_weights": {"Na": 1.0}}, "species_weights are for Na; give one number for each of Li"),
        ({"species_weights": {"Li": 0.0}}, "species weight = 0 .*positive"),
        ({"radial_basis": "polynomial", "r_cut": 0.0}, "r_cut = 0 .*positive"),
    ],
)
def test_refuses_options(parameters, message):
    with pytest.raises(ConfigError, match=message):
        SoapPowerSpectrum(**{"species": ["Li"], **parameters})
