"""Random looks at what the run believes certain, and the unbiased error estimates that follow from them.

Labels are asked for where u is high, so that errors measured on them say nothing about the rest of the trajectory. A
small, stated share f of the labels therefore goes to environments (atoms at checks) drawn at random among those below
the threshold. An *interval* is the stretch between two updates of the model: when the run asks for labels,
`AuditSchedule` says how many audits ride along, and `AuditReservoir` draws them, uniformly over the interval's certain
environments.

An environment of interval k is drawn with probability pi_k = E[m_k] / n_k (m_k audits, n_k environments); its weight
1 / pi_k is how many environments it stands for (Horvitz and Thompson 1952). Estimates are ratios of weighted sums
(Hájek 1971), which have less variance and a bias of order 1 / m.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from ideal.errors import UncertaintyError
from ideal.records import FloatArray

_RESAMPLES = 400


@dataclass(frozen=True)
class AuditDraw:
    """One environment drawn for an audit label.

    Attributes:
        trajectory: where it comes from.
        step: MD step of the check.
        atoms: the frame, a copy.
        atom: index of the drawn atom.
        weight: certain environments that it stands for (inverse of the probability to be drawn).
    """

    trajectory: str
    step: int
    atoms: Atoms
    atom: int
    weight: float


class AuditReservoir:
    """A uniform random sample of the certain environments offered since the last reset.

    Every environment gets a random key; those with the smallest keys stay. Frames are kept only while one of their
    environments is in the sample.

    Args:
        size: environments to keep; no more can be drawn per interval.
        seed: of the keys.

    Raises:
        UncertaintyError: size below 1.

    Example:
        >>> from ase.build import bulk
        >>> reservoir = AuditReservoir(size=4, seed=0)
        >>> reservoir.offer("md", 10, bulk("Li", cubic=True), [0, 1])
        >>> [draw.weight for draw in reservoir.draw(1)]
        [2.0]
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise UncertaintyError(f"audit reservoir of size {size}: choose at least 1")
        self.size = int(size)
        self._rng = np.random.default_rng(seed)
        self._keys: FloatArray = np.empty(0)
        self._atom: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._frame: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._frames: dict[int, tuple[str, int, Atoms]] = {}
        self._n_offers = 0
        self._n_seen = 0

    @property
    def n_seen(self) -> int:
        """Certain environments offered since the last reset."""
        return self._n_seen

    def offer(self, trajectory: str, step: int, atoms: Atoms | Callable[[], Atoms], indices_certain: ArrayLike) -> None:
        """Offer the certain atoms of one frame.

        Args:
            trajectory: its trajectory.
            step: its step.
            atoms: the frame, or what gives it; asked for and copied (without calculator) if one of its atoms enters the
                sample.
            indices_certain: (n,) different indices of atoms below the threshold; may be empty.

        Raises:
            UncertaintyError: an index is outside the frame.
        """
        indices = np.asarray(indices_certain, dtype=np.int64)
        if indices.size == 0:
            return
        if isinstance(atoms, Atoms) and (indices.ndim != 1 or indices.min() < 0 or indices.max() >= len(atoms)):
            raise UncertaintyError(
                f"audit of {trajectory!r}, step {step}: atom indices of shape {indices.shape} do not fit a frame of "
                f"{len(atoms)} atoms"
            )
        self._n_seen += indices.size
        keys, chosen = self._new_keys(indices.size)
        if keys.size == 0:
            return
        number = self._n_offers
        self._n_offers += 1
        keys = np.concatenate([self._keys, keys])
        atom = np.concatenate([self._atom, indices[chosen]])
        frame = np.concatenate([self._frame, np.full(chosen.size, number)])
        kept = np.argsort(keys, kind="stable")[: self.size]
        self._keys, self._atom, self._frame = keys[kept], atom[kept], frame[kept]
        needed = set(self._frame.tolist())
        self._frames = {n: entry for n, entry in self._frames.items() if n in needed}
        if number in needed:
            present = atoms if isinstance(atoms, Atoms) else atoms()
            self._frames[number] = (trajectory, int(step), present.copy())

    def _new_keys(self, n: int) -> tuple[FloatArray, NDArray[np.int64]]:
        """Keys of those of n new environments that may enter, and which they are.

        With a full reservoir only keys below its largest matter: their number is binomial and they are uniform below
        it, so that a check of a million atoms costs a few random numbers.
        """
        if self._keys.size < self.size:
            return self._rng.random(n), np.arange(n)
        largest = float(self._keys[-1])
        count = int(self._rng.binomial(n, largest))
        chosen = self._rng.choice(n, size=count, replace=False) if count else np.empty(0, dtype=np.int64)
        return largest * self._rng.random(count), chosen

    def draw(self, m: int, expected: float | None = None) -> list[AuditDraw]:
        """m different environments, uniformly among all offered since the last reset; fewer where there are fewer.

        Args:
            m: how many.
            expected: mean number of draws that the schedule gives for this interval (`AuditSchedule.expected`), of
                which ``m`` is a random rounding; None: m itself is fixed.

        Returns:
            The draws, each with weight n_seen / expected number drawn.

        Raises:
            UncertaintyError: m is negative, or not a rounding of ``expected``.
        """
        if m < 0:
            raise UncertaintyError(f"audit of {m} environments: the number is 0 or more")
        mean = float(m) if expected is None else float(expected)
        if not abs(m - mean) < 1:
            raise UncertaintyError(f"audit of {m} environments where {mean:g} are expected: give a rounding of it")
        available = self._keys.size
        if m == 0 or available == 0:
            return []
        up = mean - math.floor(mean)
        mean_drawn = (1 - up) * min(math.floor(mean), available) + up * min(math.floor(mean) + 1, available)
        weight = self._n_seen / mean_drawn
        chosen = self._rng.permutation(available)[:m]
        draws = []
        for i in chosen:
            trajectory, step, atoms = self._frames[int(self._frame[i])]
            draws.append(AuditDraw(trajectory, step, atoms.copy(), int(self._atom[i]), weight))
        return draws

    def reset(self) -> None:
        """Forget all offers: the model has changed, a new interval begins."""
        self._keys, self._atom, self._frame = np.empty(0), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        self._frames.clear()
        self._n_seen = 0

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs: arrays, numbers, lists and text (a frame keeps arrays, cell, pbc)."""
        return {
            "rng": self._rng.bit_generator.state,
            "keys": self._keys.copy(),
            "atom": self._atom.copy(),
            "frame": self._frame.copy(),
            "n_offers": self._n_offers,
            "n_seen": self._n_seen,
            "frames": [
                {
                    "number": number,
                    "trajectory": trajectory,
                    "step": step,
                    "arrays": {name: array.copy() for name, array in atoms.arrays.items()},
                    "cell": atoms.cell.array.copy(),
                    "pbc": np.array(atoms.pbc),
                }
                for number, (trajectory, step, atoms) in self._frames.items()
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state over, bitwise."""
        self._rng.bit_generator.state = state["rng"]
        self._keys = np.array(state["keys"], dtype=np.float64)
        self._atom = np.array(state["atom"], dtype=np.int64)
        self._frame = np.array(state["frame"], dtype=np.int64)
        self._n_offers = int(state["n_offers"])
        self._n_seen = int(state["n_seen"])
        self._frames = {int(f["number"]): (f["trajectory"], int(f["step"]), _frame(f)) for f in state["frames"]}


