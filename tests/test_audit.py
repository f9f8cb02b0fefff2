"""Audits: the draws are uniform and their weights right, the estimates unbiased, their intervals wide enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from ideal.audit import AuditReservoir, AuditSchedule, estimate_audit
from ideal.engine.state_files import read_state, write_state
from ideal.errors import UncertaintyError

CONFIDENCE = 0.9


def frame(n: int, x: float = 0.0) -> Atoms:
    return Atoms("H" * n, positions=np.arange(3.0 * n).reshape(n, 3) + x, cell=[50, 50, 50], pbc=True)


# --- reservoir --------------------------------------------------------------------------------------------------------


def test_every_environment_is_drawn_equally_often() -> None:
    sizes = (5, 1, 30, 4)
    drawn = np.zeros(40)
    repetitions = 1200
    for seed in range(repetitions):
        reservoir = AuditReservoir(size=6, seed=seed)
        for step, n in enumerate(sizes):
            reservoir.offer("md", step, frame(n), np.arange(n))
        for draw in reservoir.draw(2):
            drawn[sum(sizes[: draw.step]) + draw.atom] += 1
    expected = 2 * repetitions / 40
    chi_squared = ((drawn - expected) ** 2 / expected).sum()
    assert chi_squared < 70  # 39 degrees of freedom: 1 in 1,000 exceeds 72


def test_only_offered_atoms_are_drawn_and_frames_are_copies() -> None:
    atoms = frame(20)
    reservoir = AuditReservoir(size=3, seed=1)
    reservoir.offer("a", 7, atoms, [4, 9])
    reservoir.offer("b", 8, atoms, np.empty(0, dtype=int))
    atoms.positions += 1.0
    draws = reservoir.draw(5)
    assert sorted(draw.atom for draw in draws) == [4, 9]
    assert all(draw.trajectory == "a" and draw.step == 7 for draw in draws)
    assert np.array_equal(draws[0].atoms.positions, frame(20).positions)
    assert reservoir.n_seen == 2
    reservoir.reset()
    assert reservoir.n_seen == 0
    assert reservoir.draw(1) == []


def test_weights_count_the_population() -> None:
    reservoir = AuditReservoir(size=10, seed=0)
    reservoir.offer("md", 0, frame(100), np.arange(100))
    assert [draw.weight for draw in reservoir.draw(4)] == [25.0] * 4
    assert reservoir.draw(1, expected=0.25)[0].weight == 400.0
    # 10.5 expected, but no more than the 10 kept can come
    assert reservoir.draw(11, expected=10.5)[0].weight == 10.0
    with pytest.raises(UncertaintyError, match="rounding"):
        reservoir.draw(2, expected=0.25)
    with pytest.raises(UncertaintyError, match="do not fit"):
        reservoir.offer("md", 1, frame(3), [3])


def test_a_reservoir_goes_on_bitwise_after_a_restart(tmp_path: Path) -> None:
    first = AuditReservoir(size=4, seed=3)
    for step in range(5):
        first.offer("md", step, frame(50, x=0.1 * step), np.arange(50))
    write_state(tmp_path / "state", first.state())
    second = AuditReservoir(size=4, seed=99)
    second.restore(read_state(tmp_path / "state"))
    for reservoir in (first, second):
        for step in range(5, 40):
            reservoir.offer("md", step, frame(50, x=0.1 * step), np.arange(25))
    for one, other in zip(first.draw(3), second.draw(3), strict=True):
        assert (one.step, one.atom, one.weight) == (other.step, other.atom, other.weight)
        assert np.array_equal(one.atoms.positions, other.atoms.positions)
    empty = AuditReservoir(size=4, seed=0)
    write_state(tmp_path / "state", empty.state())
    second.restore(read_state(tmp_path / "state"))
    assert second.n_seen == 0
    assert second.draw(1) == []


# --- schedule ---------------------------------------------------------------------------------------------------------


def test_the_share_of_audits_is_the_stated_one() -> None:
    for fraction in (0.05, 0.3, 0.6):
        schedule = AuditSchedule(fraction, seed=5)
        selected = np.random.default_rng(0).integers(1, 4, 400)
        audits = sum(schedule.due(int(n)) for n in selected)
        assert abs(audits - schedule.expected(int(selected.sum()))) < 1


def test_every_ask_has_its_expected_number() -> None:
    due = np.array([[AuditSchedule(0.2, seed).due(1), 0] for seed in range(3000)])[:, 0]
    assert due.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 3000))
    schedule = AuditSchedule(0.2, seed=0)
    later = [schedule.due(1) for _ in range(4000)]
    assert np.mean(later) == pytest.approx(0.25, abs=1e-3)


def test_no_audits_without_a_share() -> None:
    schedule = AuditSchedule(0.0, seed=0)
    assert sum(schedule.due(5) for _ in range(100)) == 0
    assert schedule.final(10, 10, 50) == 0


def test_the_last_interval_is_audited_at_the_same_rate() -> None:
    schedule = AuditSchedule(0.05, seed=0)
    assert schedule.final(0, 100, 95) == 0
    assert schedule.final(100, 100, 0) == 1
    assert schedule.final(10, 10_000, 95) == 1
    assert schedule.final(5000, 10_000, 950) == 25
    with pytest.raises(UncertaintyError, match="no larger than the whole"):
        schedule.final(11, 10, 3)


def test_a_schedule_goes_on_after_a_restart() -> None:
    first, second = AuditSchedule(0.13, seed=1), AuditSchedule(0.13, seed=2)
    first.due(7)
    second.restore(first.state())
    assert [first.due(2) for _ in range(50)] == [second.due(2) for _ in range(50)]


# --- estimates --------------------------------------------------------------------------------------------------------

TOLERANCE = 0.3


class Run:
    """A fixed population of certain environments in intervals, audited as the engine does it."""

    def __init__(self, n_intervals: int) -> None:
        rng = np.random.default_rng(12345)
        self.sizes = rng.integers(20, 200, n_intervals)
        self.asks = rng.integers(1, 4, n_intervals)
        levels = np.exp(-2 + 0.3 * rng.standard_normal(n_intervals))
        self.errors = [
            level * np.exp(0.5 * rng.standard_normal(n)) for n, level in zip(self.sizes, levels, strict=True)
        ]
        self.uncertain = np.exp(-0.5 + 0.3 * rng.standard_normal(int(self.asks.sum())))
        certain = np.concatenate(self.errors)
        everything = np.concatenate([certain, self.uncertain])
        self.truth = np.array(
            [(certain > TOLERANCE).mean(), certain.mean(), everything.mean(), np.sqrt((everything**2).mean())]
        )
        self.n_certain = int(self.sizes.sum())

    def audit(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Errors and weights of one audited run; the last interval ends with the run."""
        schedule = AuditSchedule(0.1, seed)
        errors, weights = [], []
        reservoir = AuditReservoir(size=8, seed=seed)
        for interval, (size, ask) in enumerate(zip(self.sizes.tolist(), self.asks.tolist(), strict=True)):
            if interval < len(self.sizes) - 1:
                m = schedule.due(ask)
                expected: float | None = schedule.expected(ask)
            else:
                m, expected = schedule.final(size, self.n_certain, int(self.asks.sum())), None
            if m == 0:
                continue
            reservoir.offer("md", interval, _cached(size), np.arange(size))
            draws = reservoir.draw(m, expected)
            reservoir.reset()
            errors += [self.errors[interval][draw.atom] for draw in draws]
            weights += [draw.weight for draw in draws]
        return np.array(errors), np.array(weights)


