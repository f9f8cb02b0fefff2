"""The audit of a run: what it held for certain, counted and drawn from.

Every check offers the atoms at or below the threshold. An *interval* is the stretch between two updates of the model:
an ask closes it, and `selection.audit` decides how many of its certain environments are embedded and labelled with what
was asked for. The last interval, which no ask closes, is audited when the trajectories are over.

In concurrent mode the trajectories that move while others wait are counted to the next interval, although the present
model still moves them: the estimates are then an approximation, by as many checks as a label takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ase import Atoms

from ideal.audit import AuditDraw, AuditReservoir, AuditSchedule
from ideal.config import Config
from ideal.engine.seeds import derive_seed
from ideal.records import FloatArray

RESERVOIR = 8
"""Environments kept for an interval; each may hold a frame of its own in memory and in every checkpoint."""


class Auditor:
    """Counts environments, keeps a sample of the certain ones, and says which of them are audited.

    Args:
        config: ``selection.audit`` is the share of labels, 0 for none; its ``max_per_frame`` and the seed enter too.

    Attributes:
        n_certain: environments (atoms times checks) of the run at or below the threshold.
        n_uncertain: those above it.
        share: ``selection.audit``.

    Example:
        >>> auditor = Auditor(config)
        >>> auditor.offer("md", 10, atoms, u, threshold=2.0)
        >>> [draw.atom for draw in auditor.close(n_selected=2)]
        [17]
    """

    def __init__(self, config: Config) -> None:
        self.share = config.selection.audit
        self.n_certain = 0
        self.n_uncertain = 0
        self._schedule = AuditSchedule(self.share, derive_seed(config.seed, "audit schedule"))
        largest = math.ceil(self._schedule.expected(config.selection.max_per_frame))
        self._reservoir = AuditReservoir(max(RESERVOIR, largest), derive_seed(config.seed, "audit reservoir"))

    def offer(
        self, trajectory: str, step: int, atoms: Atoms | Callable[[], Atoms], u: FloatArray, threshold: float
    ) -> None:
        """Count the environments of a check and offer the certain ones.

        Args:
            trajectory: name of the trajectory.
            step: MD step.
            atoms: the frame, or what gives it; asked for and copied where one of its atoms enters the sample.
            u: (n_atoms,).
            threshold: atoms at or below it are certain.
        """
        certain = np.flatnonzero(u <= threshold)
        self.n_certain += certain.size
        self.n_uncertain += u.size - certain.size
        if self.share > 0:
            self._reservoir.offer(trajectory, step, atoms, certain)

    def close(self, n_selected: int) -> list[AuditDraw]:
        """End the interval because ``n_selected`` cells are asked for; returns what is audited with them."""
        due = self._schedule.due(n_selected)
        draws = self._reservoir.draw(due, self._schedule.expected(n_selected)) if self._reservoir.n_seen else []
        self._reservoir.reset()
        return draws

    def close_last(self, n_selected: int, limit: float) -> list[AuditDraw]:
        """End the last interval; returns what is audited in it.

        Args:
            n_selected: selected cells of the whole run.
            limit: largest number of audits.
        """
        n_open = self._reservoir.n_seen
        if self.share == 0 or n_open == 0:
            return []
        wanted = self._schedule.final(n_open, self.n_certain, n_selected)
        draws = self._reservoir.draw(int(min(wanted, self._reservoir.size, limit)))
        self._reservoir.reset()
        return draws

    def state(self) -> dict[str, Any]:
        """Counts, sample and schedule, for a checkpoint."""
        return {
            "n_certain": self.n_certain,
            "n_uncertain": self.n_uncertain,
            "schedule": self._schedule.state(),
            "reservoir": self._reservoir.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.n_certain = int(state["n_certain"])
        self.n_uncertain = int(state["n_uncertain"])
        self._schedule.restore(state["schedule"])
        self._reservoir.restore(state["reservoir"])