def _frame(state: Mapping[str, Any]) -> Atoms:
    arrays = state["arrays"]
    atoms = Atoms(numbers=arrays["numbers"], positions=arrays["positions"], cell=state["cell"], pbc=state["pbc"])
    for name, array in arrays.items():
        if name not in ("numbers", "positions"):
            atoms.set_array(name, np.array(array))
    return atoms


class AuditSchedule:
    """How many audits ride along with an ask: systematic sampling with a random start.

    The n selected labels of an ask move a counter by n f / (1 - f); as many audits are due as whole numbers are passed.
    The counter starts at random in [0, 1), so that the expected number is n f / (1 - f) at every ask, and after many
    asks the share of audits among all labels is f to within one label.

    Args:
        fraction: f, share of audits among all labels, in [0, 1).
        seed: of the random start.

    Raises:
        UncertaintyError: fraction outside [0, 1).

    Example:
        >>> schedule = AuditSchedule(fraction=0.05, seed=0)
        >>> sum(schedule.due(2) for _ in range(95))
        10
    """

    def __init__(self, fraction: float, seed: int) -> None:
        if not 0 <= fraction < 1:
            raise UncertaintyError(f"audit fraction {fraction}: choose a number from 0 up to, but not including, 1")
        self.fraction = float(fraction)
        self._counter = float(np.random.default_rng(seed).random())

    def expected(self, n_selected: int) -> float:
        """Mean number of audits that go with ``n_selected`` labels."""
        return n_selected * self.fraction / (1 - self.fraction)

    def due(self, n_selected: int) -> int:
        """Audits that go with an ask for ``n_selected`` labels; moves the counter on."""
        if n_selected < 0:
            raise UncertaintyError(f"audits due for {n_selected} labels: the number is 0 or more")
        counter = self._counter + self.expected(n_selected)
        passed = math.floor(counter)
        self._counter = counter - passed
        return passed

    def final(self, n_certain_open: int, n_certain_total: int, n_labels: int) -> int:
        """Audits for the last interval, which no ask closes.

        As many as keep the rate of the intervals before: the audits that ``n_labels`` earn, times the share of the
        certain environments that lies in the open interval; at least one where there is an environment and f > 0. The
        number is fixed, not random.

        Args:
            n_certain_open: certain environments of the last interval.
            n_certain_total: certain environments of the whole run, the last interval included.
            n_labels: selected labels of the whole run.

        Raises:
            UncertaintyError: a count is negative, or the open interval holds more than the run.
        """
        if min(n_certain_open, n_certain_total, n_labels) < 0 or n_certain_open > n_certain_total:
            raise UncertaintyError(
                f"audits of the last interval: {n_certain_open} certain environments of {n_certain_total}, {n_labels} "
                "labels; counts are 0 or more, and a part is no larger than the whole"
            )
        if self.fraction == 0 or n_certain_open == 0:
            return 0
        return max(1, round(self.expected(n_labels) * n_certain_open / n_certain_total))

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        return {"counter": self._counter}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state over, bitwise."""
        self._counter = float(state["counter"])


@dataclass(frozen=True)
class Estimate:
    """An estimate with its confidence interval.

    Attributes:
        value: None where nothing was drawn.
        low: lower end; None where there is none.
        high: upper end; None where the sample allows no finite one.
        reason: why something is None; empty otherwise.
    """

    value: float | None
    low: float | None
    high: float | None
    reason: str = ""


@dataclass(frozen=True)
class AuditEstimates:
    """What the audits say about the run.

    Attributes:
        missed_error_rate: share of the certain environments whose force error exceeds ``tolerance``.
        certain_force_error: mean |dF| of the certain environments, eV/Å.
        force_error: mean |dF| of all environments, certain and uncertain, eV/Å.
        rms_force_error: root mean square |dF| of all environments, eV/Å.
        n_audited: audits.
        n_certain, n_uncertain: environments (atoms times checks) of the run below and above the threshold.
        effective_sample_size: audits of equal weight that would say as much (Kish).
        tolerance: force error that counts as missed, eV/Å.
        confidence: of the intervals.
    """

    missed_error_rate: Estimate
    certain_force_error: Estimate
    force_error: Estimate
    rms_force_error: Estimate
    n_audited: int
    n_certain: int
    n_uncertain: int
    effective_sample_size: float
    tolerance: float
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def estimate_audit(
    error: ArrayLike,
    weight: ArrayLike,
    *,
    n_certain: int,
    n_uncertain: int,
    tolerance: float,
    uncertain_error: ArrayLike = (),
    uncertain_weight: ArrayLike | None = None,
    confidence: float = 0.9,
) -> AuditEstimates:
    """Error estimates of the whole trajectory from audited environments.

    Args:
        error: (m,) force error of the *centers* of the audited cells, eV/Å (only the center is a random draw).
        weight: (m,) `AuditDraw.weight` of each.
        n_certain: certain environments of the run.
        n_uncertain: uncertain environments of the run.
        tolerance: force error that counts as missed, eV/Å.
        uncertain_error: (k,) force error of the centers of the selected cells. They are the most uncertain of their
            frames, so that the uncertain stratum's mean errs on the high side.
        uncertain_weight: (k,) environments that each stands for; None: equal.
        confidence: of the intervals.

    Returns:
        The estimates; None with a reason where the sample says nothing. The rate's interval is that of Clopper and
        Pearson with the effective sample size (Korn and Graubard 1998). The interval of a mean reaches at each end as
        far as the wider of two: Student's t with the jackknife's standard error, and the studentized bootstrap, which
        follows skewed errors. Very skewed errors (log-normal with sigma 1 and more) still escape it at times.

    Raises:
        UncertaintyError: shapes differ, or a number is negative, infinite or not a number.
    """
    errors, weights = _checked("audit", error, weight)
    others, other_weights = _checked("uncertain", uncertain_error, uncertain_weight)
    if n_certain < 0 or n_uncertain < 0:
        raise UncertaintyError(f"audit: population ({n_certain}, {n_uncertain}); counts are 0 or more")
    if not 0 < confidence < 1 or not tolerance > 0:
        raise UncertaintyError(
            f"audit: confidence {confidence}, tolerance {tolerance}; choose a confidence between 0 and 1, a tolerance "
            "above 0 eV/Å"
        )
    n_effective = float(weights.sum() ** 2 / (weights**2).sum()) if errors.size else 0.0
    certain = _Stratum(n_certain, errors, weights)
    strata = [certain, _Stratum(n_uncertain, others, other_weights)]
    return AuditEstimates(
        missed_error_rate=_rate(certain, errors > tolerance, n_effective, confidence),
        certain_force_error=_mean([certain], 1, confidence),
        force_error=_mean(strata, 1, confidence),
        rms_force_error=_mean(strata, 2, confidence),
        n_audited=errors.size,
        n_certain=int(n_certain),
        n_uncertain=int(n_uncertain),
        effective_sample_size=n_effective,
        tolerance=float(tolerance),
        confidence=float(confidence),
    )


@dataclass(frozen=True)
class _Stratum:
    """Sampled errors of a part of the population: its size, the errors, and what each stands for."""

    size: int
    error: FloatArray
    weight: FloatArray

    def mean(self, power: int, counts: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Hájek mean of error^power and its jackknife variance; counts (k, n): how often each error is resampled."""
        weight, y = self.weight * counts, self.error**power
        total = weight.sum(axis=1, keepdims=True)
        mean = (weight @ y)[:, None] / total
        left = np.maximum(1 - self.weight / total, 1e-3)
        return mean[:, 0], (counts * (self.weight * (y - mean) / left / total) ** 2).sum(axis=1)


