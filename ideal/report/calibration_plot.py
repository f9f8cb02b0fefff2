"""Force error against u, and observed against nominal coverage: the plot of ``ideal-run calibrate`` and of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator, PercentFormatter

from ideal.records import FloatArray
from ideal.report.style import Theme, clear_markers, log_scale, new_figure
from ideal.uncertainty.assessment import CalibrationCurve

CONFIDENCES = (0.02, *(round(0.05 * k, 2) for k in range(1, 20)), 0.99)
"""Nominal coverages of the right panel."""

_MANY = 1500  # a single group of more points than this is drawn as a density
_DASHED, _DOTTED = (0, (4, 2)), (0, (1, 1.5))


@dataclass(frozen=True)
class Cloud:
    """Atoms of one group.

    Attributes:
        name: in the legend.
        u, error: (n,) uncertainty and norm of the force error, eV/Å.
        color: of its points.
        size: of its points, in square points.
        marker: matplotlib's.
    """

    name: str
    u: FloatArray
    error: FloatArray
    color: str
    size: float = 8.0
    marker: str = "o"


@dataclass(frozen=True)
class Curve:
    """Observed coverage for every nominal one (`CONFIDENCES`); all (n,), between 0 and 1. NaN limits: no interval."""

    nominal: FloatArray
    observed: FloatArray
    low: FloatArray
    high: FloatArray

    @classmethod
    def of(cls, curve: CalibrationCurve) -> Curve | None:
        """From the statistics; None where no nominal coverage has a finite bound."""
        columns = (curve.nominal, curve.observed, curve.low, curve.high)
        arrays = [np.array([math.nan if value is None else value for value in column]) for column in columns]
        known = np.isfinite(arrays[1])
        return cls(*(array[known] for array in arrays)) if known.any() else None


@dataclass(frozen=True)
class Lines:
    """The lines of the plot; NaN, or an empty bound, leaves one out.

    Attributes:
        bound_u, bound: (m,) u, ascending, and the bound on the force error there, eV/Å.
        confidence: share of the atoms that the bound should hold for.
        force_error: tolerance, eV/Å.
        threshold: u above which an atom counts as uncertain.
    """

    bound_u: FloatArray = field(default_factory=lambda: np.empty(0))
    bound: FloatArray = field(default_factory=lambda: np.empty(0))
    confidence: float = math.nan
    force_error: float = math.nan
    threshold: float = math.nan


def draw_calibration(clouds: Sequence[Cloud], lines: Lines, curve: Curve | None, theme: Theme) -> Figure:
    """Two panels: force error against u with bound, tolerance and threshold; observed against nominal coverage.

    Atoms with an infinite u or an error of zero have no place on logarithmic axes and are left out.

    Args:
        clouds: at least one, with at least one point that can be drawn.
        lines: bound, tolerance, threshold.
        curve: None: too little to compare.
        theme: colors.
    """
    figure = new_figure(width=9.2, height=4.3)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    _errors(left, clouds, lines, theme)
    _coverage(right, curve, lines.confidence, theme)
    return figure


def drawable(cloud: Cloud) -> tuple[FloatArray, FloatArray]:
    """u and error of the points that logarithmic axes can show."""
    shown = np.isfinite(cloud.u) & np.isfinite(cloud.error) & (cloud.u > 0) & (cloud.error > 0)
    return cloud.u[shown], cloud.error[shown]


def _errors(axes: Axes, clouds: Sequence[Cloud], lines: Lines, theme: Theme) -> None:
    points = [drawable(cloud) for cloud in clouds]
    every_u, every_error = (np.concatenate(values) for values in zip(*points, strict=True))
    marks_u, marks_error = (
        np.array([value for value in values if math.isfinite(value) and value > 0])
        for values in ([lines.threshold], [lines.force_error])
    )
    # A few nearly exact forces would stretch the axis over empty decades.
    bottom = max(float(every_error.min()), 0.3 * float(np.quantile(every_error, 0.01)))
    shown_error = np.concatenate([every_error[every_error >= bottom], marks_error])
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(*_margins(np.concatenate([every_u, marks_u])))
    axes.set_ylim(*_margins(shown_error))
    for cloud, (u, error) in zip(clouds, points, strict=True):
        if not len(u):
            continue
        if len(clouds) == 1 and len(u) > _MANY:
            _density(axes, u, error, theme)
        else:
            axes.scatter(
                u,
                error,
                s=cloud.size,
                color=cloud.color,
                marker=cloud.marker,
                alpha=float(np.clip(60 / math.sqrt(len(u) * cloud.size), 0.12, 0.85)),
                linewidths=0,
                label=f"{cloud.name} ({len(u):,})",
                zorder=2,
            )
    _lines(axes, lines, theme)
    log_scale(axes, np.concatenate([every_u, marks_u]), "x")  # the density has its own idea of ticks
    log_scale(axes, shown_error, "y")
    axes.set_xlabel("uncertainty u")
    axes.set_ylabel("force error |ΔF| (eV/Å)")
    handles, names = axes.get_legend_handles_labels()
    order = sorted(range(len(handles)), key=lambda k: isinstance(handles[k], Line2D))
    legend = axes.legend(
        [handles[k] for k in order],
        [names[k] for k in order],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=2,
        borderaxespad=0.2,
        handlelength=1.6,
        columnspacing=1.4,
    )
    clear_markers(legend)


def _density(axes: Axes, u: FloatArray, error: FloatArray, theme: Theme) -> None:
    faint = _blend(theme.paper, theme.series[0], 0.25)
    colors = LinearSegmentedColormap.from_list("density", [faint, theme.series[0]])
    hexagons = axes.hexbin(
        u, error, gridsize=(46, 30), xscale="log", yscale="log", mincnt=1, cmap=colors, norm=LogNorm(), linewidths=0.1
    )
    axes.grid(visible=True)
    bar = axes.figure.colorbar(hexagons, ax=axes, pad=0.02, aspect=30, format="%g")
    bar.ax.minorticks_off()
    bar.set_label("atoms")
    bar.outline.set_visible(False)


def _blend(one: str, other: str, share: float) -> str:
    """A color between two, ``share`` of the way."""
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(to_rgb(one), to_rgb(other), strict=True))
    return to_hex((red, green, blue))


def _lines(axes: Axes, lines: Lines, theme: Theme) -> None:
    if len(lines.bound):
        name = f"bound for {100 * lines.confidence:g} %" if math.isfinite(lines.confidence) else "bound"
        axes.plot(lines.bound_u, lines.bound, color=theme.ink, linewidth=1.5, label=name, zorder=3)
    if math.isfinite(lines.force_error):
        axes.axhline(
            lines.force_error,
            color=theme.series[2],
            linestyle=_DOTTED,
            linewidth=2.0,
            label=f"tolerance {lines.force_error:g} eV/Å",
            zorder=3,
        )
    if math.isfinite(lines.threshold):
        axes.axvline(
            lines.threshold,
            color=theme.limit,
            linestyle=_DASHED,
            label=f"threshold u = {lines.threshold:.3g}",
            zorder=3,
        )


def _coverage(axes: Axes, curve: Curve | None, confidence: float, theme: Theme) -> None:
    axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=0.9, zorder=1)
    if curve is None:
        axes.text(0.5, 0.5, "too few cells", transform=axes.transAxes, ha="center", color=theme.muted)
    else:
        if np.isfinite(curve.low).any():
            axes.fill_between(curve.nominal, curve.low, curve.high, color=theme.series[0], alpha=0.2, linewidth=0)
        axes.plot(curve.nominal, curve.observed, color=theme.series[0], zorder=2)
        if math.isfinite(confidence):
            observed = float(np.interp(confidence, curve.nominal, curve.observed))
            axes.plot(
                [confidence], [observed], color=theme.series[0], marker="o", markersize=6.5, markeredgecolor=theme.paper
            )
            axes.annotate(
                f"{100 * observed:.1f} %\nat {100 * confidence:g} %",
                (confidence, observed),
                xytext=(-10, -4),
                textcoords="offset points",
                ha="right",
                va="top" if observed < 0.95 * confidence else "bottom",
                fontsize=9,
                color=theme.ink,
            )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.0)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.25))
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("nominal coverage")
    axes.set_ylabel("observed coverage, cells kept apart")


def _margins(values: FloatArray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = max(high / low, 1.5) ** 0.05
    return low / margin, high * margin
