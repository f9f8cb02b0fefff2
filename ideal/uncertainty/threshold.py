"""The value of u above which an atom counts as uncertain.

u is 1 on average over the training environments, but its tails are heavy: chi-squared quantiles do not hold. Four ways
to a threshold:

* fixed: a number.
* quantile: an empirical quantile over environments that the statistics did not see, times a factor: the structures are
  divided into folds, and every environment is scored by the statistics of the other folds.
* moving average (VASP; aims-PAX, Henkes et al. 2025, eq. 2): (1 + c_x) / N times the sum of the largest u of the last N
  checks, of all trajectories together; frozen on request.
* calibrated: where the conformal bound on the force error reaches the user's tolerance
  (`ideal.uncertainty.calibration`); until enough pairs exist, the quantile, taken anew as the distribution grows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from ase import Atoms

from ideal.config import ThresholdConfig
from ideal.errors import UncertaintyError
from ideal.records import FloatArray
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty.calibration import Calibration
from ideal.uncertainty.mahalanobis import SoapMahalanobis

Source = Literal["fixed", "quantile", "moving_average", "calibrated"]


def held_out_u(
    soap: SoapPowerSpectrum,
    structures: Sequence[Atoms],
    ridge: float,
    folds: int,
    seed: int,
    metric: str = "auto",
    rank: int | None = None,
) -> FloatArray:
    """u of every environment under statistics that did not see its structure's fold.

    With fewer structures than folds each structure is left out in turn. A single structure cannot be held out: its own
    statistics score it, and its u comes out too small (a threshold from it asks for labels too often, never too
    seldom).

    Args:
        soap: descriptor.
        structures: training structures.
        ridge: of the covariance, as a fraction of its trace.
        folds: at least 2.
        seed: of the division into folds.
        metric: as `SoapMahalanobis` has it.
        rank: as `SoapMahalanobis` has it.

    Returns:
        (n_environments,) in the order of the structures and their atoms; infinite where an element occurs in one fold
        only.

    Raises:
        UncertaintyError: there is no structure, or fewer than two folds.

    Example:
        >>> u = held_out_u(soap, structures, ridge=1e-8, folds=5, seed=0)  # doctest: +SKIP
    """
    if not structures:
        raise UncertaintyError(
            "no structure to fit a threshold on: label at least one, or set threshold.type to 'fixed'"
        )
    if folds < 2:
        raise UncertaintyError(f"folds {folds}: write at least 2")

    def statistics(chosen: Sequence[Atoms]) -> SoapMahalanobis:
        made = SoapMahalanobis(soap, ridge, metric=metric, rank=rank)
        made.update(chosen)
        return made

    if len(structures) == 1:
        return statistics(structures).atomic(structures[0])
    folds = min(folds, len(structures))
    order = np.random.default_rng(seed).permutation(len(structures))
    members = [np.sort(order[fold::folds]) for fold in range(folds)]
    parts = [statistics([structures[i] for i in indices]) for indices in members]
    u: list[FloatArray] = [np.empty(0)] * len(structures)
    for fold, indices in enumerate(members):
        others = statistics([])
        for other, part in enumerate(parts):
            if other != fold:
                others.merge(part)
        for index in indices:
            u[index] = others.atomic(structures[index])
    return np.concatenate(u)


def held_out_threshold(
    config: ThresholdConfig,
    soap: SoapPowerSpectrum,
    structures: Sequence[Atoms],
    ridge: float,
    seed: int,
    metric: str = "auto",
    rank: int | None = None,
) -> float:
    """The quantile of held-out u times the factor, whatever the threshold's type.

    Infinite values (an element that occurs in one fold only) say nothing about the others and are left out.

    Args:
        config: quantile, factor and folds.
        soap: descriptor.
        structures: training structures.
        ridge: of the covariance, as a fraction of its trace.
        seed: of the division into folds.
        metric: as `SoapMahalanobis` has it.
        rank: as `SoapMahalanobis` has it.

    Returns:
        The threshold, above 0.

    Raises:
        UncertaintyError: no finite positive quantile comes out (nothing to fit on, or identical environments only).

    Example:
        >>> held_out_threshold(ThresholdConfig(), soap, structures, ridge=1e-8, seed=0)  # doctest: +SKIP
        3.1
    """
    u = held_out_u(soap, structures, ridge, config.folds, seed, metric, rank)
    finite = u[np.isfinite(u)]
    remedy = "label more and more varied structures, or set uncertainty.threshold.type to 'fixed'"
    if finite.size == 0:
        raise UncertaintyError(
            f"none of the {u.size} held-out environments of {len(structures)} structures has a finite u; {remedy}"
        )
    quantile = float(np.quantile(finite, config.quantile))
    if quantile <= 0:
        raise UncertaintyError(
            f"the {config.quantile:g} quantile of u over {finite.size} held-out environments is {quantile:g}: they "
            f"are all alike; {remedy}"
        )
    return quantile * config.factor


# --- thresholds that follow the run -----------------------------------------------------------------------------------


class Threshold(Protocol):
    """The threshold of a run: one number that may change at checks and when labels arrive."""

    @property
    def value(self) -> float:
        """u above which an atom counts as uncertain."""
        ...

    @property
    def source(self) -> Source:
        """Where the value comes from."""
        ...

    def observe(self, max_u: float) -> None:
        """Take note of the largest u of a check (finite or infinite).

        Raises:
            UncertaintyError: it is negative or not a number.
        """
        ...

    def recalibrate(self, calibration: Calibration, least: float = 0.0, known: float = math.inf) -> None:
        """Take note of new pairs.

        Args:
            calibration: holds them.
            least: u that unseen environments of a known state have; the threshold does not fall below it.
            known: the held-out quantile times its factor, of the distribution as it is now.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state over, bitwise."""
        ...


def make_threshold(config: ThresholdConfig, held_out: float) -> Threshold:
    """The threshold that ``config`` asks for.

    Args:
        config: which, and its numbers.
        held_out: the quantile of held-out u times the factor (`held_out_threshold`): what quantile uses, and what the
            moving average and the calibrated threshold start from. Not looked at by a fixed one.

    Raises:
        UncertaintyError: ``held_out`` is not a finite number above 0.

    Example:
        >>> make_threshold(ThresholdConfig(type="fixed", value=3.0), held_out=2.0).value
        3.0
    """
    if config.type == "fixed":
        return ConstantThreshold(config.value, "fixed")
    if not (math.isfinite(held_out) and held_out > 0):
        raise UncertaintyError(f"held-out threshold {held_out}: fit it first (`held_out_threshold`)")
    if config.type == "quantile":
        return ConstantThreshold(held_out, "quantile")
    if config.type == "moving_average":
        return MovingAverageThreshold(held_out, config.window, config.margin, config.freeze_after)
    return CalibratedThreshold(held_out, config.force_error)


class _StoredThreshold:
    """A value with its source, which no check changes."""

    def __init__(self, value: float, source: Source) -> None:
        self._value = float(value)
        self._source: Source = source

    @property
    def value(self) -> float:
        """See `Threshold`."""
        return self._value

    @property
    def source(self) -> Source:
        """See `Threshold`."""
        return self._source

    def observe(self, max_u: float) -> None:
        """Nothing follows from it."""
        _checked_u(max_u)

    def recalibrate(self, calibration: Calibration, least: float = 0.0, known: float = math.inf) -> None:
        """Nothing follows from it."""

    def state(self) -> dict[str, Any]:
        """See `Threshold`."""
        return {"value": self._value, "source": self._source}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Threshold`."""
        self._value = float(state["value"])
        self._source = state["source"]


