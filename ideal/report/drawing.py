"""What the figures of a report share: the result of drawing one, times, names of trajectories."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ideal.records import FloatArray
from ideal.report.data import RunData
from ideal.report.style import Theme, legend_above

MOST_NAMES = 8  # more trajectories than this are drawn without a legend


class NotDrawnError(Exception):
    """There is nothing to draw; the message says why, for the reader of the report."""


@dataclass(frozen=True)
class Drawing:
    """A figure and what it shows in words, for readers who do not see it."""

    figure: Figure
    alt: str


@dataclass(frozen=True)
class TimeAxis:
    """Unit of simulated time that suits a run."""

    scale: float
    unit: str

    @classmethod
    def fitting(cls, times: Iterable[FloatArray]) -> TimeAxis:
        """The unit for times in fs."""
        longest = max((float(np.nanmax(t)) for t in times if len(t) and np.isfinite(t).any()), default=0.0)
        if longest >= 1e6:
            return cls(1e-6, "ns")
        return cls(1e-3, "ps") if longest >= 500 else cls(1.0, "fs")

    @classmethod
    def steps(cls) -> TimeAxis:
        """For runs of nothing that takes time: the steps stand where times do."""
        return cls(1.0, "steps")

    def label(self, axes: Axes) -> None:
        """Name the time axis."""
        axes.set_xlabel("step" if self.unit == "steps" else f"simulated time ({self.unit})")

    def say(self, time: float) -> str:
        """A time in fs in words."""
        return f"{time * self.scale:.3g} {self.unit}"


def run_time(run: RunData) -> TimeAxis:
    """The time axis of all figures of a run."""
    traces = run.log.traces
    if traces and all(trace.timeless for trace in traces.values()):
        return TimeAxis.steps()
    times = [trace.times for trace in traces.values() if not trace.timeless]
    times += [frames.times for name, frames in run.frames.items() if name not in traces or not traces[name].timeless]
    return TimeAxis.fitting(times)


def colored(run_names: Iterable[str], theme: Theme) -> dict[str, str]:
    """A color per trajectory, the same in every figure."""
    return {name: theme.series[k % len(theme.series)] for k, name in enumerate(sorted(run_names))}


def trajectory_names(run: RunData) -> list[str]:
    """All trajectories of the run that left a trace."""
    return sorted({*run.log.traces, *run.frames})


def name_trajectories(axes: Axes, count: int, force: bool = False) -> None:
    """A legend, unless there is one trajectory only (and nothing else to name) or too many."""
    if force or 1 < count <= MOST_NAMES:
        legend_above(axes)


def duration(seconds: float) -> str:
    """A time span in words, such as ``12 min 5 s``.

    Example:
        >>> duration(725.2)
        '12 min 5 s'
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
