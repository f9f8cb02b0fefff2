"""Coverage, TPR, PPV, AUC and rank correlation; None with a reason where they mean nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from ideal.errors import UncertaintyError
from ideal.uncertainty.assessment import Assessment, assess, calibration_curve


def sample(seed: int = 0, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    u = rng.lognormal(0, 0.5, n)
    return u, 0.1 * u * rng.lognormal(0, 0.7, n)


def test_the_numbers_are_those_of_their_definitions() -> None:
    u, error = sample()
    result = assess(u, error, threshold=1.4, force_error=0.15, bound=0.2 * u, resamples=0)
    flagged, wrong = u > 1.4, error > 0.15
    assert result.tpr.value == pytest.approx((flagged & wrong).sum() / wrong.sum())
    assert result.fpr.value == pytest.approx((flagged & ~wrong).sum() / (~wrong).sum())
    assert result.ppv.value == pytest.approx((flagged & wrong).sum() / flagged.sum())
    assert result.coverage.value == pytest.approx((error <= 0.2 * u).mean())
    assert result.auc.value == pytest.approx(roc_auc_score(wrong, u))
    assert result.spearman.value == pytest.approx(spearmanr(u, error).statistic)
    assert (result.n, result.n_true, result.n_flagged) == (400, wrong.sum(), flagged.sum())
    json.dumps(result.as_dict(), allow_nan=False)


def test_weights_are_repetitions() -> None:
    u, error = sample(n=60)
    u = np.round(u, 1)  # ties
    times = np.random.default_rng(1).integers(0, 4, 60)
    weighted = assess(u, error, threshold=1.2, force_error=0.1, weight=times, bound=0.1 * u, resamples=0)
    repeated = assess(
        np.repeat(u, times),
        np.repeat(error, times),
        threshold=1.2,
        force_error=0.1,
        bound=0.1 * np.repeat(u, times),
        resamples=0,
    )
    for name in ("coverage", "tpr", "fpr", "ppv", "auc", "spearman"):
        assert getattr(weighted, name).value == pytest.approx(getattr(repeated, name).value), name


def reasons(result: Assessment) -> set[str]:
    return {
        name for name in ("coverage", "tpr", "fpr", "ppv", "auc", "spearman") if getattr(result, name).value is None
    }


def test_what_means_nothing_is_none_with_a_reason() -> None:
    u, error = np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3])
    assert reasons(assess(u, error, threshold=1.5, force_error=0.15)) == {"coverage"}
    assert reasons(assess(u, error, threshold=9.0, force_error=9.0)) == {"coverage", "tpr", "ppv", "auc"}
    assert reasons(assess(u, error, threshold=1.5, force_error=0.01)) == {"coverage", "fpr", "auc"}
    assert "spearman" in reasons(assess(np.ones(3), error, threshold=1.5, force_error=0.15))
    result = assess(u, error, threshold=9.0, force_error=9.0)
    for name in reasons(result):
        assert getattr(result, name).reason
    assert assess([1.0], [0.1], threshold=0.5, force_error=0.05).tpr.reason  # one cell has no interval


def test_ties_count_one_half() -> None:
    assert assess([1.0] * 4, [0.1, 0.2, 0.3, 0.4], threshold=2, force_error=0.25).auc.value == 0.5


def test_unknown_species_rank_first() -> None:
    result = assess([1.0, 2.0, np.inf], [0.1, 0.2, 0.3], threshold=2.5, force_error=0.25)
    assert result.auc.value == 1
    assert result.tpr.value == 1


def test_intervals_count_cells_not_atoms() -> None:
    rng = np.random.default_rng(2)
    u, error = sample(3, n=40)
    u, error = np.repeat(u, 25), np.repeat(error, 25) * rng.lognormal(0, 0.05, 1000)
    arguments = {"threshold": 1.2, "force_error": 0.15, "bound": 0.2 * u}
    clustered = assess(u, error, cell=np.repeat(np.arange(40), 25), **arguments)
    alone = assess(u, error, **arguments)
    for name in ("coverage", "tpr", "auc"):
        one, other = getattr(clustered, name), getattr(alone, name)
        assert one.low <= one.value <= one.high
        assert one.high - one.low > 2.5 * (other.high - other.low), name


def test_the_interval_of_the_auc_covers() -> None:
    truth = assess(*sample(9, 100_000), threshold=1.0, force_error=0.15, resamples=0).auc.value
    assert truth is not None
    inside = []
    for seed in range(60):
        auc = assess(*sample(100 + seed, 100), threshold=1.0, force_error=0.15, confidence=0.9, resamples=100).auc
        assert auc.low is not None
        assert auc.high is not None
        inside.append(auc.low <= truth <= auc.high)
    assert 0.78 < np.mean(inside) < 0.99


def test_the_calibration_curve_lies_on_the_diagonal() -> None:
    u, error = sample(5, n=2000)
    curve = calibration_curve(u, error, np.arange(2000) // 10)
    for nominal, observed, low, high in zip(curve.nominal, curve.observed, curve.low, curve.high, strict=True):
        assert observed == pytest.approx(nominal, abs=0.025)
        assert low <= observed <= high
    few = calibration_curve(u[:40], error[:40], np.arange(40) // 10)
    assert few.observed[-1] is None  # 99 % needs 99 cells
    json.dumps(few.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"u": []},
        {"u": [np.nan, 1.0]},
        {"u": [-1.0, 1.0]},
        {"error": [0.1]},
        {"error": [0.1, np.inf]},
        {"weight": [0.0, 0.0]},
        {"weight": [1.0, np.nan]},
        {"bound": [np.nan, 1.0]},
        {"cell": [0]},
        {"threshold": np.nan},
        {"force_error": 0.0},
        {"confidence": 1.0},
    ],
)
def test_bad_input_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(UncertaintyError):
        assess(**{"u": [1.0, 2.0], "error": [0.1, 0.2], "threshold": 1.5, "force_error": 0.15, **arguments})  # type: ignore[arg-type]
