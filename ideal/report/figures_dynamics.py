"""Figures of the dynamics: temperature, energy, uncertainty, labels asked for, motion, structure, order."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import MaxNLocator

from ideal.records import FloatArray
from ideal.report.data import RunData
from ideal.report.derived import Derived
from ideal.report.drawing import (
    MOST_NAMES,
    Drawing,
    NotDrawnError,
    colored,
    name_trajectories,
    run_time,
    systems_of,
)
from ideal.report.log import Trace
from ideal.report.style import Theme, legend_above, log_scale, new_figure


def temperature(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Instantaneous temperature, and what the thermostat aims at."""
    traces = _traces(run)
    time, colors = run_time(run), colored(run, theme)
    figure = new_figure()
    axes = figure.add_subplot()
    words = []
    named = False
    for name, trace in traces.items():
        x = trace.times * time.scale
        single = len(traces) == 1
        axes.plot(x, trace.temperature, color=colors[name], label="temperature" if single else name)
        target = run.target_temperature(name)
        if target is not None and len(x):
            fine = np.linspace(trace.times[0], trace.times[-1], 400)
            label = None if named else "target"
            axes.plot(
                fine * time.scale, np.interp(fine, *target), color=theme.target, linestyle=(0, (4, 2)), label=label
            )
            named = True
        words.append(f"{name} goes from {trace.temperature[0]:.0f} to {trace.temperature[-1]:.0f} K")
    axes.set_ylabel("temperature (K)")
    axes.set_ylim(bottom=0)
    time.label(axes)
    name_trajectories(axes, run, colors, len(traces), force=named and len(traces) <= MOST_NAMES)
    return Drawing(figure, f"Temperature against simulated time: {_few(words)}.")


