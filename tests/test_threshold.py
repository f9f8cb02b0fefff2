"""The threshold of u from environments that the statistics did not see."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ideal.config import ThresholdConfig
from ideal.errors import UncertaintyError
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty.mahalanobis import SoapMahalanobis
from ideal.uncertainty.threshold import fit_threshold, held_out_u

RIDGE = 1e-8


@pytest.fixture(scope="module")
def soap() -> SoapPowerSpectrum:
    return SoapPowerSpectrum(["Li", "O"], r_cut=3.5, n_max=3, l_max=2, sigma=0.5)


def lithium(n: int, amplitude: float = 0.15) -> list[Atoms]:
    base = bulk("Li", cubic=True).repeat((3, 2, 2))
    structures = []
    for k in range(n):
        atoms = base.copy()
        atoms.rattle(amplitude, seed=k)
        structures.append(atoms)
    return structures


def test_each_structure_is_scored_by_the_others(soap: SoapPowerSpectrum) -> None:
    structures = lithium(4)
    u = held_out_u(soap, structures, RIDGE, folds=4, seed=0)
    assert u.shape == (4 * 24,)
    others = SoapMahalanobis(soap, RIDGE)
    others.update([structures[0], structures[1], structures[3]])
    assert u[48:72] == pytest.approx(others.atomic(structures[2]), rel=1e-6)


def test_folds_hold_whole_structures(soap: SoapPowerSpectrum) -> None:
    """Twins in different folds betray each other; in the same fold, each is as new as any other structure."""
    structures = lithium(6)
    u = held_out_u(soap, structures, RIDGE, folds=3, seed=1)
    order = np.random.default_rng(1).permutation(6)
    for fold in range(3):
        inside = order[fold::3]
        others = SoapMahalanobis(soap, RIDGE)
        others.update([structures[i] for i in range(6) if i not in inside])
        for i in inside:
            assert u[24 * i : 24 * (i + 1)] == pytest.approx(others.atomic(structures[i]), rel=1e-6)


def test_held_out_u_exceeds_u_in_sample(soap: SoapPowerSpectrum) -> None:
    structures = lithium(5)
    every = SoapMahalanobis(soap, RIDGE)
    every.update(structures)
    in_sample = np.concatenate([every.atomic(atoms) for atoms in structures])
    held_out = held_out_u(soap, structures, RIDGE, folds=5, seed=0)
    assert np.mean(held_out**2) > np.mean(in_sample**2) > 0.9


def test_quantile_times_factor_and_same_seed_same_threshold(soap: SoapPowerSpectrum) -> None:
    structures = lithium(6)
    config = ThresholdConfig(quantile=0.9, factor=2.0, folds=3)
    threshold = fit_threshold(config, soap, structures, RIDGE, seed=4)
    assert threshold == pytest.approx(2 * np.quantile(held_out_u(soap, structures, RIDGE, 3, 4), 0.9))
    assert fit_threshold(config, soap, structures, RIDGE, seed=4) == threshold
    assert fit_threshold(config, soap, structures, RIDGE, seed=5) != threshold


def test_about_the_stated_part_of_new_environments_exceeds_the_quantile(soap: SoapPowerSpectrum) -> None:
    structures = lithium(40)
    config = ThresholdConfig(quantile=0.9, factor=1.0, folds=5)
    threshold = fit_threshold(config, soap, structures[:20], RIDGE, seed=0)
    known = SoapMahalanobis(soap, RIDGE)
    known.update(structures[:20])
    new = np.concatenate([known.atomic(atoms) for atoms in structures[20:]])
    assert 0.05 < np.mean(new > threshold) < 0.15
    hot = np.concatenate([known.atomic(atoms) for atoms in lithium(3, amplitude=0.5)])
    assert np.mean(hot > threshold) > 0.9


def test_fixed_needs_no_data(soap: SoapPowerSpectrum) -> None:
    assert fit_threshold(ThresholdConfig(type="fixed", value=3.5), soap, [], RIDGE, seed=0) == 3.5


def test_fewer_structures_than_folds_leaves_one_out(soap: SoapPowerSpectrum) -> None:
    two = held_out_u(soap, lithium(2), RIDGE, folds=5, seed=0)
    other = SoapMahalanobis(soap, RIDGE)
    other.update(lithium(2)[1])
    assert two[:24] == pytest.approx(other.atomic(lithium(2)[0]), rel=1e-6)


def test_one_structure_is_scored_by_itself(soap: SoapPowerSpectrum) -> None:
    u = held_out_u(soap, lithium(1), RIDGE, folds=5, seed=0)
    assert np.mean(u**2) == pytest.approx(23 / 24, rel=1e-3)
    assert fit_threshold(ThresholdConfig(), soap, lithium(1), RIDGE, seed=0) > 0


def test_an_element_of_one_fold_only_does_not_blow_the_threshold_up(soap: SoapPowerSpectrum) -> None:
    structures = lithium(4)
    structures[0].symbols[:3] = "O"
    u = held_out_u(soap, structures, RIDGE, folds=4, seed=0)
    assert np.isinf(u[:3]).all()
    assert np.isfinite(u[24:]).all()
    assert np.isfinite(fit_threshold(ThresholdConfig(), soap, structures, RIDGE, seed=0))


def test_nothing_to_fit_on_is_an_error(soap: SoapPowerSpectrum) -> None:
    with pytest.raises(UncertaintyError, match=r"no structure.*'fixed'"):
        fit_threshold(ThresholdConfig(), soap, [], RIDGE, seed=0)
    with pytest.raises(UncertaintyError, match="at least 2"):
        held_out_u(soap, lithium(2), RIDGE, folds=1, seed=0)
    crystals = [bulk("Li", cubic=True).repeat(2)] * 3
    with pytest.raises(UncertaintyError, match=r"none of the 48 held-out environments .*threshold\.type"):
        fit_threshold(ThresholdConfig(), soap, crystals, RIDGE, seed=0)
