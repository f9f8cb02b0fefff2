"""How the figures look: one theme for light pages and files, one for dark pages.

The colors are those of Okabe and Ito (https://jfly.uni-koeln.de/color), told apart with every kind of color vision;
the dark theme lightens them. Roles, not colors, are named where something is drawn.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, cast

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ideal.records import FloatArray


@dataclass(frozen=True)
class Theme:
    """Colors of one theme.

    Attributes:
        name: "light" or "dark".
        paper, ink, muted, grid: background, text, secondary text and lines, grid lines.
        series: colors of trajectories and other series, most important first.
        target: a reference that should be met. limit: a threshold. good, bad: outcomes. before, after: a comparison.
    """

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]
    target: str
    limit: str
    good: str
    bad: str
    before: str
    after: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Matplotlib's rcParams of this theme."""
        return {
            "figure.facecolor": self.paper,
            "figure.dpi": 100,
            "savefig.facecolor": self.paper,
            "axes.facecolor": self.paper,
            "axes.edgecolor": self.muted,
            "axes.labelcolor": self.ink,
            "axes.linewidth": 0.8,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.labelsize": 10,
            "axes.titlesize": 10,
            "axes.titlecolor": self.ink,
            "axes.formatter.useoffset": False,
            "axes.prop_cycle": cycler(color=self.series),
            "grid.color": self.grid,
            "grid.linewidth": 0.7,
            "text.color": self.ink,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.labelcolor": self.ink,
            "ytick.labelcolor": self.ink,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "lines.linewidth": 1.6,
            "lines.solid_capstyle": "round",
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "mathtext.fontset": "dejavusans",
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.w_pad": 0.08,
            "figure.constrained_layout.h_pad": 0.07,
        }


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1f2933",
    muted="#66727f",
    grid="#e6eaee",
    series=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b5b95", "#5f6b76"),
    target="#5f6b76",
    limit="#d55e00",
    good="#0072b2",
    bad="#d55e00",
    before="#e69f00",
    after="#0072b2",
)
DARK = Theme(
    name="dark",
    paper="#1b2027",
    ink="#e4e9ee",
    muted="#98a4b1",
    grid="#2d353f",
    series=("#5bb5f0", "#f58a4b", "#3fcf9f", "#e3a3c6", "#f2c14e", "#a5d8f6", "#b3a4dd", "#aab4bf"),
    target="#aab4bf",
    limit="#f58a4b",
    good="#5bb5f0",
    bad="#f58a4b",
    before="#f2c14e",
    after="#5bb5f0",
)


def log_scale(axes: Axes, values: FloatArray, which: Literal["x", "y"] = "y") -> None:
    """A logarithmic axis with plain numbers: 1, 2, 5 within few decades, else the decades."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return
    decades = np.log10(positive.max() / positive.min())
    axes.set(**{f"{which}scale": "log"})
    axis = axes.yaxis if which == "y" else axes.xaxis
    subs = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def themed(theme: Theme) -> AbstractContextManager[None]:
    """Within the block, figures are made in the colors and sizes of a theme."""
    return mpl.rc_context(cast(Any, theme.parameters))


def new_figure(width: float = 6.4, height: float = 3.7) -> Figure:
    """An empty figure, in inches, that no global state knows of."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure, dots_per_inch: int = 160) -> bytes:
    """The figure as a PNG file, without a date so that equal figures are equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return buffer.getvalue()


def legend_above(axes: Axes, columns: int = 4) -> Legend | None:
    """A legend above the axes, where it hides no data, solid lines first; None when nothing has a name."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return None
    broken = [isinstance(handle, Line2D) and handle.get_linestyle() != "-" for handle in handles]
    order = sorted(range(len(handles)), key=broken.__getitem__)
    handles, labels = [handles[k] for k in order], [labels[k] for k in order]
    return axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=min(columns, len(handles)),
        borderaxespad=0.2,
        handlelength=1.6,
        columnspacing=1.4,
    )


def clear_markers(legend: Legend | None, size: float = 26.0) -> None:
    """Make the points in a legend opaque and large, however faint and small they are in the axes."""
    for handle in legend.legend_handles if legend else ():
        if isinstance(handle, PathCollection):
            handle.set_alpha(1.0)
            handle.set_sizes([size])