def _rate(stratum: _Stratum, missed: NDArray[np.bool_], n_effective: float, confidence: float) -> Estimate:
    from scipy.stats import beta

    if missed.size == 0:
        return Estimate(None, None, None, "nothing was audited")
    value = float((stratum.weight * missed).sum() / stratum.weight.sum())
    hits, tail = value * n_effective, (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, n_effective - hits + 1)) if missed.any() else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n_effective - hits)) if not missed.all() else 1.0
    return Estimate(value, low, high)


def _mean(strata: list[_Stratum], power: int, confidence: float) -> Estimate:
    """(sum over the strata of share times mean of error^power)^(1/power)."""
    from scipy.stats import t

    population = sum(stratum.size for stratum in strata)
    if population == 0:
        return Estimate(None, None, None, "the run has seen no environment")
    strata = [stratum for stratum in strata if stratum.size]
    if any(stratum.error.size == 0 for stratum in strata):
        return Estimate(None, None, None, "a part of the trajectory has no labelled environment")
    rng = np.random.default_rng(0)
    value, variance = np.zeros(1 + _RESAMPLES), np.zeros(1 + _RESAMPLES)
    degrees = math.inf
    for stratum in strata:
        n = stratum.error.size
        counts = np.vstack([np.ones(n, dtype=np.int64), rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)])
        mean, spread = stratum.mean(power, counts)
        share = stratum.size / population
        value += share * mean
        variance += share**2 * spread
        degrees = min(degrees, stratum.weight.sum() ** 2 / (stratum.weight**2).sum() - 1)
    estimate, root = float(value[0]), 1 / power
    if degrees < 1:
        return Estimate(estimate**root, 0.0, None, "too few labelled environments for an upper end")
    deviation = math.sqrt(float(variance[0]))
    half = float(t.ppf((1 + confidence) / 2, degrees)) * deviation
    low, high = estimate - half, estimate + half
    defined = variance[1:] > 1e-24 * estimate**2
    if defined.sum() > 0.5 * _RESAMPLES:
        studentized = (value[1:] - estimate)[defined] / np.sqrt(variance[1:][defined])
        ends = np.quantile(studentized, [(1 + confidence) / 2, (1 - confidence) / 2])
        low, high = min(low, estimate - float(ends[0]) * deviation), max(high, estimate - float(ends[1]) * deviation)
    return Estimate(estimate**root, max(0.0, low) ** root, high**root)


def _checked(name: str, error: ArrayLike, weight: ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    errors = np.asarray(error, dtype=np.float64)
    weights = np.ones(errors.shape) if weight is None else np.asarray(weight, dtype=np.float64)
    if errors.ndim != 1 or errors.shape != weights.shape:
        raise UncertaintyError(
            f"{name} errors of shape {errors.shape} and weights of shape {weights.shape}; give one each per environment"
        )
    if not np.isfinite(errors).all() or (errors < 0).any() or not np.isfinite(weights).all() or (weights <= 0).any():
        raise UncertaintyError(
            f"{name}: errors must be finite and not negative, weights finite and above 0; leave out failed labels"
        )
    return errors, weights
