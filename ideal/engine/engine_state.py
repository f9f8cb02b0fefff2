"""Saving and loading everything that decides how a run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from ideal.config import Config, dump_config
from ideal.engine.checkpoint import Checkpoints
from ideal.engine.counters import LabelCounters
from ideal.engine.events import CheckpointWritten
from ideal.engine.journal import Journal
from ideal.engine.learner import Learner
from ideal.engine.resume_rules import check_unchanged
from ideal.engine.state_files import read_state, write_state
from ideal.engine.trajectory import Trajectory

_FILE = "engine.safetensors"


class Part(Protocol):
    """A part of the engine that is saved with it."""

    def state(self) -> Mapping[str, Any]:
        """Arrays, numbers, text, lists and dictionaries of them."""
        ...

    def restore(self, state: Any) -> None:
        """Continue from what `state` returned."""
        ...


def save_checkpoint(
    config: Config,
    journal: Journal,
    learner: Learner,
    trajectories: Sequence[Trajectory],
    parts: Mapping[str, Part],
) -> None:
    """Write a complete checkpoint and tell it.

    The event comes first, so that it lies before the recorded lengths of the files and a resumed run keeps it; should
    the writing fail, a resumed run cuts it off with everything else that came after the checkpoint before.

    Raises:
        IdealError: the disk is full; the earlier checkpoints are intact.
    """
    directory = journal.directory
    checkpoints = Checkpoints(directory.path / "checkpoints")
    steps = {trajectory.name: trajectory.step for trajectory in trajectories}
    journal.tell(CheckpointWritten(checkpoints.latest_number() + 1, sum(steps.values()), steps))
    with journal.times.stage("io"), checkpoints.writing() as folder:
        learner.save(folder)
        write_state(
            folder / _FILE,
            {
                "config": config.model_dump(mode="json"),
                "config_sha256": hashlib.sha256(dump_config(config).encode()).hexdigest(),
                "offsets": directory.offsets(),
                "counters": asdict(journal.counters),
                "times": journal.times.state(),
                "trajectories": {trajectory.name: trajectory.state() for trajectory in trajectories},
                "parts": {name: part.state() for name, part in parts.items()},
            },
            durable=False,
        )


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The engine's own part of a checkpoint."""
    return read_state(folder / _FILE)


def check_config(folder: Path, config: Config, source: str) -> None:
    """Refuse to resume with a configuration that differs from the checkpoint's.

    Raises:
        ConfigError: names the first key that may not differ.
    """
    check_unchanged(read_checkpoint(folder)["config"], config.model_dump(mode="json"), source)


def restore_checkpoint(
    state: Mapping[str, Any], journal: Journal, trajectories: Sequence[Trajectory], parts: Mapping[str, Part]
) -> None:
    """Put everything but the learner back and cut the growing files to their length at the checkpoint."""
    journal.directory.rewind(state["offsets"])
    journal.counters = LabelCounters(**state["counters"])
    journal.times.restore(state["times"])
    for trajectory in trajectories:
        trajectory.restore(state["trajectories"][trajectory.name])
        trajectory.reopen()
    saved = dict(state["parts"])
    if "turn" in state:  # a checkpoint of an earlier version, which knew no lockstep
        saved["loop"] = {"turn": state["turn"], "audited": False}
    for name, part in parts.items():
        if name in saved:
            part.restore(saved[name])
