"""From u, which has no unit, to a bound on the force error in eV/Å that holds with a stated confidence.

Before labels are learned, the model's forces on them are compared with the reference: every atom gives a pair (u,
error). Conformal prediction (`ideal.uncertainty.conformal`) turns the pairs into a bound q g(u) with

    P(error <= q g(u)) >= 1 - alpha                                                    alpha = 1 - confidence

for a further environment of the run, whatever the distribution of the errors is. g is the shape of the errors, fitted
to the same pairs; q is a quantile of the scores error / g(u). What keeps it honest:

*Atoms of one cell are not independent.* A cell counts once: its atoms share its weight, and what was not seen is paid
for with the weight of a whole cell.

*Labels are asked for where u is high.* Environments above and below the selection threshold are two strata whose shares
of the run are known; each stratum has its own distribution of scores, and the shares weigh them (weighted conformal
prediction, Tibshirani et al., arXiv:1904.06019, with the weights of post-stratification). Because g follows the errors
along u, the weights change little: the bound holds at every u, not only on average.

*The model learns.* Pairs of an older model fade: a cell counts 2^(-age / half_life), its age being the number of the
run's cells compared since (Barber, Candès, Ramdas, Tibshirani, arXiv:2202.13415).

*Nothing is extrapolated.* Beyond ``reach`` times the largest u that three cells have shown, the bound is infinite, and
the threshold at which a user's tolerance is reached never lies there. Once a run supplies enough cells, only its own
count: held-out initial structures are crystals that resemble what was learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ideal.errors import UncertaintyError
from ideal.records import FloatArray
from ideal.uncertainty.conformal import (
    ErrorBound,
    ErrorShape,
    cell_masses,
    checked_pairs,
    join,
    ratio,
    smallest_score,
)

Kind = Literal["validation", "selected", "audit"]
KINDS: tuple[Kind, ...] = ("validation", "selected", "audit")


@dataclass(frozen=True)
class _Cell:
    """One compared cell.

    ``u`` and ``error`` are those of the atoms that calibrate, ``u_cell`` is the root mean square over all atoms,
    ``age_zero`` the number of cells of the run that had been compared when this one was.
    """

    kind: Kind
    u: FloatArray
    error: FloatArray
    uncertain: NDArray[np.bool_]
    center: int
    u_cell: float
    energy_error: float
    stress_error: float
    number: int
    age_zero: int


class Calibration:
    """Pairs of u and force error, and what follows from them.

    Args:
        confidence: 1 - alpha, the share of environments whose force error stays below its bound.
        run_cells: cells of the run (selected or audited) that must have been compared before `ready`; None: 2 / alpha
            rounded up. 0 says that the cells need not come from a run (a labelled set is its own population).
        half_life: cells of the run compared after which an older pair counts half; None: 5 / alpha; infinite: all count
            alike.
        reach: `threshold` is at most this times the largest u that three cells of the run have reached.

    Raises:
        UncertaintyError: an argument is out of range.

    Example:
        >>> calibration = Calibration(confidence=0.9, run_cells=0)
        >>> for key in range(20):
        ...     calibration.add(str(key), "validation", u=[1.0, 2.0], error=[0.1, 0.2])
        >>> calibration.ready, round(calibration.scale, 3), round(calibration.threshold(0.15), 3)
        (True, 0.1, 1.5)
    """

    def __init__(
        self,
        confidence: float = 0.9,
        *,
        run_cells: int | None = None,
        half_life: float | None = None,
        reach: float = 1.25,
    ) -> None:
        if not 0 < confidence < 1:
            raise UncertaintyError(f"confidence {confidence}: choose a number between 0 and 1, such as 0.9")
        if run_cells is not None and run_cells < 0:
            raise UncertaintyError(f"run_cells {run_cells}: choose 0 or more")
        if half_life is not None and not half_life > 0:
            raise UncertaintyError(f"half_life {half_life}: choose a number of cells above 0")
        if not reach >= 1:
            raise UncertaintyError(f"reach {reach}: choose a factor of at least 1")
        self.confidence = float(confidence)
        self.run_cells = math.ceil(2 / (1 - confidence) - 1e-9) if run_cells is None else int(run_cells)
        self.half_life = 5 / (1 - confidence) if half_life is None else float(half_life)
        self.reach = float(reach)
        self._cells: dict[str, _Cell] = {}
        self._count = 0
        self._run_count = 0
        self._population = (0, 0)
        self._fits: tuple[ErrorBound, float] | None = None

    # --- what is known ------------------------------------------------------------------------------------------------

    def add(
        self,
        key: str,
        kind: Kind,
        u: ArrayLike,
        error: ArrayLike,
        energy_error: float | None = None,
        stress_error: float | None = None,
        center: int | None = None,
        *,
        core: ArrayLike | None = None,
        threshold: float | None = None,
    ) -> None:
        """Add the pairs of one labelled cell that the model had not learned when it was compared.

        A key that is known already is replaced and becomes the newest (validation cells may be compared again with
        every new model).

        Args:
            key: names the cell.
            kind: "validation" (held out of the initial labels), "selected" (asked for because u was high) or "audit"
                (drawn at random from what was held for certain).
            u: (n,) uncertainty of its atoms, in the cell; infinite for a species never seen (such a pair says nothing:
                its bound is infinite as well).
            error: (n,) norm of the force error vector of its atoms, eV/Å.
            energy_error: signed, eV/atom; None: not known.
            stress_error: GPa; None: not known.
            center: index of the atom that was drawn.
            core: (n,) bool, the atoms that calibrate (all by default): those of the trajectory, not the filler, whose
                environment was made. All atoms enter the slopes of energy and stress.
            threshold: selection threshold when the cell was asked for; it tells certain from uncertain atoms. None:
                atoms of selected cells count as uncertain, all others as certain.

        Raises:
            UncertaintyError: shapes differ, a number is negative or not a number, an error is infinite, or the kind is
                unknown.
        """
        if kind not in KINDS:
            raise UncertaintyError(f"kind {kind!r} of cell {key!r}: choose one of {', '.join(KINDS)}")
        values, errors = checked_pairs(f"cell {key!r}", u, error)
        used = np.ones(values.size, dtype=bool) if core is None else np.asarray(core, dtype=bool)
        if used.shape != values.shape:
            raise UncertaintyError(
                f"cell {key!r}: core has shape {used.shape}, u {values.shape}; give one flag per atom"
            )
        if center is not None and not 0 <= center < values.size:
            raise UncertaintyError(f"cell {key!r}: center {center} of {values.size} atoms; give an index among them")
        for name, number in (("energy_error", energy_error), ("stress_error", stress_error), ("threshold", threshold)):
            if number is not None and not np.isfinite(number):
                raise UncertaintyError(f"cell {key!r}: {name} is {number}; give a finite number, or None")
        used &= np.isfinite(values)
        finite = values[np.isfinite(values)]
        bounded = values[used]
        uncertain = np.full(bounded.size, kind == "selected") if threshold is None else bounded > threshold
        self._cells.pop(key, None)
        self._cells[key] = _Cell(
            kind=kind,
            u=bounded,
            error=errors[used],
            uncertain=uncertain,
            center=-1 if center is None or not used[center] else int(used[:center].sum()),
            u_cell=float(np.sqrt(np.mean(finite**2))) if finite.size == values.size else math.inf,
            energy_error=math.nan if energy_error is None else float(energy_error),
            stress_error=math.nan if stress_error is None else float(stress_error),
            number=self._count,
            age_zero=self._run_count,
        )
        self._count += 1
        self._run_count += kind != "validation"
        self._fits = None

    def set_population(self, n_certain: int, n_uncertain: int) -> None:
        """Tell how many environments (atoms times checks) the run has seen below and above the threshold.

        Raises:
            UncertaintyError: a number is negative.
        """
        if n_certain < 0 or n_uncertain < 0:
            raise UncertaintyError(f"population ({n_certain}, {n_uncertain}): counts are 0 or more")
        self._population = (int(n_certain), int(n_uncertain))
        self._fits = None

    @property
    def population(self) -> tuple[int, int]:
        """Environments of the run below and above the threshold."""
        return self._population

    @property
    def n_pairs(self) -> int:
        """Pairs that calibrate."""
        return sum(cell.u.size for cell in self._cells.values())

    @property
    def n_cells(self) -> dict[str, int]:
        """Compared cells of each kind."""
        return {kind: sum(cell.kind == kind for cell in self._cells.values()) for kind in KINDS}

    # --- what follows -------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether enough cells, and enough of the run itself, were compared for the bound to be used."""
        from_run = sum(cell.kind != "validation" and cell.u.size > 0 for cell in self._cells.values())
        return from_run >= self.run_cells and math.isfinite(self._fitted[0].factor)

    @property
    def scale(self) -> float:
        """The conformal quantile of error / u, eV/Å per unit of u: the summary in one number.

        The bound itself follows the shape of the errors; use `bound` and `threshold`. Infinite as long as the pairs
        allow no bound.
        """
        return self._fitted[1]

    def bound(self, u: ArrayLike) -> FloatArray:
        """Bound on the force error of environments, eV/Å.

        Args:
            u: (n,) or one number.

        Returns:
            Of the shape of ``u``; infinite beyond what was compared, and everywhere as long as there is no bound.

        Raises:
            UncertaintyError: u is negative or not a number.
        """
        return self._fitted[0](u)

    def bound_curve(self, points: int = 60) -> tuple[FloatArray, FloatArray]:
        """The bound for a plot: u (points,), evenly on a logarithmic scale over what was compared, and eV/Å (points,).

        Both are empty as long as there is no bound.
        """
        bound = self._fitted[0]
        u = join([cell.u for cell in self._calibrating])
        u = u[(u > 0) & np.isfinite(u)]
        if not u.size or not math.isfinite(bound.factor) or not u.min() < bound.limit < math.inf:
            return np.empty(0), np.empty(0)
        grid = np.geomspace(u.min(), bound.limit, points)
        grid[-1] = bound.limit  # not above it by rounding
        return grid, bound(grid)

    def threshold(self, force_error: float) -> float:
        """u at which the bound reaches ``force_error`` (eV/Å), but not beyond what was compared; 0 without a bound.

        Raises:
            UncertaintyError: force_error is not a finite number above 0.
        """
        if not force_error > 0 or not math.isfinite(force_error):
            raise UncertaintyError(f"force_error {force_error}: choose a number above 0 eV/Å")
        return self._fitted[0].largest_u(force_error)

    @property
    def largest_compared_u(self) -> float:
        """u that at least three cells have reached (of the run, where ``run_cells`` asks for them); 0 without."""
        largest = sorted((float(cell.u.max()) for cell in self._calibrating), reverse=True)
        return largest[min(3, len(largest)) - 1] if largest else 0.0

    @property
    def energy_slope(self) -> float | None:
        """eV/atom per unit of the cell's root-mean-square u; None with fewer than two cells.

        Least squares through the origin of the absolute error on u, as AiiDA-TrainsPot relates errors to the spread of
        its committee (Bidoggia et al. 2025, sec. I A 6: tau = a epsilon).
        """
        return self._slope([cell.energy_error for cell in self._cells.values()])

    @property
    def stress_slope(self) -> float | None:
        """GPa per unit of the cell's root-mean-square u; see `energy_slope`."""
        return self._slope([cell.stress_error for cell in self._cells.values()])

    def pairs(self, kind: Kind | None = None) -> tuple[FloatArray, FloatArray, FloatArray, NDArray[np.int64]]:
        """Pairs for `assess`: u (n,), error (n,) in eV/Å, weight (n,), number of the cell (n,).

        Args:
            kind: only cells of this kind; None: all.
        """
        cells = [cell for cell in self._cells.values() if kind in (None, cell.kind) and cell.u.size]
        return (
            join([cell.u for cell in cells]),
            join([cell.error for cell in cells]),
            join([np.full(cell.u.size, 1 / cell.u.size) for cell in cells]),
            join([np.full(cell.u.size, cell.number) for cell in cells], dtype=np.int64),
        )

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs: arrays, numbers and lists of text."""
        cells = list(self._cells.values())
        return {
            "keys": list(self._cells),
            "kind": np.array([KINDS.index(cell.kind) for cell in cells], dtype=np.int64),
            "n": np.array([cell.u.size for cell in cells], dtype=np.int64),
            "u": join([cell.u for cell in cells]),
            "error": join([cell.error for cell in cells]),
            "uncertain": join([cell.uncertain for cell in cells], dtype=np.int64),
            "center": np.array([cell.center for cell in cells], dtype=np.int64),
            "number": np.array([cell.number for cell in cells], dtype=np.int64),
            "age_zero": np.array([cell.age_zero for cell in cells], dtype=np.int64),
            "u_cell": np.array([cell.u_cell for cell in cells], dtype=np.float64),
            "energy_error": np.array([cell.energy_error for cell in cells], dtype=np.float64),
            "stress_error": np.array([cell.stress_error for cell in cells], dtype=np.float64),
            "count": self._count,
            "run_count": self._run_count,
            "population": list(self._population),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state over, bitwise; confidence and the other arguments stay those of this object."""
        ends = np.cumsum(state["n"]).tolist()
        self._cells = {}
        for i, key in enumerate(state["keys"]):
            part = slice(ends[i] - int(state["n"][i]), ends[i])
            self._cells[key] = _Cell(
                kind=KINDS[int(state["kind"][i])],
                u=np.array(state["u"][part]),
                error=np.array(state["error"][part]),
                uncertain=np.array(state["uncertain"][part], dtype=bool),
                center=int(state["center"][i]),
                u_cell=float(state["u_cell"][i]),
                energy_error=float(state["energy_error"][i]),
                stress_error=float(state["stress_error"][i]),
                number=int(state["number"][i]),
                age_zero=int(state["age_zero"][i]),
            )
        self._count = int(state["count"])
        self._run_count = int(state["run_count"])
        self._population = (int(state["population"][0]), int(state["population"][1]))
        self._fits = None

    # --- numerics -----------------------------------------------------------------------------------------------------

    def _fresh(self, cell: _Cell) -> float:
        """Share that the cell still counts."""
        return 2.0 ** (-(self._run_count - cell.age_zero) / self.half_life)

    @property
    def _fitted(self) -> tuple[ErrorBound, float]:
        """The bound, and the factor of the shape g(u) = u."""
        if self._fits is None:
            self._fits = self._fit()
        return self._fits

    def _fit(self) -> tuple[ErrorBound, float]:
        cells = self._calibrating
        if not cells:
            return ErrorBound(ErrorShape.proportional(), math.inf), math.inf
        u, error = join([cell.u for cell in cells]), join([cell.error for cell in cells])
        uncertain = join([cell.uncertain for cell in cells], dtype=bool)
        number = np.repeat(np.arange(len(cells)), [cell.u.size for cell in cells])
        weight = np.array([self._fresh(cell) for cell in cells])
        total = sum(self._population)
        strata = [(1.0, np.ones(u.size, dtype=bool))]
        if total:
            strata = [(self._population[0] / total, ~uncertain), (self._population[1] / total, uncertain)]
        masses = np.zeros(u.size)
        for share, members in strata:
            if members.any():
                masses[members] = share * cell_masses(number[members], weight)
        shape = ErrorShape.fit(u, error, number, weight, self.confidence)
        factor, scale = (smallest_score(ratio(error, size), masses, self.confidence) for size in (shape(u), u))
        return ErrorBound(shape, factor, self.reach * self.largest_compared_u), scale

    @property
    def _calibrating(self) -> list[_Cell]:
        """Cells whose pairs calibrate: those of the run, or all where none of a run are asked for."""
        return [
            cell for cell in self._cells.values() if cell.u.size and (not self.run_cells or cell.kind != "validation")
        ]

    def _slope(self, errors: list[float]) -> float | None:
        u = np.array([cell.u_cell for cell in self._cells.values()])
        weight = np.array([self._fresh(cell) for cell in self._cells.values()])
        error = np.abs(np.array(errors))
        known = np.isfinite(error) & np.isfinite(u) & (u > 0)
        if known.sum() < 2:
            return None
        return float((weight * u * error)[known].sum() / (weight * u * u)[known].sum())
