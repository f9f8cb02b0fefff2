"""One number for a structure from the u of its atoms: values, and derivatives against finite differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ideal.errors import UncertaintyError
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty import SoapMahalanobis, TotalUncertainty
from ideal.uncertainty.base import AtomwiseUncertainty
from ideal.uncertainty.structure import Largest, PowerMean


class WithoutHinge:
    """Only what every uncertainty has."""

    def __init__(self, known: SoapMahalanobis) -> None:
        self._known = known
        self.counts = known.counts

    def __getattr__(self, name: str):
        if name in ("hinge", "squared_mahalanobis", "gradient", "merge", "copy"):
            raise AttributeError(name)
        return getattr(self._known, name)


def salt(seed: int = 0) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.rattle(0.15, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def known() -> SoapMahalanobis:
    uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Na", "Cl"], r_cut=4.0, n_max=3, l_max=2), ridge=1e-3)
    uncertainty.update([salt(seed) for seed in range(1, 12)])
    return uncertainty


def measures(uncertainty: AtomwiseUncertainty) -> Sequence[TotalUncertainty]:
    return [*(PowerMean(uncertainty, p) for p in (1.0, 1.5, 2.0, 4.0, 30.0)), Largest(uncertainty)]


def test_values(known: SoapMahalanobis) -> None:
    u = known.atomic(salt())
    totals = [measure.total(salt()) for measure in measures(known)]
    assert totals[0] == pytest.approx(u.mean())
    assert totals[2] == pytest.approx(np.sqrt((u**2).mean()))
    assert totals[5] == u.max()
    assert totals == sorted(totals)
    assert all(isinstance(measure, TotalUncertainty) for measure in measures(known))


@pytest.mark.parametrize("index", range(6))
def test_derivatives_by_finite_differences(known: SoapMahalanobis, index: int) -> None:
    measure, atoms, h = measures(known)[index], salt(), 1e-5
    value, gradient, strain = measure.total_gradient(atoms)
    assert value == pytest.approx(measure.total(atoms), rel=1e-12)
    for atom, axis in ((0, 0), (3, 1), (7, 2)):
        moved = []
        for sign in (1, -1):
            other = atoms.copy()
            other.positions[atom, axis] += sign * h
            moved.append(measure.total(other))
        assert gradient[atom, axis] == pytest.approx((moved[0] - moved[1]) / (2 * h), rel=1e-5, abs=1e-8)
    for a, b in ((0, 0), (1, 2)):
        moved = []
        for sign in (1, -1):
            deformation = np.eye(3)
            deformation[a, b] += sign * h / 2
            deformation[b, a] += sign * h / 2
            other = atoms.copy()
            other.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
            moved.append(measure.total(other))
        assert strain[a, b] == pytest.approx((moved[0] - moved[1]) / (2 * h), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("index", range(6))
def test_with_and_without_the_single_pass(known: SoapMahalanobis, index: int) -> None:
    one = measures(known)[index].total_gradient(salt())
    other = measures(WithoutHinge(known))[index].total_gradient(salt())
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("index", range(6))
def test_an_unknown_element_has_no_gradient(known: SoapMahalanobis, index: int) -> None:
    uncertainty = SoapMahalanobis(known.soap)
    chlorine = salt()
    uncertainty.update(chlorine, chlorine.symbols == "Cl")
    measure = measures(uncertainty)[index]
    assert measure.total(salt(1)) == np.inf
    with pytest.raises(UncertaintyError, match=r"atom 0 \(Na\) is infinite"):
        measure.total_gradient(salt(1))


def test_an_exponent_below_one_is_refused(known: SoapMahalanobis) -> None:
    with pytest.raises(UncertaintyError, match=r"p = 0.5"):
        PowerMean(known, 0.5)
