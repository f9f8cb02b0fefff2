"""What the figures of a report share: the result of drawing one, times, names of trajectories."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ideal.records import FloatArray
from ideal.report.data import RunData
from ideal.report.style import Theme, legend_above

MOST_NAMES = 8  # of more trajectories than this a legend names the systems, of more systems nothing


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


def colored(run: RunData, theme: Theme) -> dict[str, str]:
    """A color per trajectory, the same in every figure; where there are many, one per system."""
    systems = systems_of(run)
    keys = sorted(set(systems.values()))
    return {name: theme.series[keys.index(systems[name]) % len(theme.series)] for name in trajectory_names(run)}


def trajectory_names(run: RunData) -> list[str]:
    """All trajectories of the run that left a trace."""
    return sorted({*run.log.traces, *run.frames})


def systems_of(run: RunData) -> dict[str, str]:
    """What stands for a trajectory in a legend: itself, where there are many the name of its structure's file."""
    names = trajectory_names(run)
    structures = {one.name: one.structure.stem for one in run.config.trajectories} if run.config else {}
    if len(names) > MOST_NAMES and all(name in structures for name in names):
        return {name: structures[name] for name in names}
    return {name: name for name in names}


def name_trajectories(axes: Axes, run: RunData, colors: Mapping[str, str], count: int, force: bool = False) -> None:
    """A legend, unless there is one trajectory only (and nothing else to name) or too many; of systems where many."""
    systems = {system: colors[name] for name, system in systems_of(run).items()}
    if count <= MOST_NAMES:
        if force or count > 1:
            legend_above(axes)
    elif len(systems) <= MOST_NAMES:
        for line in axes.lines:
            line.set_label("_" + str(line.get_label()))
            line.set_linewidth(0.6 * line.get_linewidth())
        for system, color in systems.items():
            axes.plot([], [], color=color, label=system)
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
