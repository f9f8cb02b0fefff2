"""The bound covers what it says, on heavy-tailed and correlated errors, and never extrapolates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ideal.engine.state_files import read_state, write_state
from ideal.errors import UncertaintyError
from ideal.uncertainty.calibration import Calibration
from ideal.uncertainty.conformal import ErrorShape, conformal_scale, fit_error_bound

Array = np.ndarray[Any, np.dtype[np.float64]]


def draw(
    rng: np.random.Generator, cells: int, atoms: int, alike: float = 0.0, power: float = 2.0
) -> tuple[Array, Array, Array]:
    """u, error and cell of atoms with a floor under their errors and heavy tails (Student's t with 2.1 degrees)."""
    u = rng.lognormal(0, 0.4, (cells, 1)) * rng.lognormal(0, 0.4, (cells, atoms))
    z = np.sqrt(alike) * rng.standard_normal((cells, 1)) + np.sqrt(1 - alike) * rng.standard_normal((cells, atoms))
    chi = np.sqrt(rng.chisquare(2.1, (cells, 1)) / 2.1)
    error = (0.05 + 0.05 * u**power) * np.abs(z / chi)
    return u.ravel(), error.ravel(), np.repeat(np.arange(cells), atoms)


# --- coverage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cells", "atoms", "alike"), [(60, 1, 0.0), (30, 20, 0.5), (30, 20, 0.95)])
@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_coverage_is_the_stated_one(cells: int, atoms: int, alike: float, confidence: float) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(150):
        bound = fit_error_bound(*draw(rng, cells, atoms, alike), confidence)
        u, error, _ = draw(rng, 500, 1)
        covered.append((error <= bound(u)).mean())
    mean, spread = np.mean(covered), np.std(covered) / np.sqrt(len(covered))
    # the exact guarantee is at least the confidence and, for one atom per cell, at most 1 / (cells + 1) more; fitting
    # the shape to the same pairs costs up to half a percent
    assert confidence - 0.006 - 3 * spread < mean < confidence + 0.04


def test_counting_atoms_instead_of_cells_would_promise_too_much() -> None:
    rng = np.random.default_rng(1)
    by_cell, by_atom = [], []
    for _ in range(300):
        u, error, cell = draw(rng, 10, 30, alike=0.95, power=1.0)
        new_u, new_error, _ = draw(rng, 300, 1, power=1.0)
        by_cell.append((new_error <= conformal_scale(u, error, cell, 0.9) * new_u).mean())
        by_atom.append((new_error <= conformal_scale(u, error, np.arange(u.size), 0.9) * new_u).mean())
    assert np.mean(by_cell) > 0.9
    assert np.mean(by_atom) < 0.888  # 4 standard errors below 0.9


def test_the_bound_holds_at_every_u_where_a_proportional_one_does_not() -> None:
    rng = np.random.default_rng(2)
    shaped, proportional = [], []
    for _ in range(20):
        u, error, cell = draw(rng, 150, 20, alike=0.3)
        bound, scale = fit_error_bound(u, error, cell, 0.9), conformal_scale(u, error, cell, 0.9)
        new_u, new_error, _ = draw(rng, 20_000, 1)
        bins = np.digitize(new_u, np.quantile(new_u, [0.1, 0.5, 0.9, 0.97]))
        shaped.append([(new_error <= bound(new_u))[bins == b].mean() for b in range(5)])
        proportional.append([(new_error <= scale * new_u)[bins == b].mean() for b in range(5)])
    assert np.mean(shaped, axis=0).min() > 0.88
    assert np.mean(proportional, axis=0).min() < 0.85


def test_asked_and_audited_cells_count_as_the_run_met_them() -> None:
    """Labels are asked for above u = 1.5 only; one in twenty is audited below. The average over the run must hold."""
    rng = np.random.default_rng(3)
    weighted, ignored = [], []
    for _ in range(60):
        pool, errors, _ = draw(rng, 4000, 1, power=1.0)
        errors = errors * np.where(pool < 1.5, 2.0, 1.0)  # certain ones err more than their u says
        uncertain, certain = np.flatnonzero(pool > 1.5), np.flatnonzero(pool <= 1.5)
        calibrations = [Calibration(0.8, half_life=math.inf) for _ in range(2)]
        for calibration in calibrations:
            for i in uncertain[:120]:
                calibration.add(str(i), "selected", [pool[i]], [errors[i]], threshold=1.5)
            for i in certain[:30]:
                calibration.add(str(i), "audit", [pool[i]], [errors[i]], threshold=1.5)
        calibrations[0].set_population(certain.size, uncertain.size)
        rest = np.concatenate([uncertain[120:], certain[30:]])
        for calibration, coverages in zip(calibrations, (weighted, ignored), strict=True):
            share = np.where(
                pool[rest] > 1.5, uncertain.size / (uncertain.size - 120), certain.size / (certain.size - 30)
            )
            covered = errors[rest] <= calibration.scale * pool[rest]
            coverages.append((share * covered).sum() / share.sum())
    assert np.mean(weighted) == pytest.approx(0.81, abs=0.025)
    assert np.mean(ignored) < 0.75


def test_older_models_fade() -> None:
    def after_change(half_life: float) -> float:
        rng = np.random.default_rng(4)
        calibration = Calibration(0.9, half_life=half_life)
        for k in range(300):
            u, error, _ = draw(rng, 1, 10, 0.3, power=1.0)
            calibration.add(str(k), "selected", u, error * (1.0 if k < 150 else 3.0))
        u, error, _ = draw(rng, 3000, 1, power=1.0)
        return float((3 * error <= calibration.bound(u)).mean())

    assert after_change(math.inf) < 0.84
    assert after_change(50.0) > 0.86
    assert Calibration(0.9).half_life == pytest.approx(50)


# --- ready, threshold, limits -----------------------------------------------------------------------------------------


def test_initial_data_alone_never_make_it_ready() -> None:
    calibration = Calibration(0.9)
    for k in range(500):
        calibration.add(f"v{k}", "validation", [0.5, 1.0], [0.001, 0.002])
    assert not calibration.ready
    assert math.isinf(calibration.scale)
    assert calibration.threshold(0.15) == 0
    assert np.isinf(calibration.bound([1.0])).all()
    for k in range(20):
        assert not calibration.ready
        calibration.add(f"s{k}", "selected", [2.0, 3.0], [0.2, 0.3], threshold=1.5)
    assert calibration.ready
    assert calibration.scale == pytest.approx(0.1)  # the easy cells no longer count
    assert calibration.threshold(0.15) == pytest.approx(1.5)


def test_the_threshold_stays_where_pairs_were_seen() -> None:
    calibration = Calibration(0.9, reach=1.25)
    for k in range(30):
        calibration.add(str(k), "selected", [2.0, 3.0 if k else 50.0], [1e-4, 1e-4])
    assert calibration.largest_compared_u == 3.0  # one cell at 50 is not enough
    assert calibration.threshold(0.15) == pytest.approx(3.75)
    assert np.isfinite(calibration.bound(3.75))
    assert np.isinf(calibration.bound([3.8, np.inf])).all()


def test_the_threshold_is_where_the_bound_reaches_the_tolerance() -> None:
    rng = np.random.default_rng(5)
    calibration = Calibration(0.9, run_cells=0)
    for k in range(200):
        u, error, _ = draw(rng, 1, 20, 0.3)
        calibration.add(str(k), "validation", u, error)
    for tolerance in (0.05, 0.2, 0.3, 0.5):
        threshold = calibration.threshold(tolerance)
        assert 0 < threshold < calibration.largest_compared_u * 1.25
        assert calibration.bound(threshold * 1.001) >= tolerance * 0.999
        if tolerance > 0.2:
            assert calibration.bound(threshold * 0.999) <= tolerance
    grid = np.linspace(0, 4, 200)
    assert (np.diff(calibration.bound(grid)) >= 0).all()


def test_a_population_that_no_pair_stands_for_gives_no_bound() -> None:
    calibration = Calibration(0.9)
    for k in range(40):
        calibration.add(str(k), "selected", [2.0], [0.2])
    assert calibration.ready
    calibration.set_population(9_900, 100)
    assert not calibration.ready
    assert math.isinf(calibration.scale)


# --- adversarial pairs ------------------------------------------------------------------------------------------------


def test_no_errors_give_a_bound_of_zero_within_what_was_seen() -> None:
    calibration = Calibration(0.9)
    for k in range(60):
        calibration.add(str(k), "selected", [1.0, 2.0], [0.0, 0.0])
    assert calibration.ready
    assert calibration.scale == 0
    assert calibration.bound([0.0, 1.0]).tolist() == [0, 0]
    assert calibration.threshold(0.1) == pytest.approx(2.5)


def test_errors_at_u_zero_cannot_be_bounded_by_a_factor() -> None:
    calibration = Calibration(0.9)
    for k in range(60):
        calibration.add(str(k), "selected", [0.0], [0.1])
    assert math.isinf(calibration.scale)
    assert not calibration.ready
    for k in range(2000):
        calibration.add(f"b{k}", "selected", [0.0, 1.0, 2.0], [0.0, 0.1, 0.2])
    assert math.isfinite(calibration.scale)


def test_unknown_species_say_nothing() -> None:
    calibration = Calibration(0.9)
    for k in range(60):
        calibration.add(f"i{k}", "selected", [np.inf], [0.5], energy_error=0.1)
    assert not calibration.ready
    assert calibration.n_pairs == 0
    assert calibration.energy_slope is None
    for k in range(60):
        calibration.add(str(k), "selected", [1.0, np.inf], [0.1, 9.0])
    assert calibration.scale == pytest.approx(0.1)


def test_one_cell_is_never_enough() -> None:
    calibration = Calibration(0.5, run_cells=0)
    calibration.add("a", "validation", np.full(1000, 1.0), np.full(1000, 0.1))
    assert calibration.scale == pytest.approx(0.1)  # half of the mass is at infinity, the other half is seen
    assert math.isinf(conformal_scale(np.ones(1000), np.ones(1000), np.zeros(1000), 0.6))


@pytest.mark.parametrize(
    "arguments",
    [
        {"u": [np.nan], "error": [0.1]},
        {"u": [-1.0], "error": [0.1]},
        {"u": [1.0], "error": [np.nan]},
        {"u": [1.0], "error": [np.inf]},
        {"u": [1.0], "error": [-0.1]},
        {"u": [1.0, 2.0], "error": [0.1]},
        {"u": [], "error": []},
        {"u": [1.0], "error": [0.1], "center": 1},
        {"u": [1.0], "error": [0.1], "energy_error": math.nan},
        {"u": [1.0], "error": [0.1], "core": [True, False]},
        {"u": [1.0], "error": [0.1], "kind": "other"},
    ],
)
def test_bad_pairs_are_refused_and_change_nothing(arguments: dict[str, Any]) -> None:
    calibration = Calibration(0.9)
    with pytest.raises(UncertaintyError, match="cell 'a'"):
        calibration.add(**{"key": "a", "kind": "audit", **arguments})
    assert calibration.n_pairs == 0
    with pytest.raises(UncertaintyError):
        calibration.bound([np.nan])
    with pytest.raises(UncertaintyError):
        calibration.threshold(0.0)


def test_bad_arguments_are_refused() -> None:
    for arguments in ({"confidence": 1.0}, {"run_cells": -1}, {"half_life": 0.0}, {"reach": 0.5}):
        with pytest.raises(UncertaintyError):
            Calibration(**arguments)


# --- slopes, core, replacement, state ---------------------------------------------------------------------------------


def test_slopes_are_least_squares_through_the_origin() -> None:
    calibration = Calibration(0.9, half_life=math.inf)
    calibration.add("a", "validation", [3.0, 4.0], [0.1, 0.1], energy_error=-0.005, stress_error=0.2)
    assert calibration.energy_slope is None
    calibration.add("b", "selected", [2.0], [0.1], energy_error=0.001)
    u = np.array([np.sqrt(12.5), 2.0])
    assert calibration.energy_slope == pytest.approx((u @ [0.005, 0.001]) / (u @ u))
    assert calibration.stress_slope is None


def test_only_core_atoms_calibrate() -> None:
    calibration = Calibration(0.5)
    for k in range(4):
        calibration.add(str(k), "selected", [1.0, 1.0, 9.0], [0.1, 0.2, 5.0], core=[True, True, False], center=1)
    assert calibration.n_pairs == 8
    assert calibration.scale == pytest.approx(0.2)
    assert calibration.largest_compared_u == 1.0


def test_a_cell_compared_again_replaces_the_older_comparison() -> None:
    calibration = Calibration(0.5)
    for error in (9.0, 0.1):
        for k in range(4):
            calibration.add(str(k), "validation", [1.0], [error])
    assert calibration.n_cells == {"validation": 4, "selected": 0, "audit": 0}
    assert calibration.pairs()[1].tolist() == [0.1] * 4
    assert calibration.pairs("audit")[0].size == 0


def test_state_is_bitwise(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    first, second = Calibration(0.9), Calibration(0.9)
    write_state(tmp_path / "state", first.state())
    second.restore(read_state(tmp_path / "state"))
    assert second.n_pairs == 0
    kinds = ("validation", "selected", "audit")
    for k in range(50):
        u, error, _ = draw(rng, 1, 5)
        first.add(str(k), kinds[k % 3], u, error, 0.1 / (k + 1), None, 2, threshold=1.0)
    first.set_population(1000, 30)
    write_state(tmp_path / "state", first.state())
    second.restore(read_state(tmp_path / "state"))
    for calibration in (first, second):
        calibration.add("more", "selected", [1.5], [0.3], threshold=1.0)
    assert first.scale == second.scale
    assert np.array_equal(first.bound([0.5, 1.0, 2.0]), second.bound([0.5, 1.0, 2.0]))
    assert first.energy_slope == second.energy_slope
    assert first.population == second.population == (1000, 30)
    assert first.ready == second.ready


def test_the_shape_of_equal_u_is_proportional() -> None:
    n = 200
    shape = ErrorShape.fit(np.ones(n), np.linspace(0, 1, n), np.arange(n), np.ones(n), 0.9)
    assert shape(np.array([2.0])).tolist() == [2.0]
    assert shape.largest_u(0.3) == 0.3


NUMBERS = st.one_of(st.just(0.0), st.floats(1e-9, 1e9))


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.one_of(NUMBERS, st.just(math.inf)), NUMBERS), min_size=1, max_size=60),
    copies=st.integers(1, 30),
    tolerance=st.floats(1e-3, 1e3),
)
def test_whatever_the_pairs_the_bound_is_consistent(
    pairs: list[tuple[float, float]], copies: int, tolerance: float
) -> None:
    calibration = Calibration(0.8, run_cells=0)
    for copy in range(copies):
        for i, (u, error) in enumerate(pairs):
            calibration.add(f"{copy} {i}", "validation", [u], [error])
    grid = np.array([0.0, *sorted(u for u, _ in pairs), 1e10, math.inf])
    bound, threshold = calibration.bound(grid), calibration.threshold(tolerance)
    assert not np.isnan(bound).any()
    assert (bound[1:] >= bound[:-1] * (1 - 1e-9)).all()
    assert bound[-1] == math.inf
    assert 0 <= threshold <= 1.25 * calibration.largest_compared_u * (1 + 1e-9)
    known = calibration.pairs()
    if calibration.ready and known[0].size:
        inside = known[0] <= 1.25 * calibration.largest_compared_u
        within = (known[1] <= calibration.bound(known[0]) * (1 + 1e-9)) | ~inside
        assert within.mean() >= 0.8 - 1e-9
