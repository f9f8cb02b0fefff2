"""How many labels may still be asked for.

``engine.max_labels`` limits all labels of the dynamics. The share ``selection.audit`` of it is not for selected cells:
it is kept for audits, so that a run whose uncertain atoms use up everything can still audit its last, longest interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ideal.config import Config
from ideal.engine.counters import LabelCounters
from ideal.engine.events import LabelBudgetSpent
from ideal.engine.journal import Journal


class LabelBudget:
    """Counts against ``engine.max_labels``.

    Args:
        config: the run's configuration.
        journal: holds the counters; told once when a frame would have asked for more.

    Example:
        >>> LabelBudget(config, journal).selected  # max_labels 40, audit 0.05, nothing asked yet
        38
    """

    def __init__(self, config: Config, journal: Journal) -> None:
        self._limit = config.engine.max_labels
        self._share = config.selection.audit
        self._journal = journal
        self._told: int | None = None  # the limit that was told as spent; a resumed run may have a larger one

    @property
    def selected(self) -> float:
        """Selected cells that may still be asked for; infinite without a limit."""
        if self._limit is None:
            return math.inf
        counters = self._counters
        for_selected = math.ceil(self._limit * (1 - self._share) - 1e-9)
        return max(0, min(for_selected - (counters.asked - counters.audits), self._limit - counters.asked))

    @property
    def audits(self) -> float:
        """Audited cells that may still be asked for; infinite without a limit."""
        return math.inf if self._limit is None else max(0, self._limit - self._counters.asked)

    def tell_spent(self, trajectory: str, step: int) -> None:
        """Tell once that the limit keeps a frame from asking."""
        if self._limit is not None and self._told != self._limit:
            self._told = self._limit
            self._journal.tell(LabelBudgetSpent(trajectory, step, self._limit))

    def state(self) -> dict[str, Any]:
        """What was told, for a checkpoint."""
        return {"told": self._told}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self._told = state["told"]

    @property
    def _counters(self) -> LabelCounters:
        return self._journal.counters
