"""One self-contained page: figures embedded, no script, no external resource.

Every text that comes from a user or a file passes jinja2's autoescape.
"""

from __future__ import annotations

import base64
import datetime
import re
import struct
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import ideal
from ideal.report.data import RunData
from ideal.report.derived import Derived
from ideal.report.figures import SECTIONS, UNCERTAINTY, MissingFigure, RenderedFigure
from ideal.report.summary import restart_grid, tables, tiles, trajectory_grid
from ideal.report.words import calibration_findings


def page(run: RunData, derived: Derived, figures: Sequence[RenderedFigure | MissingFigure]) -> str:
    """The report as HTML.

    Args:
        run: the run.
        derived: its analysis, for the notes.
        figures: what `ideal.report.figures.render` gave.

    Returns:
        A complete HTML document.
    """
    drawn = [figure for figure in figures if isinstance(figure, RenderedFigure)]
    missing = [figure for figure in figures if isinstance(figure, MissingFigure)]
    texts = {UNCERTAINTY: calibration_findings(run.calibration.latest, run.calibration.budget)}
    sections = [
        (name, texts.get(name, ()), members)
        for name in SECTIONS
        if (members := [f for f in drawn if f.spec.section == name]) or texts.get(name)
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["png"] = _data_uri
    environment.filters["size"] = png_size
    resources = files("ideal.report")
    template = environment.from_string((resources / "template.html").read_text(encoding="utf-8"))
    return template.render(
        run=run,
        style=Markup((resources / "style.css").read_text(encoding="utf-8")),
        tiles=tiles(run),
        tables=tables(run),
        grids=[grid for grid in (trajectory_grid(run), restart_grid(run)) if grid],
        sections=sections,
        missing=missing,
        failures=[label for label in run.log.labels if label.state == "failed"],
        refusals=_refusals(run),
        notes=[*run.notes, *derived.notes],
        version=ideal.__version__,
        now=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
    )


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG file in pixels."""
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _refusals(run: RunData) -> list[tuple[str, int]]:
    """Reasons why cells were refused, the most frequent first; those that differ by a number only count as one."""
    examples: dict[str, str] = {}
    counts: dict[str, int] = {}
    for cell in run.log.cells:
        if not cell.accepted:
            reason = cell.reason or "no reason given"
            kind = re.sub(r"\d+(\.\d+)?", "#", reason)
            examples.setdefault(kind, reason)
            counts[kind] = counts.get(kind, 0) + 1
    return [(examples[kind], counts[kind]) for kind in sorted(counts, key=lambda kind: -counts[kind])][:10]