class ConstantThreshold(_StoredThreshold):
    """A threshold that stays: fixed, or a quantile taken at the start.

    Args:
        value: the threshold, above 0.
        source: "fixed" or "quantile".

    Raises:
        UncertaintyError: the value is not a number above 0.
    """

    def __init__(self, value: float, source: Source) -> None:
        if not value > 0:
            raise UncertaintyError(f"threshold {value}: choose a number above 0")
        super().__init__(value, source)


class MovingAverageThreshold:
    """Mean of the largest u of the last checks, times 1 + margin (Henkes et al. 2025, eq. 2).

    The starting value counts as the first observation until ``window`` checks have pushed it out, so that the first
    frames, which are nearly the training set's own, do not set the threshold alone. An infinite u (a species never
    seen) is left out of the mean.

    Args:
        start: value before the first check, above 0.
        window: N, checks that the mean looks back on.
        margin: c_x, above -1.
        freeze_after: the value stays after this many checks; None: never.

    Raises:
        UncertaintyError: an argument is out of range.

    Example:
        >>> threshold = MovingAverageThreshold(start=2.0, window=2, margin=0.1)
        >>> for u in (1.0, 2.0, 3.0):
        ...     threshold.observe(u)
        >>> round(threshold.value, 6)
        2.75
    """

    def __init__(self, start: float, window: int = 400, margin: float = 0.0, freeze_after: int | None = None) -> None:
        if not (math.isfinite(start) and start > 0):
            raise UncertaintyError(f"moving average from {start}: choose a finite number above 0")
        if window < 1 or not margin > -1 or (freeze_after is not None and freeze_after < 1):
            raise UncertaintyError(
                f"moving average with window {window}, margin {margin}, freeze_after {freeze_after}: choose a window "
                "of at least 1, a margin above -1, and None or at least 1 to freeze"
            )
        self._margin = float(margin)
        self._freeze_after = freeze_after
        self._values: deque[float] = deque([start / (1 + margin)], maxlen=window)
        self._n_checks = 0

    @property
    def value(self) -> float:
        """See `Threshold`."""
        return (1 + self._margin) * math.fsum(self._values) / len(self._values)

    @property
    def source(self) -> Source:
        """See `Threshold`."""
        return "moving_average"

    @property
    def frozen(self) -> bool:
        """Whether further checks change nothing."""
        return self._freeze_after is not None and self._n_checks >= self._freeze_after

    def observe(self, max_u: float) -> None:
        """See `Threshold`."""
        value = _checked_u(max_u)
        if not self.frozen:
            self._n_checks += 1
            if math.isfinite(value):
                self._values.append(value)

    def recalibrate(self, calibration: Calibration, least: float = 0.0, known: float = math.inf) -> None:
        """Nothing follows from it."""

    def state(self) -> dict[str, Any]:
        """See `Threshold`."""
        return {"values": np.array(self._values), "n_checks": self._n_checks}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Threshold`."""
        self._values = deque(np.asarray(state["values"]).tolist(), maxlen=self._values.maxlen)
        self._n_checks = int(state["n_checks"])


MAX_STEP = 1.25
"""Largest factor between the calibrated threshold of a run before and after a recalibration."""


class CalibratedThreshold(_StoredThreshold):
    """u at which the bound on the force error reaches the tolerance; the held-out quantile until the pairs suffice.

    Until then it falls with the quantile: statistics of a few labels are wide, those of more know better what is
    unlike them, and a value of the start would let all of that pass. It does not rise with the quantile, which the
    outliers that a run learns would drive up.

    From few cells the bound is rough, and the u at which it passes the tolerance can halve or double with one more. The
    threshold goes there in steps of at most `MAX_STEP` per recalibration, so that a run neither asks in bursts nor
    stops asking because of a single cell.

    Where the model errs by more than the tolerance even on what it knows as well as its training data, no threshold
    reaches it: u does not tell which environments would help, and all of them would be asked for, one frame like the
    next. So it stays at what unseen environments of a known state have (``least``), and the most unlike ones are asked
    for.

    Args:
        start: held-out quantile of u times the factor, above 0.
        force_error: tolerance, eV/Å, above 0.

    Raises:
        UncertaintyError: an argument is out of range.

    Example:
        >>> threshold = CalibratedThreshold(start=2.0, force_error=0.15)
        >>> threshold.value, threshold.source
        (2.0, 'quantile')
    """

    def __init__(self, start: float, force_error: float) -> None:
        if not (math.isfinite(start) and start > 0 and math.isfinite(force_error) and force_error > 0):
            raise UncertaintyError(
                f"calibrated threshold from {start} for force_error {force_error}: choose finite numbers above 0"
            )
        super().__init__(start, "quantile")
        self.force_error = float(force_error)

    def recalibrate(self, calibration: Calibration, least: float = 0.0, known: float = math.inf) -> None:
        """See `Threshold`."""
        if calibration.ready:
            wanted = max(calibration.threshold(self.force_error), min(least, self._value))
            self._value = min(max(wanted, self._value / MAX_STEP), self._value * MAX_STEP)
            self._source = "calibrated"
        elif self._source == "quantile":
            self._value = min(self._value, known)


def _checked_u(max_u: float) -> float:
    value = float(max_u)
    if not value >= 0:
        raise UncertaintyError(f"largest u of a check is {max_u}; it must be a number of at least 0")
    return value
