"""The threshold of u from environments that the statistics did not see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ideal.config import ThresholdConfig
from ideal.engine.state_files import read_state, write_state
from ideal.errors import UncertaintyError
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty.calibration import Calibration
from ideal.uncertainty.mahalanobis import SoapMahalanobis
from ideal.uncertainty.threshold import (
    MAX_STEP,
    CalibratedThreshold,
    ConstantThreshold,
    MovingAverageThreshold,
    Threshold,
    held_out_threshold,
    held_out_u,
    make_threshold,
)

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


def test_held_out_u_is_that_of_the_metric_in_use(soap: SoapPowerSpectrum) -> None:
    structures = lithium(4)
    rough = {"metric": "low_rank", "rank": 5}
    u = held_out_u(soap, structures, RIDGE, folds=4, seed=0, **rough)
    others = SoapMahalanobis(soap, RIDGE, **rough)
    others.update([structures[0], structures[1], structures[3]])
    assert u[48:72] == pytest.approx(others.atomic(structures[2]), rel=1e-6)
    exact = held_out_u(soap, structures, RIDGE, folds=4, seed=0)
    assert not np.allclose(u, exact, rtol=1e-3)
    config = ThresholdConfig(quantile=0.9, factor=2.0, folds=4)
    threshold = held_out_threshold(config, soap, structures, RIDGE, seed=0, **rough)
    assert threshold == pytest.approx(2 * np.quantile(u, 0.9))


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
    threshold = held_out_threshold(config, soap, structures, RIDGE, seed=4)
    assert threshold == pytest.approx(2 * np.quantile(held_out_u(soap, structures, RIDGE, 3, 4), 0.9))
    assert held_out_threshold(config, soap, structures, RIDGE, seed=4) == threshold
    assert held_out_threshold(config, soap, structures, RIDGE, seed=5) != threshold


def test_about_the_stated_part_of_new_environments_exceeds_the_quantile(soap: SoapPowerSpectrum) -> None:
    structures = lithium(40)
    config = ThresholdConfig(quantile=0.9, factor=1.0, folds=5)
    threshold = held_out_threshold(config, soap, structures[:20], RIDGE, seed=0)
    known = SoapMahalanobis(soap, RIDGE)
    known.update(structures[:20])
    new = np.concatenate([known.atomic(atoms) for atoms in structures[20:]])
    assert 0.05 < np.mean(new > threshold) < 0.15
    hot = np.concatenate([known.atomic(atoms) for atoms in lithium(3, amplitude=0.5)])
    assert np.mean(hot > threshold) > 0.9


def test_fixed_needs_no_data() -> None:
    assert make_threshold(ThresholdConfig(type="fixed", value=3.5), held_out=np.nan).value == 3.5


def test_fewer_structures_than_folds_leaves_one_out(soap: SoapPowerSpectrum) -> None:
    two = held_out_u(soap, lithium(2), RIDGE, folds=5, seed=0)
    other = SoapMahalanobis(soap, RIDGE)
    other.update(lithium(2)[1])
    assert two[:24] == pytest.approx(other.atomic(lithium(2)[0]), rel=1e-6)


def test_one_structure_is_scored_by_itself(soap: SoapPowerSpectrum) -> None:
    u = held_out_u(soap, lithium(1), RIDGE, folds=5, seed=0)
    assert np.mean(u**2) == pytest.approx(23 / 24, rel=1e-3)
    assert held_out_threshold(ThresholdConfig(), soap, lithium(1), RIDGE, seed=0) > 0


def test_an_element_of_one_fold_only_does_not_blow_the_threshold_up(soap: SoapPowerSpectrum) -> None:
    structures = lithium(4)
    structures[0].symbols[:3] = "O"
    u = held_out_u(soap, structures, RIDGE, folds=4, seed=0)
    assert np.isinf(u[:3]).all()
    assert np.isfinite(u[24:]).all()
    assert np.isfinite(held_out_threshold(ThresholdConfig(), soap, structures, RIDGE, seed=0))


def test_nothing_to_fit_on_is_an_error(soap: SoapPowerSpectrum) -> None:
    with pytest.raises(UncertaintyError, match=r"no structure.*'fixed'"):
        held_out_threshold(ThresholdConfig(), soap, [], RIDGE, seed=0)
    with pytest.raises(UncertaintyError, match="at least 2"):
        held_out_u(soap, lithium(2), RIDGE, folds=1, seed=0)
    crystals = [bulk("Li", cubic=True).repeat(2)] * 3
    with pytest.raises(UncertaintyError, match=r"none of the 48 held-out environments .*threshold\.type"):
        held_out_threshold(ThresholdConfig(), soap, crystals, RIDGE, seed=0)


# --- thresholds that follow the run -----------------------------------------------------------------------------------

KINDS = ("fixed", "quantile", "moving_average", "calibrated")


def calibration(n: int, error: float = 0.1) -> Calibration:
    pairs = Calibration(0.9)
    for k in range(n):
        pairs.add(str(k), "selected", [1.0, 3.0], [error, 3 * error])
    return pairs


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_starts_somewhere_and_survives_a_restart(kind: str, tmp_path: Path) -> None:
    config = ThresholdConfig(type=kind, value=3.0, force_error=0.15, window=3)
    first, second = make_threshold(config, held_out=2.0), make_threshold(config, held_out=9.0)
    assert first.value == pytest.approx(3.0 if kind == "fixed" else 2.0)
    assert first.source == ("quantile" if kind == "calibrated" else kind)
    for u in (1.0, 4.0, np.inf, 2.5):
        first.observe(u)
    first.recalibrate(calibration(25))
    write_state(tmp_path / "state", first.state())
    second.restore(read_state(tmp_path / "state"))
    for threshold in (first, second):
        threshold.observe(1.75)
    assert first.value == second.value
    assert first.source == second.source
    with pytest.raises(UncertaintyError):
        first.observe(float("nan"))


def test_the_moving_average_is_that_of_equation_2() -> None:
    threshold = MovingAverageThreshold(start=2.0, window=4, margin=0.2)
    assert threshold.value == pytest.approx(2.0)
    values = [1.0, 5.0, 2.0, 8.0, 3.0, np.inf, 4.0]
    for value in values:
        threshold.observe(value)
    assert threshold.value == pytest.approx(1.2 * (2 + 8 + 3 + 4) / 4)


def test_the_moving_average_freezes() -> None:
    threshold = MovingAverageThreshold(start=2.0, window=10, freeze_after=3)
    for _ in range(3):
        assert not threshold.frozen
        threshold.observe(6.0)
    assert threshold.frozen
    value = threshold.value
    threshold.observe(100.0)
    assert threshold.value == value == pytest.approx(5.0)


def test_the_calibrated_threshold_waits_for_enough_pairs() -> None:
    threshold = CalibratedThreshold(start=2.0, force_error=0.15)
    threshold.recalibrate(calibration(19))
    assert (threshold.value, threshold.source) == (2.0, "quantile")
    for _ in range(2):
        threshold.recalibrate(calibration(20))
    assert threshold.value == pytest.approx(1.5)
    assert threshold.source == "calibrated"
    for _ in range(10):
        threshold.recalibrate(calibration(20, error=1e-4))
    assert threshold.value == pytest.approx(3.75)  # 1.25 times the largest u that was compared, not 1500


def test_until_then_the_calibrated_threshold_falls_with_the_quantile() -> None:
    threshold = CalibratedThreshold(start=2.0, force_error=0.15)
    for known, value in ((1.6, 1.6), (1.9, 1.6), (1.2, 1.2)):
        threshold.recalibrate(calibration(19), known=known)
        assert (threshold.value, threshold.source) == (value, "quantile")
    threshold.recalibrate(calibration(20), known=0.5)
    assert threshold.source == "calibrated" and threshold.value >= 1.2, "then the pairs decide"
    value = threshold.value
    threshold.recalibrate(calibration(19), known=0.5)
    assert threshold.value == value
    constant = ConstantThreshold(2.0, "quantile")
    constant.recalibrate(calibration(19), known=1.0)
    assert constant.value == 2.0, "of the start, as asked for"


def test_the_calibrated_threshold_moves_in_steps() -> None:
    threshold = CalibratedThreshold(start=2.0, force_error=0.15)
    threshold.recalibrate(calibration(20))
    assert threshold.value == pytest.approx(2.0 / MAX_STEP)
    threshold.recalibrate(calibration(20, error=1e-4))
    assert threshold.value == pytest.approx(2.0)


def test_a_tolerance_that_the_model_never_reaches_does_not_ask_for_everything() -> None:
    threshold = CalibratedThreshold(start=2.0, force_error=0.01)
    for _ in range(20):
        threshold.recalibrate(calibration(20), least=1.4)
    assert threshold.value == pytest.approx(1.4) and threshold.source == "calibrated"
    threshold.recalibrate(calibration(20), least=3.0)
    assert threshold.value == pytest.approx(1.4), "it does not rise for that"
    threshold.recalibrate(calibration(20))
    assert threshold.value == pytest.approx(1.4 / MAX_STEP)


def test_arguments_out_of_range_are_refused(soap: SoapPowerSpectrum) -> None:
    for make in (
        lambda: ConstantThreshold(0.0, "fixed"),
        lambda: MovingAverageThreshold(np.inf),
        lambda: MovingAverageThreshold(1.0, window=0),
        lambda: MovingAverageThreshold(1.0, margin=-1.0),
        lambda: CalibratedThreshold(2.0, 0.0),
        lambda: make_threshold(ThresholdConfig(), held_out=float("nan")),
    ):
        with pytest.raises(UncertaintyError):
            make()


def test_the_held_out_threshold_is_there_for_every_kind(soap: SoapPowerSpectrum) -> None:
    structures = lithium(4)
    values = [held_out_threshold(ThresholdConfig(type=kind), soap, structures, RIDGE, seed=0) for kind in KINDS]
    assert values[0] == held_out_threshold(ThresholdConfig(), soap, structures, RIDGE, seed=0)
    assert set(values) == {values[0]}
    thresholds: list[Threshold] = [make_threshold(ThresholdConfig(type=kind), values[0]) for kind in KINDS]
    assert all(threshold.value > 0 for threshold in thresholds)
