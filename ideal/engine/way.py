"""The frames on the way from a trajectory's last good state to where it is.

Where a trajectory has fallen into a hole of the model, the frame it stands at teaches nothing: atoms are in contact, or
forces too large to learn. Those on the way in do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from ideal.embedding.distances import ShortestDistances, contact_in
from ideal.engine.frame_files import cell_to_label
from ideal.engine.open_cells import atoms_from_state, atoms_state
from ideal.records import Frame

KEPT = 8
"""Steps whose frames are kept; of a longer way every second one, every fourth and so on."""


@dataclass
class Way:
    """Frames at steps that lie equally far apart.

    Attributes:
        trajectory: whose way it is.
        frames: for each kept step, in order, the frame of every configuration of the sampler.
        stride: steps between two of them.
        taken: steps since the good state.

    Example:
        >>> way = Way("md")
        >>> way.note(1, [atoms])  # on its way the atoms come closer and closer
        >>> way.note(2, [closer])
        >>> way.last_physical(in_contact, {(29, 29): 2.4}).step
        2
    """

    trajectory: str
    frames: list[list[Frame]] = field(default_factory=list)
    stride: int = 1
    taken: int = 0

    def note(self, step: int, configurations: Sequence[Atoms]) -> None:
        """Keep the frame of a step, if its turn has come."""
        self.taken += 1
        if self.taken % self.stride:
            return
        if len(self.frames) == KEPT:
            self.frames = self.frames[1::2]
            self.stride *= 2
            if self.taken % self.stride:
                return
        self.frames.append([Frame(cell_to_label(atoms), self.trajectory, step) for atoms in configurations])

    def last_physical(
        self, bad: Atoms, min_distances: Mapping[tuple[int, int], float], halfway_to: int | None = None
    ) -> Frame | None:
        """The last frame in which no atoms are in contact, None where there is none.

        Args:
            bad: where the way leads; of a sampler of several configurations the one most like it is looked at.
            min_distances: shortest distances of the training set, Å.
            halfway_to: a step; only the first half of the frames before it are looked at, the middle one included.
        """
        shortest, looked_at = ShortestDistances(min_distances), self.frames
        if halfway_to is not None:
            before = sum(frames[0].step < halfway_to for frames in self.frames)
            looked_at = self.frames[: min(before, before // 2 + 1)]
        for frames in reversed(looked_at):
            frame = min(frames, key=lambda one: float(np.square(one.atoms.positions - bad.positions).sum()))
            if not contact_in(frame.atoms, shortest):
                return frame
        return None

    def end_before(self, step: int) -> None:
        """Forget the frames from a step on."""
        self.frames = [frames for frames in self.frames if frames[0].step < step]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        frames = [{"step": frame.step, **atoms_state(frame.atoms)} for its_step in self.frames for frame in its_step]
        each = len(self.frames[0]) if self.frames else 1
        return {"frames": frames, "configurations": each, "stride": self.stride, "taken": self.taken}

    @classmethod
    def from_state(cls, trajectory: str, state: Mapping[str, Any]) -> Way:
        """The way that `state` described."""
        frames = [Frame(atoms_from_state(one), trajectory, one["step"]) for one in state["frames"]]
        each = state["configurations"]
        return cls(
            trajectory,
            [frames[k : k + each] for k in range(0, len(frames), each)],
            state["stride"],
            state["taken"],
        )
