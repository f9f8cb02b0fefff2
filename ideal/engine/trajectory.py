"""One trajectory of a run: its sampler, and where it stands in the loop.

RUNNING --asks--> WAITING (cells are made, then labelled) --learned--> RUNNING --last step--> FINISHED
   \\--left the physical range, too often in a row--> FAILED
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ase import Atoms

from ideal.config import TrajectoryConfig
from ideal.engine.good_states import GoodStates
from ideal.engine.open_cells import OpenCell, atoms_from_state, atoms_state, cells_from_state, cells_state
from ideal.engine.way import Way
from ideal.samplers.base import Sampler


class TrajectoryStatus(Enum):
    """Where a trajectory stands."""

    RUNNING = "running"
    WAITING = "waiting"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True)
class LabelRequest:
    """A cell that was sent to the reference code.

    Attributes:
        key: the label's key.
        atoms: the cell.
        info: origin: trajectory, step, atom.
    """

    key: str
    atoms: Atoms
    info: Mapping[str, Any]

    def state(self) -> dict[str, Any]:
        """The request as arrays, numbers and text; exact."""
        return {
            "key": self.key,
            "info": dict(self.info),
            **atoms_state(self.atoms),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> LabelRequest:
        """The request that `state` described."""
        return cls(state["key"], atoms_from_state(state), state["info"])


@dataclass
class Trajectory:
    """State of one trajectory.

    Attributes:
        config: its part of the configuration.
        sampler: what moves it; stands at the present frame.
        status: where it stands.
        open_cells: cells asked for and not made yet, in the order of asking.
        requests: the labels that it waits for, in the order of asking.
        announced: keys of those whose arrival was already told to the listener.
        visited_step: last step whose frame was written and checked as its turn demanded; -1 before the first.
        last_learned_step: step of the last frame that it learned from, None before the first.
        last_checkpoint_step: step at its last regular checkpoint.
        max_u: largest uncertainty at the last check, None before the first.
        refused: number of selected atoms that could not be embedded.
        refused_checks: checks in a row at which none of the selected atoms could be embedded.
        certain_since: step of the last check at which an atom was uncertain, 0 before.
        good: where it goes on from when something goes wrong (`ideal.engine.restarting`); empty before the first move.
        way: frames since the last of them.
        collapse: why the frame that asked is no place to go on from: it goes back when the labels that it waits for are
            learned; empty where all is well.
        restarts: how often it went back there.
        setbacks: how often in a row without getting past `trouble_step`, the farthest step at which it had to.
        good_step: step that it went back to last.
        reason: why it failed, or went back last.
        conclusion: how it ended, of samplers that have something to say about it.
    """

    config: TrajectoryConfig
    sampler: Sampler
    status: TrajectoryStatus = TrajectoryStatus.RUNNING
    open_cells: list[OpenCell] = field(default_factory=list)
    requests: list[LabelRequest] = field(default_factory=list)
    announced: set[str] = field(default_factory=set)
    visited_step: int = -1
    last_learned_step: int | None = None
    last_checkpoint_step: int = 0
    max_u: float | None = None
    refused: int = 0
    refused_checks: int = 0
    certain_since: int = 0
    good: GoodStates = field(default_factory=GoodStates)
    way: Way = field(init=False)
    collapse: str = ""
    restarts: int = 0
    setbacks: int = 0
    trouble_step: int = -1
    good_step: int = 0
    reason: str = ""
    conclusion: str = ""

    def __post_init__(self) -> None:
        self.way = Way(self.name)

    @property
    def name(self) -> str:
        """Name of the trajectory."""
        return self.config.name

    @property
    def step(self) -> int:
        """Present MD step."""
        return self.sampler.step

    @property
    def is_over(self) -> bool:
        """Whether it has finished or failed."""
        return self.status in (TrajectoryStatus.FINISHED, TrajectoryStatus.FAILED)

    def may_ask(self, min_steps_between: int) -> bool:
        """Whether enough steps were taken since it last learned.

        What a search has found may ask earlier, unless the last model left it where it was: one step only looked.
        """
        if self.last_learned_step is None:
            return True
        if self.config.sampler.ends_converged and self.sampler.finished:
            min_steps_between = min(min_steps_between, 2)
        return self.step - self.last_learned_step >= min_steps_between

    def reopen(self) -> None:
        """Let a finished trajectory run on when its number of steps was raised."""
        if self.status is TrajectoryStatus.FINISHED and not self.sampler.finished:
            self.status = TrajectoryStatus.RUNNING

    def state(self) -> dict[str, Any]:
        """Everything but the configuration, for a checkpoint."""
        return {
            "status": self.status.value,
            "sampler": self.sampler.state(),
            "open_cells": cells_state(self.open_cells),
            "requests": [request.state() for request in self.requests],
            "announced": sorted(self.announced),
            "visited_step": self.visited_step,
            "last_learned_step": self.last_learned_step,
            "last_checkpoint_step": self.last_checkpoint_step,
            "max_u": self.max_u,
            "refused": self.refused,
            "refused_checks": self.refused_checks,
            "certain_since": self.certain_since,
            "good": self.good.state(),
            "way": self.way.state(),
            "collapse": self.collapse,
            "restarts": self.restarts,
            "setbacks": self.setbacks,
            "trouble_step": self.trouble_step,
            "good_step": self.good_step,
            "reason": self.reason,
            "conclusion": self.conclusion,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned.

        Raises:
            SamplerError: the state belongs to another structure or ensemble.
        """
        self.sampler.restore(state["sampler"])
        self.status = TrajectoryStatus(state["status"])
        self.open_cells = cells_from_state(state["open_cells"])
        self.requests = [LabelRequest.from_state(request) for request in state["requests"]]
        self.announced = set(state["announced"])
        self.visited_step = state["visited_step"]
        self.last_learned_step = state["last_learned_step"]
        self.last_checkpoint_step = state["last_checkpoint_step"]
        self.max_u = state["max_u"]
        self.refused = state["refused"]
        self.refused_checks = state["refused_checks"]
        self.certain_since = state.get("certain_since", self.step)  # absent from runs of earlier versions
        self.good = GoodStates.from_state(state.get("good"))
        self.way = Way.from_state(self.name, state["way"]) if "way" in state else Way(self.name)
        self.collapse = state.get("collapse", "")
        self.restarts = state.get("restarts", 0)
        self.setbacks = state.get("setbacks", 0)
        self.trouble_step = state.get("trouble_step", -1)
        self.good_step = state.get("good_step", 0)
        self.reason = state["reason"]
        self.conclusion = state.get("conclusion", "")
