"""Figures of what u means in eV/Å: true errors against u, the threshold over the run, what the audits say."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ideal.errors import IdealError
from ideal.records import BoolArray, FloatArray
from ideal.report.calibration import Pairs, bound_of
from ideal.report.calibration_plot import CONFIDENCES, Cloud, Curve, Lines, draw_calibration, drawable
from ideal.report.data import RunData
from ideal.report.derived import Derived
from ideal.report.drawing import Drawing, NotDrawnError
from ideal.report.log import number
from ideal.report.style import Theme, legend_above, new_figure
from ideal.report.words import NO_LIMIT
from ideal.uncertainty.assessment import calibration_curve


def errors_by_uncertainty(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """Force error against u of every compared atom, by the kind of its label, and the coverage of the bound."""
    pairs, latest = run.calibration.pairs, run.calibration.latest
    if pairs is None:
        raise NotDrawnError("no label has been compared with a model that had not learned it")
    clouds = _clouds(pairs, theme)
    if not any(len(drawable(cloud)[0]) for cloud in clouds):
        raise NotDrawnError("no compared atom has a finite u and a force error")
    bound_u, bound = bound_of(latest)
    lines = Lines(
        bound_u,
        bound,
        confidence=number(latest.get("confidence")),
        force_error=number(latest.get("force_error")),
        threshold=number(latest.get("threshold")),
    )
    figure = draw_calibration(clouds, lines, _curve(pairs), theme)
    kinds = ", ".join(f"{pairs.n_cells(kind)} {kind}" for kind in ("validation", "selected", "audit"))
    words = f"; the bound goes from {bound[0]:.2g} to {bound[-1]:.2g} eV/Å" if len(bound) else "; not calibrated yet"
    return Drawing(
        figure, f"Force error against uncertainty u of {len(pairs):,} atoms in labelled cells ({kinds}){words}."
    )


def _clouds(pairs: Pairs, theme: Theme) -> list[Cloud]:
    drawn = pairs.of("audit") & pairs.center
    groups = (
        ("validation", pairs.of("validation"), theme.muted, 6.0, "o"),
        ("selected: u was high", pairs.of("selected"), theme.before, 7.0, "^"),
        ("audit: its neighbors", pairs.of("audit") & ~pairs.center, theme.after, 7.0, "s"),
        ("audit: the atom drawn", drawn, theme.ink, 30.0, "D"),
    )
    return [
        Cloud(name, pairs.u[mask], pairs.error[mask], color, size, marker)
        for name, mask, color, size, marker in groups
        if mask.any()
    ]


def _curve(pairs: Pairs) -> Curve | None:
    finite = np.isfinite(pairs.u) & np.isfinite(pairs.error)
    try:
        u, error, cell = pairs.u[finite], pairs.error[finite], pairs.cell[finite]
        return Curve.of(calibration_curve(u, error, cell, confidences=CONFIDENCES))
    except IdealError:  # too few cells, which the figure says
        return None


def threshold_history(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """The threshold of u and the bound per unit of u, comparison by comparison."""
    history = run.calibration
    if not history.history:
        raise NotDrawnError("the run has not compared labels with its model")
    ready = np.array([bool(event.get("ready")) for event in history.history])
    threshold, scale = history.column("threshold"), history.column("scale")
    threshold = np.where(threshold < NO_LIMIT, threshold, math.nan)
    x = np.arange(1.0, len(ready) + 1)
    figure = new_figure(height=4.4)
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot(x, history.column("in_distribution"), color=theme.muted, linestyle=(0, (4, 2)), label="in distribution")
    for axes, values, color, name in (
        (top, threshold, theme.limit, "threshold"),
        (bottom, scale, theme.series[0], "error per unit of u"),
    ):
        axes.plot(x, values, color=color, label=name, linewidth=1.2)
        _marked(axes, x, values, ready, color, theme)
    _from_zero(top, threshold, history.column("in_distribution"))
    _from_zero(bottom, scale)
    top.set_ylabel("threshold of u")
    bottom.set_ylabel("error per unit of u\n(eV/Å)")
    bottom.set_xlabel("comparison with new labels")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_above(top)
    figure.align_ylabels()
    first = f"calibrated from comparison {int(x[ready][0])} on" if ready.any() else "never calibrated"
    return Drawing(
        figure,
        f"Threshold of u over {len(x)} comparisons: from {threshold[0]:.3g} to {threshold[-1]:.3g}, {first}.",
    )


def audit_history(run: RunData, derived: Derived, theme: Theme) -> Drawing:
    """What the audits say, with confidence intervals, as they come in."""
    history = run.calibration
    missed, force = (_estimates(run, name) for name in ("missed_error_rate", "force_error"))
    if not (np.isfinite(missed).any() or np.isfinite(force).any()):
        raise NotDrawnError("no audit has been labelled")
    x = np.arange(1, len(history.history) + 1)
    figure = new_figure(height=4.4)
    top, bottom = figure.subplots(2, 1, sharex=True)
    for axes, (value, low, high), label in (
        (top, missed, "missed errors"),
        (bottom, force, "force error (eV/Å)"),
    ):
        axes.fill_between(x, low, high, color=theme.series[0], alpha=0.22, linewidth=0, step="mid")
        axes.plot(x, value, color=theme.series[0], marker="o", markersize=4)
        axes.set_ylabel(label)
        # The first audits leave nearly everything open: their upper ends would flatten the rest.
        _from_zero(axes, 1.5 * value, high[-1:])
    top.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    top.set_ylim(top=min(1.0, top.get_ylim()[1]))
    bottom.set_xlabel("comparison with new labels")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.align_ylabels()
    words = [
        f"{name} between {scale * low[-1]:.3g} and {scale * high[-1]:.3g} {unit}"
        for name, (_, low, high), scale, unit in (
            ("missed errors", missed, 100, "%"),
            ("mean force error", force, 1, "eV/Å"),
        )
        if math.isfinite(low[-1]) and math.isfinite(high[-1])
    ]
    return Drawing(figure, f"Audit estimates over {len(x)} comparisons; at the end: {', '.join(words) or 'no limits'}.")


def _estimates(run: RunData, name: str) -> FloatArray:
    """(3, n_events): value, low, high."""
    return np.array([run.calibration.column(key) for key in (name, f"{name}_low", f"{name}_high")])


def _from_zero(axes: Axes, *values: FloatArray) -> None:
    """A y axis from 0 to a little above the largest value."""
    everything = np.concatenate(values)
    largest = everything[np.isfinite(everything)].max(initial=0.0)
    axes.set_ylim(0, 1.12 * largest if largest > 0 else 1.0)


def _marked(axes: Axes, x: FloatArray, values: FloatArray, ready: BoolArray, color: str, theme: Theme) -> None:
    """Filled points where the calibration was ready, hollow ones where it was not."""
    for mask, face in ((ready, color), (~ready, theme.paper)):
        axes.plot(
            x[mask],
            values[mask],
            linestyle="none",
            marker="o",
            markersize=4.5,
            markerfacecolor=face,
            markeredgecolor=color,
        )
