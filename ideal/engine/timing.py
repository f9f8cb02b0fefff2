"""Wall time by stage, accumulated over the sessions of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

STAGES = ("md", "uncertainty", "embedding", "labelling_wait", "training", "evaluation", "io")


class StageTimes:
    """A stopwatch per stage.

    Stages may nest: what an inner one takes is not counted by the outer one, so that the times add up to no more than
    the wall time.

    Attributes:
        seconds: wall time by stage.

    Example:
        >>> times = StageTimes()
        >>> with times.stage("md"):
        ...     pass
        >>> times.seconds["md"] < 1
        True
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._inner: list[float] = []
        self._earlier = 0.0
        self._start = time.perf_counter()

    @property
    def wall(self) -> float:
        """Wall time of all sessions, s."""
        return self._earlier + time.perf_counter() - self._start

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the wall time of the block to ``name``."""
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] += elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed

    def state(self) -> dict[str, float]:
        """Times to keep in a checkpoint."""
        return {**self.seconds, "wall": self.wall}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on counting from ``state``."""
        self.seconds = {name: float(state.get(name, 0.0)) for name in STAGES}
        self._earlier = float(state["wall"])
        self._start = time.perf_counter()