_frames: dict[int, Atoms] = {}


def _cached(n: int) -> Atoms:
    return _frames.setdefault(n, frame(n))


def test_audits_are_unbiased_and_their_intervals_hold() -> None:
    run = Run(n_intervals=60)
    totals, estimates, covered = [], [], []
    for seed in range(160):
        error, weight = run.audit(seed)
        totals.append([weight.sum() / run.n_certain, (weight * error).sum() / run.n_certain])
        result = estimate_audit(
            error,
            weight,
            n_certain=run.n_certain,
            n_uncertain=run.uncertain.size,
            tolerance=TOLERANCE,
            uncertain_error=run.uncertain,
            confidence=CONFIDENCE,
        )
        found = [result.missed_error_rate, result.certain_force_error, result.force_error, result.rms_force_error]
        estimates.append([estimate.value for estimate in found])
        covered.append([estimate.low <= true <= estimate.high for estimate, true in zip(found, run.truth, strict=True)])

    def deviation(values: list[list[float]], truth: np.ndarray) -> np.ndarray:
        """In standard errors of the mean over the runs."""
        array = np.array(values)
        return np.abs(array.mean(axis=0) - truth) / (array.std(axis=0) / np.sqrt(len(array)))

    # the Horvitz-Thompson totals are unbiased exactly, the ratios to order 1 / m
    assert (deviation(totals, np.array([1.0, run.truth[1]])) < 3.5).all()
    assert (deviation(estimates, run.truth)[:3] < 3.5).all()
    coverage = np.mean(covered, axis=0)
    assert (coverage[:3] > CONFIDENCE - 0.06).all()  # 2.5 standard errors of 160 runs
    assert coverage[3] > 0.78


def test_few_audits_give_wide_intervals_or_none() -> None:
    none = estimate_audit([], [], n_certain=50, n_uncertain=0, tolerance=0.1)
    assert none.missed_error_rate.value is None
    assert none.missed_error_rate.reason
    assert none.force_error.value is None
    one = estimate_audit([0.05], [50.0], n_certain=50, n_uncertain=0, tolerance=0.1, confidence=0.9)
    assert one.missed_error_rate.value == 0
    assert one.missed_error_rate.high == pytest.approx(0.95)
    assert one.force_error.value == pytest.approx(0.05)
    assert one.force_error.high is None
    assert one.force_error.reason
    ten = estimate_audit([0.05] * 10, [5.0] * 10, n_certain=50, n_uncertain=0, tolerance=0.1, confidence=0.9)
    assert ten.missed_error_rate.high == pytest.approx(1 - 0.05 ** (1 / 10))
    unlabelled = estimate_audit([0.05] * 10, [5.0] * 10, n_certain=50, n_uncertain=3, tolerance=0.1)
    assert unlabelled.force_error.value is None
    assert unlabelled.certain_force_error.value == pytest.approx(0.05)


def test_bad_numbers_are_refused() -> None:
    for error, weight in (([np.nan], [1.0]), ([-1.0], [1.0]), ([1.0], [0.0]), ([1.0], [1.0, 2.0]), ([np.inf], [1.0])):
        with pytest.raises(UncertaintyError):
            estimate_audit(error, weight, n_certain=1, n_uncertain=0, tolerance=0.1)
    with pytest.raises(UncertaintyError):
        AuditReservoir(size=0, seed=0)
    with pytest.raises(UncertaintyError):
        AuditSchedule(1.0, seed=0)
