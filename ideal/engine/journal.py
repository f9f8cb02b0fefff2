"""Telling what happens: the event file, the listener, the status file, the wall times."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from ideal.engine.counters import LabelCounters
from ideal.engine.events import Event, StageFinished, StageStarted
from ideal.engine.run_directory import RunDirectory
from ideal.engine.timing import StageTimes
from ideal.engine.trajectory import Trajectory

Listener = Callable[[Event], None]

STATUS_INTERVAL = 1.0
"""Seconds between two writings of ``status.json`` while nothing changes but steps."""


class Journal:
    """Where every part of the engine reports to.

    Args:
        directory: the run directory.
        listener: called with every event after it is written.

    Attributes:
        times: wall time by stage.
        counters: labels asked, done, failed.
    """

    def __init__(self, directory: RunDirectory, listener: Listener | None = None) -> None:
        self.directory = directory
        self.times = StageTimes()
        self.counters = LabelCounters()
        self._listener = listener
        self._status_written = 0.0

    def tell(self, event: Event) -> None:
        """Write an event and give it to the listener."""
        with self.times.stage("io"):
            self.directory.write_event(event)
        if self._listener is not None:
            self._listener(event)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Tell start and end of a part of the run (`StageStarted`, `StageFinished`)."""
        self.tell(StageStarted(name))
        start = time.perf_counter()
        yield
        self.tell(StageFinished(name, time.perf_counter() - start))

    def status(
        self,
        state: str,
        trajectories: Sequence[Trajectory] = (),
        *,
        threshold: float | None = None,
        message: str = "",
        now: bool = False,
    ) -> None:
        """Replace ``status.json``, at most once a second unless ``now``.

        Args:
            state: starting, running, finished, interrupted or failed.
            trajectories: present state of all of them.
            threshold: u above which an atom is uncertain.
            message: why the run failed or what continues it.
            now: write whatever was written before.
        """
        if not now and time.monotonic() - self._status_written < STATUS_INTERVAL:
            return
        self._status_written = time.monotonic()
        content = {
            "state": state,
            "message": message,
            "pid": os.getpid(),
            "updated": time.time(),
            "wall_seconds": self.times.wall,
            "labels": asdict(self.counters),
            "threshold": threshold,
            "trajectories": [_describe(trajectory) for trajectory in trajectories],
        }
        with self.times.stage("io"):
            self.directory.write_json("status.json", content, durable=False)


def _describe(trajectory: Trajectory) -> dict[str, Any]:
    sampler = trajectory.sampler
    return {
        "name": trajectory.name,
        "status": trajectory.status.value,
        "step": trajectory.step,
        "steps": trajectory.config.sampler.steps,
        "time_fs": sampler.time_fs,
        "temperature": sampler.temperature,
        "max_u": trajectory.max_u,
        "pending": len(trajectory.open_cells) + len(trajectory.requests),
        "refused": trajectory.refused,
        "restarts": trajectory.restarts,
        "reason": trajectory.reason,
    }
