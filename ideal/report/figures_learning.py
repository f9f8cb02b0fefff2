"""Figures of the learning: parity on held-out data, errors as labels arrive, training, embedded cells, wall time."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ideal.records import FloatArray
from ideal.report.data import RunData
from ideal.report.derived import GROUPS, Derived
from ideal.report.drawing import Drawing, NotDrawnError, duration
from ideal.report.log import STAGES
from ideal.report.style import Theme, clear_markers, legend_above, log_scale, new_figure


def energy_parity(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Predicted against reference energies of the held-out structures, before and after learning."""
    sides = {
        name: (held_out.reference_energies, held_out.energies, f"MAE {1000 * held_out.errors.energy:.3g} meV/atom")
        for name, held_out in (("before", run.held_out_before), ("after", run.held_out_after))
        if held_out is not None
    }
    return _parity(sides, "energy", "eV/atom", theme, size=18.0, alpha=0.75)


def force_parity(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Predicted against reference force components of the held-out structures, before and after learning."""
    sides = {
        name: (held_out.reference_forces, held_out.forces, f"MAE {held_out.errors.force:.3g} eV/Å")
        for name, held_out in (("before", run.held_out_before), ("after", run.held_out_after))
        if held_out is not None
    }
    return _parity(sides, "force component", "eV/Å", theme, size=5.0, alpha=0.35)


def error_by_labels(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Force error as labels arrive: on labels the model has not seen, after learning them, and on held-out data."""
    updates = [update for update in run.log.updates if np.isfinite(update.before.force)]
    if not updates:
        raise NotDrawnError("the model has learned nothing during the dynamics")
    figure = new_figure()
    axes = figure.add_subplot()
    learned = np.cumsum([update.labels for update in updates])
    before = np.array([update.before.force for update in updates])
    after = np.array([update.after.force for update in updates])
    axes.vlines(learned, after, before, color=theme.grid, linewidth=1.5, zorder=1)
    style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4.5}
    axes.plot(learned, before, color=theme.before, label="new labels, unseen", **style)
    undone = np.array([update.rolled_back for update in updates])
    axes.plot(learned[~undone], after[~undone], color=theme.after, label="the same, learned", **style)
    if undone.any():
        hollow = style | {"markerfacecolor": theme.paper}
        axes.plot(learned[undone], after[undone], color=theme.after, label="rolled back", **hollow)
    held_out = [(x, h.errors.force) for x, h in ((0, run.held_out_before), (learned[-1], run.held_out_after)) if h]
    if held_out:
        x, y = zip(*held_out, strict=True)
        axes.plot(
            x, y, color=theme.ink, marker="D", markersize=5.5, linewidth=1.2, linestyle=(0, (4, 2)), label="held-out"
        )
    axes.set_xlabel("labels learned during the dynamics")
    axes.set_ylabel("force MAE (eV/Å)")
    axes.set_ylim(0, 1.08 * max([*before, *after[np.isfinite(after)], *(error for _, error in held_out)]))
    axes.set_xlim(-0.03 * learned[-1], 1.03 * learned[-1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_above(axes)
    words = f"{len(updates)} updates with {learned[-1]} labels"
    if len(held_out) == 2:
        words += f"; the held-out error goes from {held_out[0][1]:.3g} to {held_out[1][1]:.3g} eV/Å"
    return Drawing(figure, f"Force error as labels arrive: {words}.")


def training(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Errors during training, epoch by epoch."""
    curve = run.training
    if curve is None:
        raise NotDrawnError("nothing has been trained yet")
    figure = new_figure(height=4.4)
    top, bottom = figure.subplots(2, 1, sharex=True)
    epochs = np.arange(1, len(curve.phase) + 1)
    phases = np.array(curve.phase)
    pretraining = phases == "pretrain"
    parts = (
        (pretraining, "pretraining", theme.before),
        (phases == "update", "updates", theme.after),
        (phases == "final", "convergence", theme.good),
    )
    for axes, values, label in (
        (top, 1000 * curve.energy_mae, "energy MAE\n(meV/atom)"),
        (bottom, curve.force_mae, "force MAE\n(eV/Å)"),
    ):
        for phase, name, color in parts:
            if phase.any():
                axes.plot(epochs[phase], values[phase], color=color, label=name, linewidth=1.2)
        log_scale(axes, values)
        axes.set_ylabel(label)
    bottom.set_xlabel("epoch (all phases in order)")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(top)
    figure.align_ylabels()
    return Drawing(
        figure,
        f"Errors over {len(epochs)} training epochs, {pretraining.sum()} of them pretraining; "
        f"the last epoch has {1000 * curve.energy_mae[-1]:.3g} meV/atom and {curve.force_mae[-1]:.3g} eV/Å.",
    )


def cells(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Sizes and largest uncertainties of the embedded cells."""
    attempts = run.log.cells
    if not attempts:
        raise NotDrawnError("no atom has been embedded")
    accepted = [cell for cell in attempts if cell.accepted]
    refused = [cell for cell in attempts if not cell.accepted]
    thresholds = [float(t.threshold[-1]) for t in run.log.traces.values() if len(t.threshold)]
    limits = [value for value in thresholds if np.isfinite(value)][:1]
    figure = new_figure(height=3.4)
    left, right = figure.subplots(1, 2)
    for axes, column, label in (
        (left, "n_atoms", "atoms in the cell"),
        (right, "max_u", "largest u of the filler"),
    ):
        groups = [np.array([getattr(cell, column) for cell in group], dtype=float) for group in (accepted, refused)]
        groups = [values[np.isfinite(values) & (values > 0)] for values in groups]  # 0: refused before it was scored
        everything = np.concatenate(groups)
        if len(everything):
            edges = (
                _sizes(everything) if column == "n_atoms" else np.linspace(0, max([*everything, *limits]) * 1.05, 26)
            )
            axes.hist(
                groups,
                bins=list(edges),
                stacked=True,
                color=[theme.good, theme.bad],
                label=["accepted", "refused"],
                edgecolor=theme.paper,
                linewidth=0.6,
            )
        axes.set_xlabel(label)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
    left.set_ylabel("number of cells")
    if limits:
        right.axvline(limits[0], color=theme.ink, linestyle=(0, (4, 2)), label="threshold")
    handles, names = right.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=3)
    sizes = [cell.n_atoms for cell in accepted]
    median = f", {np.median(sizes):.0f} atoms in the median" if sizes else ""
    return Drawing(figure, f"Embedded cells: {len(accepted)} accepted{median}, {len(refused)} refused.")


def soap_map(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Environments of the training set, the raw crops and the embedded cells on one plane."""
    result = derived.soap_map
    if result is None:
        raise NotDrawnError("there are too few structures")
    figure = new_figure(height=4.6)
    axes = figure.add_subplot()
    styles = {
        GROUPS[0]: (theme.before, "^", 9.0, 0.45),
        GROUPS[1]: (theme.muted, "o", 9.0, 0.55),
        GROUPS[2]: (theme.after, "s", 9.0, 0.45),
    }
    for name in GROUPS:
        points = result.points[name]
        if len(points):
            color, marker, size, alpha = styles[name]
            axes.scatter(
                points[:, 0], points[:, 1], s=size, color=color, marker=marker, alpha=alpha, linewidths=0, label=name
            )
    if result.explained is not None:
        axes.set_xlabel(f"first principal component ({100 * result.explained[0]:.0f} % of the variance)")
        axes.set_ylabel(f"second ({100 * result.explained[1]:.0f} %)")
    else:
        axes.set_xlabel("t-SNE 1 (no unit)")
        axes.set_ylabel("t-SNE 2 (no unit)")
    clear_markers(legend_above(axes))
    counts = ", ".join(f"{len(result.points[name])} of {name}" for name in GROUPS if len(result.points[name]))
    return Drawing(figure, f"Map of atomic environments by their SOAP power spectrum: {counts}.")


def wall_time(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Wall time by stage."""
    stages = {stage: seconds for stage, seconds in run.stage_seconds.items() if seconds > 0}
    if not stages:
        raise NotDrawnError("no time was recorded")
    names = sorted(stages, key=lambda stage: stages[stage])
    total = sum(stages.values())
    divisor, unit = (3600.0, "h") if total >= 7200 else (60.0, "min") if total >= 120 else (1.0, "s")
    figure = new_figure(height=0.9 + 0.38 * len(names))
    axes = figure.add_subplot()
    values = [stages[name] / divisor for name in names]
    bars = axes.barh([STAGES.get(name, name) for name in names], values, color=theme.series[0], height=0.66)
    axes.bar_label(
        bars,
        labels=[f"{duration(stages[n])}  ({100 * stages[n] / total:.0f} %)" for n in names],
        padding=5,
        fontsize=9,
    )
    axes.set_xlim(0, max(values) * 1.35)
    axes.set_xlabel(f"wall time ({unit})")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    words = ", ".join(f"{STAGES.get(n, n)} {100 * stages[n] / total:.0f} %" for n in reversed(names))
    return Drawing(figure, f"Wall time by stage, {duration(total)} in all: {words}.")


def _parity(
    sides: dict[str, tuple[FloatArray, FloatArray, str]],
    quantity: str,
    unit: str,
    theme: Theme,
    size: float,
    alpha: float,
) -> Drawing:
    if not sides:
        raise NotDrawnError("there is no held-out data, or it has not been evaluated yet")
    figure = new_figure(width=6.4, height=3.7)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    everything = np.concatenate([np.concatenate(side[:2]) for side in sides.values()])
    everything = everything[np.isfinite(everything)]
    margin = 0.04 * (np.ptp(everything) or 1.0)
    limits = (float(everything.min() - margin), float(everything.max() + margin))
    colors = {"before": theme.before, "after": theme.after}
    for axes, name in zip(panels, ("before", "after"), strict=True):
        axes.set_title(f"{name} learning", loc="left")
        axes.plot(limits, limits, color=theme.muted, linewidth=0.9, zorder=1)
        _square(axes, limits)
        axes.set_xlabel(f"reference {quantity} ({unit})")
        if name in sides:
            reference, predicted, error = sides[name]
            axes.scatter(
                reference, predicted, s=size, color=colors[name], alpha=alpha, linewidths=0, label=error, zorder=2
            )
            clear_markers(axes.legend(loc="upper left", handletextpad=0.3, borderaxespad=0.2, handlelength=1.0))
        else:
            axes.text(0.5, 0.5, "not evaluated", transform=axes.transAxes, ha="center", color=theme.muted)
    panels[0].set_ylabel(f"predicted {quantity} ({unit})")
    words = "; ".join(f"{error} {name} learning" for name, (_, _, error) in sides.items())
    return Drawing(figure, f"Predicted against reference {quantity} on held-out structures: {words}.")


def _square(axes: Axes, limits: tuple[float, float]) -> None:
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))


def _sizes(values: FloatArray) -> FloatArray:
    """Edges of at most 20 bins that hold whole numbers."""
    low, high = float(values.min()), float(values.max())
    width = max(1.0, np.ceil((high - low + 1) / 20))
    return np.arange(low - 0.5, high + 0.5 + width, width)
