"""The audit of the last interval: what the run held for certain since it learned last.

It comes when the trajectories are over and before the held-out errors. Its labels are learned as all others. It belongs
to no trajectory, so that what it waits for is kept here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ideal.engine.trajectory import LabelRequest


@dataclass
class FinalAudit:
    """What the audit of the last interval waits for.

    Attributes:
        requests: its cells, in the order of asking; empty before and after.
        announced: keys of those whose arrival was told already.

    Example:
        >>> audit = FinalAudit(requests=asker.take_audits(auditor.close_last(n_selected=20, limit=3)))
        >>> audit.place
        ('md', 2400)
    """

    requests: list[LabelRequest] = field(default_factory=list)
    announced: set[str] = field(default_factory=set)

    @property
    def place(self) -> tuple[str, int]:
        """Trajectory and MD step of its first cell, which stand for all in the events."""
        info = self.requests[0].info
        return info["trajectory"], info["step"]

    def clear(self) -> None:
        """Wait for nothing any more."""
        self.requests = []
        self.announced = set()

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"requests": [request.state() for request in self.requests], "announced": sorted(self.announced)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.requests = [LabelRequest.from_state(request) for request in state["requests"]]
        self.announced = set(state["announced"])
