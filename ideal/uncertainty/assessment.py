"""How well u tells true force errors: coverage, TPR, PPV, AUC, rank correlation, each with a confidence interval.

An atom is *flagged* when u exceeds the threshold, and *truly wrong* when its force error exceeds the tolerance:

    TPR = P(flagged | truly wrong)           PPV = P(truly wrong | flagged)            (AiiDA-TrainsPot, eqs. 3 and 4)
    coverage = P(error <= bound)             AUC = P(u of a truly wrong atom > u of another one), ties count one half

Atoms of one cell are alike, so that intervals come from a bootstrap over whole cells. Where a number has no meaning (no
atom is truly wrong, none is flagged, all u are equal) it is None with the reason, never a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ideal.errors import UncertaintyError
from ideal.records import BoolArray, FloatArray
from ideal.uncertainty.conformal import fit_error_bound

CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Measure:
    """A number with its confidence interval.

    Attributes:
        value: None where it has no meaning.
        low: lower end of the interval; None where there is none (fewer than two cells).
        high: upper end.
        reason: why something is None; empty otherwise.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Assessment:
    """How well u tells true force errors.

    Attributes:
        coverage: share of atoms whose error is within the bound.
        tpr: share of the truly wrong atoms that are flagged.
        fpr: share of the others that are flagged.
        ppv: share of the flagged atoms that are truly wrong.
        auc: area under the ROC curve of u for "truly wrong".
        spearman: rank correlation of u and error.
        n: atoms.
        n_cells: cells that they come from.
        n_true: truly wrong atoms.
        n_flagged: flagged atoms.
        threshold: u above which an atom is flagged.
        force_error: error above which an atom is truly wrong, eV/Å.
        confidence: of the intervals.
    """

    coverage: Measure
    tpr: Measure
    fpr: Measure
    ppv: Measure
    auc: Measure
    spearman: Measure
    n: int
    n_cells: int
    n_true: int
    n_flagged: int
    threshold: float
    force_error: float
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def assess(
    u: ArrayLike,
    error: ArrayLike,
    *,
    threshold: float,
    force_error: float,
    weight: ArrayLike | None = None,
    bound: ArrayLike | None = None,
    cell: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> Assessment:
    """Hold u against true errors.

    Args:
        u: (n,) uncertainty; infinite for species never seen.
        error: (n,) norm of the force error vector, eV/Å.
        threshold: u above which an atom is flagged.
        force_error: tolerance, eV/Å.
        weight: (n,) environments that each atom stands for; None: all alike.
        bound: (n,) bound on the error, eV/Å; None: no coverage.
        cell: (n,) number or name of the cell of each atom; None: each atom is its own.
        confidence: of the intervals.
        resamples: of the bootstrap; 0: no intervals.
        seed: of the bootstrap.

    Raises:
        UncertaintyError: shapes differ, there is no pair, a number is negative or not a number.

    Example:
        >>> result = assess([1.0, 2.0, 3.0, 4.0], [0.0, 0.1, 0.3, 0.2], threshold=2.5, force_error=0.15)
        >>> result.tpr.value, result.ppv.value, result.auc.value
        (1.0, 1.0, 1.0)
    """
    data = _Data.checked(u, error, weight, bound, cell, threshold, force_error)
    if not 0 < confidence < 1:
        raise UncertaintyError(f"confidence {confidence}: choose a number between 0 and 1, such as 0.95")
    measures: dict[str, Callable[[_Data, FloatArray], float | str]] = {
        "coverage": _coverage,
        "tpr": _tpr,
        "fpr": _fpr,
        "ppv": _ppv,
        "auc": _auc,
        "spearman": _spearman,
    }
    counts = _bootstrap_counts(data.n_cells, resamples, seed)
    return Assessment(
        **{name: _measure(function, data, counts, confidence) for name, function in measures.items()},
        n=data.u.size,
        n_cells=data.n_cells,
        n_true=int(data.wrong.sum()),
        n_flagged=int(data.flagged.sum()),
        threshold=float(threshold),
        force_error=float(force_error),
        confidence=float(confidence),
    )


@dataclass(frozen=True)
class CalibrationCurve:
    """Observed against nominal coverage, for the plot.

    Attributes:
        nominal: (k,) confidences asked for.
        observed: (k,) share of held-out atoms within the bound; None where no finite bound exists.
        low: (k,) lower ends.
        high: (k,) upper ends.
        confidence: of the intervals.
    """

    nominal: list[float]
    observed: list[float | None]
    low: list[float | None]
    high: list[float | None]
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def calibration_curve(
    u: ArrayLike,
    error: ArrayLike,
    cell: ArrayLike,
    *,
    confidences: Sequence[float] = CONFIDENCES,
    splits: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
) -> CalibrationCurve:
    """Coverage that calibration on half of the cells gives on the other half, over random splits.

    Args:
        u: (n,) uncertainty.
        error: (n,) norm of the force error vector, eV/Å.
        cell: (n,) number or name of the cell of each atom.
        confidences: nominal coverages.
        splits: random divisions of the cells into halves.
        confidence: share of the splits whose coverage lies between `low` and `high`.
        seed: of the splits.

    Raises:
        UncertaintyError: as `assess`.
    """
    data = _Data.checked(u, error, None, None, cell, threshold=0.0, force_error=1.0)
    rng = np.random.default_rng(seed)
    observed: list[list[float]] = [[] for _ in confidences]
    for _ in range(splits if data.n_cells > 1 else 0):
        calibrates = (rng.permutation(data.n_cells) < data.n_cells // 2)[data.cell]
        used, held_out = calibrates & np.isfinite(data.u), ~calibrates
        if not used.any():
            continue
        share = 1 / np.bincount(data.cell)[data.cell][held_out]
        for coverages, nominal in zip(observed, confidences, strict=True):
            bound = fit_error_bound(data.u[used], data.error[used], data.cell[used], nominal)
            if np.isfinite(bound.factor):
                covered = data.error[held_out] <= bound(data.u[held_out])
                coverages.append(float((share * covered).sum() / share.sum()))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    ends = [np.quantile(coverages, tails).tolist() if coverages else [None, None] for coverages in observed]
    return CalibrationCurve(
        nominal=[float(nominal) for nominal in confidences],
        observed=[float(np.mean(coverages)) if coverages else None for coverages in observed],
        low=[low for low, _ in ends],
        high=[high for _, high in ends],
        confidence=float(confidence),
    )


# --- the measures: each takes the data and a weight per pair ----------------------------------------------------------


@dataclass(frozen=True)
class _Data:
    """Checked pairs; a group is the rank of a value among the different ones."""

    u: FloatArray
    error: FloatArray
    weight: FloatArray
    bound: FloatArray | None
    cell: NDArray[np.int64]
    n_cells: int
    flagged: BoolArray
    wrong: BoolArray
    u_group: NDArray[np.int64]
    error_group: NDArray[np.int64]

    @classmethod
    def checked(
        cls,
        u: ArrayLike,
        error: ArrayLike,
        weight: ArrayLike | None,
        bound: ArrayLike | None,
        cell: ArrayLike | None,
        threshold: float,
        force_error: float,
    ) -> _Data:
        values = np.asarray(u, dtype=np.float64)
        if values.ndim != 1 or values.size == 0:
            raise UncertaintyError(f"assess: u of shape {values.shape}; give one value per atom, (n,), n at least 1")
        if np.isnan(threshold) or not force_error > 0:
            raise UncertaintyError(
                f"assess: threshold {threshold}, force_error {force_error}; give a threshold and a tolerance above 0"
            )
        errors = _array("error", error, values.size)
        if not np.isfinite(errors).all():
            raise UncertaintyError("assess: an error is infinite; leave out cells whose label or prediction failed")
        weights = np.ones(values.size) if weight is None else _array("weight", weight, values.size)
        if not np.isfinite(weights).all() or weights.sum() <= 0:
            raise UncertaintyError("assess: weights must be finite and not all 0")
        if cell is None:
            numbers, n_cells = np.arange(values.size), values.size
        else:
            names, numbers = np.unique(np.asarray(cell), return_inverse=True)
            n_cells = names.size
            if numbers.shape != values.shape:
                raise UncertaintyError(f"assess: cell of shape {numbers.shape} for {values.size} atoms; give one each")
        return cls(
            u=_array("u", values, values.size),
            error=errors,
            weight=weights,
            bound=None if bound is None else _array("bound", bound, values.size),
            cell=numbers.astype(np.int64),
            n_cells=n_cells,
            flagged=values > threshold,
            wrong=errors > force_error,
            u_group=np.unique(values, return_inverse=True)[1],
            error_group=np.unique(errors, return_inverse=True)[1],
        )


def _array(name: str, values: ArrayLike, n: int) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (n,):
        raise UncertaintyError(f"assess: {name} of shape {array.shape} for {n} atoms; give one value per atom")
    if np.isnan(array).any() or (array < 0).any():
        raise UncertaintyError(f"assess: {name} is negative or not a number somewhere; leave such atoms out")
    return array


def _coverage(data: _Data, weight: FloatArray) -> float | str:
    if data.bound is None:
        return "no bound was given: not calibrated yet"
    return _share(data.error <= data.bound, weight, "no atom")


def _tpr(data: _Data, weight: FloatArray) -> float | str:
    return _share(data.flagged, weight * data.wrong, "no error exceeds the tolerance")


def _fpr(data: _Data, weight: FloatArray) -> float | str:
    return _share(data.flagged, weight * ~data.wrong, "every error exceeds the tolerance")


def _ppv(data: _Data, weight: FloatArray) -> float | str:
    return _share(data.wrong, weight * data.flagged, "no u exceeds the threshold")


def _share(member: BoolArray, weight: FloatArray, empty: str) -> float | str:
    total = weight.sum()
    return float((weight * member).sum() / total) if total > 0 else empty


def _auc(data: _Data, weight: FloatArray) -> float | str:
    right, wrong = (np.bincount(data.u_group, weights=weight * side) for side in (~data.wrong, data.wrong))
    if not wrong.sum() > 0:
        return "no error exceeds the tolerance"
    if not right.sum() > 0:
        return "every error exceeds the tolerance"
    below = np.cumsum(right) - right / 2
    return float((wrong * below).sum() / (wrong.sum() * right.sum()))


def _spearman(data: _Data, weight: FloatArray) -> float | str:
    w = weight / weight.sum()
    ranks = [_weighted_ranks(group, w) for group in (data.u_group, data.error_group)]
    x, y = (rank - (w * rank).sum() for rank in ranks)
    variance = (w * x * x).sum() * (w * y * y).sum()
    if variance <= 1e-24:
        return "all u or all errors are equal"
    return float((w * x * y).sum() / np.sqrt(variance))


def _weighted_ranks(group: NDArray[np.int64], weight: FloatArray) -> FloatArray:
    """Mid-ranks: weight of all smaller values plus half the weight of the equal ones."""
    mass = np.bincount(group, weights=weight)
    return (np.cumsum(mass) - mass / 2)[group]


# --- intervals --------------------------------------------------------------------------------------------------------


def _bootstrap_counts(n_cells: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """(resamples, n_cells): how often each cell is drawn."""
    if n_cells < 2 or resamples < 1:
        return np.empty((0, n_cells), dtype=np.int64)
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_cells, np.full(n_cells, 1 / n_cells), size=resamples)


def _measure(
    function: Callable[[_Data, FloatArray], float | str],
    data: _Data,
    counts: NDArray[np.int64],
    confidence: float,
) -> Measure:
    value = function(data, data.weight)
    if isinstance(value, str):
        return Measure(None, reason=value)
    if counts.shape[0] == 0:
        return Measure(value, reason="no interval from fewer than two cells" if data.n_cells < 2 else "")
    resampled = [function(data, data.weight * count[data.cell]) for count in counts]
    defined = [number for number in resampled if not isinstance(number, str)]
    if len(defined) < 0.9 * len(resampled):
        return Measure(value, reason="no interval: too few cells decide this number")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Measure(value, float(low), float(high))
