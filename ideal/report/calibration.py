"""What a run knows about its errors in eV/Å, read from ``pairs.jsonl``, ``calibration.json`` and the event log.

``pairs.jsonl`` holds one line per labelled cell that the model had not learned yet: u and the force error of its
atoms. ``calibration.json`` holds what was made of them last; the "calibrated" events say how it came to that. A run
of an older version has none of these, and a damaged line is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ideal.records import BoolArray, FloatArray, IntArray
from ideal.report.log import number

KINDS = ("validation", "selected", "audit")
"""Why a cell was labelled: kept back from the initial data, asked because u was high, drawn at random where u was low.
"""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; NaN where something is not known.

    Attributes:
        value, low, high: the estimate and the ends of its interval.
        reason: why something is not known.

    Example:
        >>> Interval.read({"value": 0.1, "low": 0.0, "high": 0.3}).high
        0.3
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str = ""

    @classmethod
    def read(cls, content: Any) -> Interval:
        """From a mapping with ``value``, ``low``, ``high``, ``reason``, or from a plain number."""
        if isinstance(content, Mapping):
            value, low, high = (number(content.get(name)) for name in ("value", "low", "high"))
            return cls(value, low, high, str(content.get("reason") or ""))
        return cls(number(content))

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.value)

    @property
    def bounded(self) -> bool:
        """Whether both ends are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Pairs:
    """u against the true force error, one entry per compared atom; all arrays (n,).

    Attributes:
        u: uncertainty before the label was learned.
        error: norm of the force error vector, eV/Å.
        kind: index in `KINDS`.
        cell: number of the cell that the atom belongs to.
        center: true for the atom that the cell was made for.
    """

    u: FloatArray
    error: FloatArray
    kind: IntArray
    cell: IntArray
    center: BoolArray

    def __len__(self) -> int:
        return len(self.u)

    def of(self, kind: str) -> BoolArray:
        """Mask of the entries of a kind."""
        mask: BoolArray = self.kind == KINDS.index(kind)
        return mask

    def n_cells(self, kind: str) -> int:
        """Number of compared cells of a kind."""
        return len(np.unique(self.cell[self.of(kind)]))


@dataclass(frozen=True)
class CalibrationData:
    """What a run knows about its errors.

    Attributes:
        latest: content of ``calibration.json``; empty where there is none.
        pairs: every compared atom; None where there is none.
        history: the "calibrated" events, in order.
        budget: the "label_budget_spent" event; empty while the budget lasts or where there is none.
    """

    latest: Mapping[str, Any] = field(default_factory=dict)
    pairs: Pairs | None = None
    history: Sequence[Mapping[str, Any]] = ()
    budget: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.latest or self.pairs or self.history or self.budget)

    def column(self, name: str) -> FloatArray:
        """A number of every event of the history, NaN where it is missing."""
        return np.array([number(event.get(name)) for event in self.history])


def bound_of(latest: Mapping[str, Any]) -> tuple[FloatArray, FloatArray]:
    """u and the bound on the force error there (eV/Å) of a ``calibration.json``; both empty where there is none."""
    content = latest.get("bound")
    try:
        u, bound = (np.array(content[name], dtype=np.float64) for name in ("u", "error"))  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return np.empty(0), np.empty(0)
    return (u, bound) if u.ndim == 1 and u.shape == bound.shape else (np.empty(0), np.empty(0))


def parse_pairs(rows: Sequence[Mapping[str, Any]]) -> tuple[Pairs | None, int]:
    """Read the lines of ``pairs.jsonl``.

    Args:
        rows: the lines as dictionaries; of lines with equal key and kind the last counts. A cell's core atoms count,
            all of them where the line names no core.

    Returns:
        The pairs, None without any, and the number of lines that do not hold what is expected.

    Example:
        >>> pairs, bad = parse_pairs([{"key": "a", "kind": "audit", "u": [1.0], "error": [0.1], "center": 0}])
        >>> len(pairs), bad
        (1, 0)
    """
    cells: dict[tuple[str, str], tuple[FloatArray, FloatArray, BoolArray]] = {}
    unreadable = 0
    for row in rows:
        try:
            u, error = (np.array(row[name], dtype=float) for name in ("u", "error"))
            u[np.isnan(u)] = np.inf  # null: a species that was never seen
            core = np.array(row["core"] if row.get("core") is not None else np.ones(len(u)), dtype=bool)
            center = np.arange(len(u)) == (-1 if row.get("center") is None else int(row["center"]))
            if u.ndim != 1 or not u.shape == error.shape == core.shape or row["kind"] not in KINDS:
                raise ValueError("arrays of different lengths or an unknown kind")
        except (KeyError, TypeError, ValueError):
            unreadable += 1
            continue
        cells[str(row.get("key", "")), str(row["kind"])] = (u[core], error[core], center[core])
    if not cells:
        return None, unreadable
    sizes = [len(u) for u, _, _ in cells.values()]
    us, errors, centers = zip(*cells.values(), strict=True)
    return (
        Pairs(
            u=np.concatenate(us),
            error=np.concatenate(errors),
            kind=np.repeat([KINDS.index(kind) for _, kind in cells], sizes),
            cell=np.repeat(np.arange(len(cells)), sizes),
            center=np.concatenate(centers),
        ),
        unreadable,
    )