def potential_energy(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Potential energy, per atom where the number of atoms is known."""
    traces = _traces(run)
    time, colors = run_time(run), colored(run, theme)
    sizes = {name: len(run.frames[name].atoms[0]) for name in traces if name in run.frames}
    per_atom = all(name in sizes for name in traces)
    unit = "eV/atom" if per_atom else "eV"
    figure = new_figure()
    axes = figure.add_subplot()
    words = []
    for name, trace in traces.items():
        energy = trace.potential_energy / (sizes[name] if per_atom else 1)
        axes.plot(trace.times * time.scale, energy, color=colors[name], label=name)
        words.append(f"{name} goes from {energy[0]:.4g} to {energy[-1]:.4g} {unit}")
    axes.set_ylabel(f"potential energy ({unit})")
    time.label(axes)
    name_trajectories(axes, run, colors, len(traces))
    return Drawing(figure, f"Potential energy against simulated time: {_few(words)}.")


def uncertainty(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Largest uncertainty of the frame, the threshold, and the frames that earned labels."""
    traces = _traces(run)
    time, colors = run_time(run), colored(run, theme)
    figure = new_figure()
    axes = figure.add_subplot()
    single = len(traces) == 1
    limits_named = asked_named = False
    words = []
    shown: list[FloatArray] = []
    for name, trace in traces.items():
        known = np.isfinite(trace.max_u)
        x = trace.times * time.scale
        axes.plot(x[known], trace.max_u[known], color=colors[name], label="largest u" if single else name)
        asked = trace.asked & known
        if asked.any():
            axes.plot(
                x[asked],
                trace.max_u[asked],
                linestyle="none",
                marker="o",
                markersize=4.5,
                markerfacecolor=theme.paper,
                markeredgecolor=colors[name],
                label=None if asked_named else "labels asked",
            )
            asked_named = True
        limit = np.isfinite(trace.threshold)
        axes.plot(
            x[limit],
            trace.threshold[limit],
            color=theme.limit if single else theme.target,
            linestyle=(0, (4, 2)),
            label=None if limits_named else "threshold",
        )
        limits_named = True
        shown += [trace.max_u[known], trace.threshold[limit]]
        above = int((trace.max_u > trace.threshold).sum())
        words.append(f"{name} is above the threshold at {above} of {len(x)} checks and asks at {asked.sum()} of them")
    values = np.concatenate(shown)
    positive = values[values > 0]
    if len(positive) and positive.max() > 20 * np.median(positive):
        log_scale(axes, positive)
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel("largest uncertainty u of the frame")
    time.label(axes)
    name_trajectories(axes, run, colors, len(traces), force=len(traces) <= MOST_NAMES)
    return Drawing(figure, f"Largest uncertainty against simulated time: {_few(words)}.")


def labels(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Cumulative labels along the trajectories."""
    online = [label for label in run.log.labels if label.trajectory in run.log.traces]
    if not online:
        raise NotDrawnError("the dynamics has asked for no label")
    time, colors = run_time(run), colored(run, theme)
    names = sorted({label.trajectory for label in online})
    figure = new_figure()
    axes = figure.add_subplot()
    single = len(names) == 1
    words = []
    for name in names:
        trace = run.log.traces[name]
        counts = {}
        for state, style in (("failed", (0, (2, 1.5))), ("done", "solid")):
            at = np.sort(
                [np.interp(label.step, trace.steps, trace.times) for label in online
                 if label.trajectory == name and label.state == state]
            )  # fmt: skip
            counts[state] = len(at)
            if state == "failed" and not len(at) and not single:
                continue
            x = np.concatenate([[trace.times[0]], at, [trace.times[-1]]]) * time.scale
            y = np.concatenate([[0], np.arange(1, len(at) + 1), [len(at)]])
            color = (theme.good if state == "done" else theme.bad) if single else colors[name]
            label = state if single else name if state == "done" else None
            axes.step(x, y, where="post", color=color, linestyle=style, label=label)
        words.append(f"{name} has {counts['done']} labels done and {counts['failed']} failed")
    if not single and any(label.state == "failed" for label in online):
        axes.plot([], [], color=theme.muted, linestyle=(0, (2, 1.5)), label="failed")
    axes.set_ylabel("labels (cumulative)")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    time.label(axes)
    name_trajectories(axes, run, colors, len(names), force=single)
    return Drawing(figure, f"Cumulative labels against simulated time: {_few(words)}.")


def labels_by_trajectory(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """How many labels each trajectory has asked for."""
    names = list(_traces(run))
    colors = colored(run, theme)
    counts = {state: [_count(run, name, state) for name in names] for state in ("done", "failed", "waiting")}
    figure = new_figure(height=1.2 + 0.26 * len(names))
    axes = figure.add_subplot()
    places = np.arange(len(names))[::-1]
    axes.barh(places, counts["done"], color=[colors[name] for name in names])
    left = np.array(counts["done"], dtype=float)
    for state, color in (("failed", theme.bad), ("waiting", theme.muted)):
        if any(counts[state]):
            axes.barh(places, counts[state], left=left, color="none", edgecolor=color, hatch="///", label=state)
        left += counts[state]
    axes.set_yticks(places, names)
    axes.set_xlabel("labels")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="y")
    legend_above(axes)
    words = [f"{name} {done}" for name, done in zip(names, counts["done"], strict=True)]
    return Drawing(figure, f"Labels done by trajectory: {', '.join(words)}.")


def _count(run: RunData, name: str, state: str) -> int:
    return sum(label.trajectory == name and label.state == state for label in run.log.labels)


def displacement(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Mean squared displacement since the first frame."""
    structures = {name: s for name, s in derived.structures.items() if len(s.msd) > 1}
    if not structures:
        raise NotDrawnError("fewer than two frames were written")
    time, colors = run_time(run), colored(run, theme)
    figure = new_figure()
    axes = figure.add_subplot()
    words = []
    for name, structure in structures.items():
        axes.plot(structure.times * time.scale, structure.msd, color=colors[name], label=name)
        words.append(f"{name} reaches {structure.msd[-1]:.3g} Å² after {time.say(structure.times[-1])}")
    axes.set_ylabel("mean squared displacement (Å²)")
    axes.set_ylim(bottom=0)
    time.label(axes)
    name_trajectories(axes, run, colors, len(structures))
    return Drawing(figure, f"Mean squared displacement against simulated time: {_few(words)}.")


def radial(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Radial distribution function over the first and the last tenth of each trajectory."""
    pairs = {
        name: (s.rdf_before, s.rdf_after) for name, s in derived.structures.items() if s.rdf_before and s.rdf_after
    }
    if not pairs:
        raise NotDrawnError("fewer than two frames were written, or they are too large")
    systems = systems_of(run)
    shown = list({systems.get(name, name): name for name in reversed(pairs)}.values())[::-1][:4]  # the first of each
    figure = new_figure(height=3.7 if len(shown) == 1 else 1.0 + 2.0 * len(shown))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    words = []
    for axes, name in zip(panels, shown, strict=True):
        before, after = pairs[name]
        if before is None or after is None:
            continue
        axes.plot(before.r, before.values, color=theme.before, label="first tenth")
        axes.plot(after.r, after.values, color=theme.after, label="last tenth")
        if before.normalized:
            axes.axhline(1.0, color=theme.muted, linewidth=0.8, zorder=0)
        axes.set_ylabel("g(r)" if before.normalized else "neighbors per atom and Å")
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, before.r[-1])
        if len(shown) > 1:
            axes.set_title(name, loc="right")
        peak_before, peak_after = (d.r[np.argmax(d.values)] for d in (before, after))
        words.append(
            f"{name} has its highest peak, {before.values.max():.2f} at {peak_before:.2f} Å, become "
            f"{after.values.max():.2f} at {peak_after:.2f} Å"
        )
    panels[-1].set_xlabel("distance r (Å)")
    legend_above(panels[0])
    return Drawing(figure, f"Radial distribution over the first and the last tenth of the frames: {_few(words)}.")


def order(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Neighbor-averaged Steinhardt q6, a measure of crystalline order."""
    structures = {name: s for name, s in derived.structures.items() if len(s.order) > 1}
    if not structures:
        raise NotDrawnError("fewer than two frames were written, or they are too large")
    time, colors = run_time(run), colored(run, theme)
    figure = new_figure()
    axes = figure.add_subplot()
    words = []
    for name, structure in structures.items():
        axes.plot(structure.order_times * time.scale, structure.order, color=colors[name], label=name)
        words.append(f"{name} goes from {structure.order[0]:.2f} to {structure.order[-1]:.2f}")
    axes.set_ylabel("bond order q₆, averaged")
    axes.set_ylim(0, max(0.6, max(float(s.order.max()) for s in structures.values()) * 1.05))
    time.label(axes)
    name_trajectories(axes, run, colors, len(structures))
    return Drawing(figure, f"Mean bond order q6 against simulated time: {_few(words)}.")


def _traces(run: RunData) -> dict[str, Trace]:
    if not run.log.traces:
        raise NotDrawnError("no frame has been checked yet")
    return dict(sorted(run.log.traces.items()))


def _few(words: list[str]) -> str:
    if len(words) <= MOST_NAMES:
        return "; ".join(words)
    return "; ".join(words[:3]) + f"; and {len(words) - 3} more trajectories"
