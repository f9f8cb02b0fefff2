"""The states that a trajectory may go back to: the last good one, and a few from before it.

A hole of the model may begin before the last good state: whoever goes on from there falls in again, whatever its random
numbers are. So the next time it goes back farther. The states to choose from lie equally far apart, twice as far
whenever there are too many, up to a limit: a setback costs a few dozen good checks at most, not a share of the run.

Each is a copy of what the sampler keeps: of dynamics 56 bytes an atom, in memory and in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT = 4
"""States that are kept, the last one included."""

LARGEST_STRIDE = 8
"""Good states from one that is kept to the next, at most."""


@dataclass(frozen=True)
class GoodState:
    """One of them.

    Attributes:
        number: how many good states came before it.
        step: its MD step.
        sampler: the state of the sampler.
        last_learned_step: the trajectory's own, then.
    """

    number: int
    step: int
    sampler: Mapping[str, Any]
    last_learned_step: int | None


@dataclass
class GoodStates:
    """Those of one trajectory.

    Attributes:
        states: in their order; the last is the last good one, the others' numbers are multiples of the stride.
        stride: good states from one to the next.

    Example:
        >>> good = GoodStates()
        >>> for step in range(0, 100, 10):
        ...     good.note(step, sampler.state(), None)
        >>> [state.step for state in good.states]
        [0, 40, 80, 90]
    """

    states: list[GoodState] = field(default_factory=list)
    stride: int = 1

    @property
    def last(self) -> GoodState | None:
        """The last good state; None before the first."""
        return self.states[-1] if self.states else None

    def note(self, step: int, sampler: Mapping[str, Any], last_learned_step: int | None) -> None:
        """Keep a state as the last one; it takes the place of one at the same step.

        Args:
            step: MD step.
            sampler: a copy of the sampler's state.
            last_learned_step: step of the last frame that the trajectory learned from.
        """
        number, last = 0, self.last
        if last is not None:
            number = last.number + (step != last.step)
            if step == last.step or last.number % self.stride:
                self.states.pop()
        self.states.append(GoodState(number, step, sampler, last_learned_step))
        if len(self.states) > KEPT:
            self._thin()

    def _thin(self) -> None:
        if self.stride == LARGEST_STRIDE:
            del self.states[0]
            return
        self.stride *= 2
        *earlier, last = self.states
        self.states = [*(state for state in earlier if state.number % self.stride == 0), last]

    def go_back(self, before: int | None = None) -> GoodState:
        """The last state, or the last one before a step; those after it are forgotten.

        Args:
            before: a step; the first state stands in where none is before it. None: the last state.

        Raises:
            IndexError: there is no state.
        """
        while len(self.states) > 1 and before is not None and self.states[-1].step >= before:
            self.states.pop()
        return self.states[-1]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"states": [vars(state) for state in self.states], "stride": self.stride}

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None) -> GoodStates:
        """The states that `state` described; checkpoints of earlier versions hold the last one alone, or None."""
        if state is None:
            return cls()
        if "states" not in state:
            return cls([GoodState(0, 0, state["sampler"], state["last_learned_step"])])
        return cls([GoodState(**one) for one in state["states"]], state["stride"])
