"""The rules of section ``stop``: which of them ends the dynamics, and why in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ideal.config import StopConfig
from ideal.engine.events import DynamicsStopped
from ideal.engine.journal import Journal
from ideal.engine.trajectory import Trajectory


class StopRules:
    """Says whether the dynamics is over before its last step.

    Args:
        config: section ``stop``.
        journal: holds counts and times; told once which rule holds.

    Attributes:
        reason: why the dynamics was ended; empty while no rule holds.

    Example:
        >>> rules = StopRules(StopConfig(labels=200), journal)
        >>> rules.hold(trajectories)
        True
        >>> rules.reason
        'stop.labels: 201 labels of 200 have arrived'
    """

    def __init__(self, config: StopConfig, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self._force_mae = math.inf
        self._told = ""
        self.reason = ""

    def note_validation(self, force_mae: float | None) -> None:
        """Take note of the error on the validation labels after an update, eV/Å; None where there are none."""
        if force_mae is not None:
            self._force_mae = force_mae

    def hold(self, trajectories: Sequence[Trajectory]) -> bool:
        """Whether a rule holds; which of them is told when it was not yet.

        Args:
            trajectories: all of them.
        """
        rules: dict[str, Callable[[Sequence[Trajectory]], str]] = {
            "labels": self._labels,
            "force_mae": self._validation,
            "steps": self._steps,
            "wall_time": self._wall_time,
            "certain_steps": self._certain_steps,
        }
        self.reason = ""
        for rule, words in rules.items():
            limit = getattr(self._config, rule)
            text = "" if limit is None else words(trajectories)
            if text:
                self.reason = f"stop.{rule}: {text}"
                if self._told != f"{rule} {limit}":
                    self._told = f"{rule} {limit}"
                    self._journal.tell(DynamicsStopped(rule, self.reason))
                return True
        return False

    # --- one function per rule: why it holds, empty while it does not -------------------------------------------------

    def _labels(self, trajectories: Sequence[Trajectory]) -> str:
        limit, done = self._config.labels, self._journal.counters.done
        return f"{done} labels of {limit} have arrived" if limit is not None and done >= limit else ""

    def _validation(self, trajectories: Sequence[Trajectory]) -> str:
        limit, error = self._config.force_mae, self._force_mae
        if limit is None or error > limit:
            return ""
        return f"the force error on the validation labels is {error:.4g} eV/Å, at most {limit:g} was asked for"

    def _steps(self, trajectories: Sequence[Trajectory]) -> str:
        limit, steps = self._config.steps, sum(trajectory.step for trajectory in trajectories)
        return f"{steps} steps of {limit} are taken" if limit is not None and steps >= limit else ""

    def _wall_time(self, trajectories: Sequence[Trajectory]) -> str:
        limit, seconds = self._config.wall_time, self._journal.times.wall
        return f"{seconds:.0f} s of {limit:.0f} are over" if limit is not None and seconds >= limit else ""

    def _certain_steps(self, trajectories: Sequence[Trajectory]) -> str:
        limit = self._config.certain_steps
        moving = [trajectory for trajectory in trajectories if not trajectory.is_over]
        if limit is None or not moving:
            return ""
        if any(trajectory.step - trajectory.certain_since < limit for trajectory in moving):
            return ""
        return f"no atom was uncertain for {limit} steps on any of the {len(moving)} trajectories that move"

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"force_mae": None if math.isinf(self._force_mae) else self._force_mae, "told": self._told}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.note_validation(state["force_mae"])
        self._told = state["told"]
