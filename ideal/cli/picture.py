"""A picture of an embedded cell: where its atoms come from, and their uncertainty before and after.

Three panels of the same view: the cell with core, kept, moved and added atoms in their own colors; the crop before its
filler was optimized, colored by u; the cell afterwards, colored by u on the same scale, whose middle is the threshold.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from ideal.records import FloatArray, IntArray, Provenance, Substructure

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.axes import Axes

COLORS = {
    Provenance.CORE: "#d1495b",
    Provenance.KEPT: "#c3ccd9",
    Provenance.MOVED: "#30638e",
    Provenance.ADDED: "#edae49",
    Provenance.CAP: "#ffffff",
}
NAMES = {
    Provenance.CORE: "core",
    Provenance.KEPT: "filler kept",
    Provenance.MOVED: "filler moved",
    Provenance.ADDED: "filler added",
    Provenance.CAP: "hydrogen caps",
}
_RADIUS = 0.5
"""Drawn radius in covalent radii."""
_SCALE = 4.0
"""Colors reach from the threshold divided by this to this many times the threshold."""
_VACUUM = 5.0
"""A gap wider than this (Å) stands upright."""
_TURN = (12.0, 9.0)
"""How far the view is turned and tilted, degrees."""
_UNKNOWN = "#b0b0b0"
_LINE = "#333333"
_PANEL_INCHES = 4.2


def draw_substructure(cell: Substructure, path: Path, threshold: float | None = None) -> None:
    """Write a PNG (or any format of matplotlib that ``path`` names).

    Args:
        cell: what `ideal.embedding.embed` returned.
        path: the file.
        threshold: u in the middle of the color scale; None: what the filler was held against.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    from ideal.cli.output import replacing

    middle = cell.threshold if threshold is None else threshold
    norm, colormap = LogNorm(middle / _SCALE, middle * _SCALE), "RdYlBu_r"
    after, before = _placed(cell, cell.atoms), _placed(cell, _crop(cell))
    view = _view(cell)
    width, height = _extent([after, before], view)
    tall = _PANEL_INCHES * min(max(height / width, 0.5), 1.6)
    figure = Figure(figsize=(3 * _PANEL_INCHES + 1.0, tall + 1.4), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(figure)
    panels: list[Any] = list(figure.subplots(1, 3, sharex=True, sharey=True))
    origin = [COLORS[Provenance(int(value))] for value in cell.provenance]
    mappable = ScalarMappable(norm, colormap)
    _draw(panels[0], after, view, origin, cell)
    _draw(panels[1], before, view, _by_u(cell.u_before, mappable), cell)
    _draw(panels[2], after, view, _by_u(cell.u, mappable), cell)
    panels[0].set_title("where its atoms come from", fontsize=10)
    panels[1].set_title(f"before: largest u of the filler {_largest(cell, cell.u_before)}", fontsize=10)
    panels[2].set_title(f"after: largest u of the filler {_largest(cell, cell.u)}", fontsize=10)
    for axes in panels:
        axes.set_xlabel("Å")
    panels[0].set_ylabel("Å")
    bar = figure.colorbar(mappable, ax=panels, shrink=0.8, extend="both", pad=0.01)
    ticks = [middle / 4, middle / 2, middle, 2 * middle, 4 * middle]
    bar.set_ticks(ticks, labels=[f"{tick:.0f}" if tick >= 100 else f"{tick:.2g}" for tick in ticks])
    bar.set_ticks([], minor=True)
    bar.set_label(f"uncertainty u (threshold {middle:.3g})")
    bar.ax.axhline(middle, color=_LINE, linewidth=1.5)
    _legend(figure, cell)
    figure.suptitle(_title(cell), fontsize=10, x=0.01, ha="left")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def formula(atoms: Atoms) -> str:
    """The elements with their numbers, metals first, the heavier nonmetal first.

    Example:
        >>> formula(Atoms("OSiO"))
        'SiO2'
    """
    from ideal.embedding.molecules import NONMETALS

    counts = Counter(atoms.numbers.tolist())
    order = sorted(counts, key=lambda number: (number in NONMETALS, -number))
    return "".join(f"{chemical_symbols[number]}{counts[number] if counts[number] > 1 else ''}" for number in order)


def _title(cell: Substructure) -> str:
    held = f", {cell.composition}" if cell.composition else ""
    periodic = "".join(name for name, flag in zip("abc", cell.atoms.pbc, strict=True) if flag)
    kind = (
        "the whole frame" if cell.whole_frame else f"periodic along {', '.join(periodic)}" if periodic else "a cluster"
    )
    place = f"atom {cell.parent_atom}{' of ' if cell.trajectory else ''}{cell.trajectory}"
    first = f"{formula(cell.atoms)}{held}, {len(cell.atoms)} atoms around {place}, {kind}"
    if cell.accepted:
        return f"{first}: accepted"
    return f"{first}: refused\n{textwrap.shorten(cell.reason, 170, placeholder=' ...')}"


def _largest(cell: Substructure, u: FloatArray) -> str:
    filler = u[~cell.core]
    if not len(filler):
        return "- (no filler)"
    return "unknown" if np.isnan(filler).any() else f"{filler.max():.2f}"


def _legend(figure: Any, cell: Substructure) -> None:
    """Origins by color with their counts, the rings of the core, elements by size."""
    from ase.data import atomic_numbers, covalent_radii
    from matplotlib.lines import Line2D

    def marker(color: str, label: str, size: float = 10.0, edge: float = 0.6) -> Line2D:
        return Line2D(
            [], [], linestyle="none", marker="o", color=color, label=label, markersize=size, markeredgecolor=_LINE,
            markeredgewidth=edge,
        )  # fmt: skip

    values = [Provenance(int(value)) for value in cell.provenance]
    handles = [
        marker(COLORS[value], f"{values.count(value)} {NAMES[value]}") for value in Provenance if value in values
    ]
    handles.append(marker("#ffffff", "core (ring)", edge=2.0))
    handles.append(Line2D([], [], linestyle="none", marker="+", color="black", label="center", markersize=9))
    if np.isnan(cell.u).any() or np.isnan(cell.u_before).any():
        handles.append(marker(_UNKNOWN, "u unknown"))
    elements = sorted(set(cell.atoms.get_chemical_symbols()))
    if len(elements) > 1:
        radii = {symbol: float(covalent_radii[atomic_numbers[symbol]]) for symbol in elements}
        handles += [marker("#ffffff", s, 12.0 * radii[s] / max(radii.values())) for s in elements]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 9), frameon=False, fontsize=9)


def _by_u(u: FloatArray, mappable: Any) -> list[Any]:
    return [_UNKNOWN if np.isnan(value) else mappable.to_rgba(value) for value in u]


def _crop(cell: Substructure) -> Atoms:
    """The cell before its filler was optimized."""
    crop = cell.atoms.copy()
    if "crop_positions" in crop.arrays:
        crop.set_positions(crop.arrays["crop_positions"])
    if "crop_cell" in crop.info:
        crop.set_cell(crop.info["crop_cell"])
    return crop


def _placed(cell: Substructure, atoms: Atoms) -> Atoms:
    """The atoms with the center at the origin; ``info["origin"]`` tells where the cell begins then.

    A cell was cut around its center with every molecule in one piece, so it is only shifted. Of a whole frame each
    molecule comes to the image that is nearest to the center.
    """
    from ideal.embedding.molecules import groups

    placed = atoms.copy()
    placed.positions -= atoms.positions[cell.center]
    placed.info["origin"] = -atoms.positions[cell.center]
    if cell.whole_frame and atoms.cell.rank == 3 and atoms.pbc.any():
        group = groups(np.asarray(atoms.numbers, dtype=np.int64), placed.positions)
        fractional = placed.cell.scaled_positions(placed.positions)
        shift = np.zeros((int(group.max()) + 1, 3))
        count = np.bincount(group)
        for c in np.flatnonzero(atoms.pbc):
            shift[:, c] = np.rint(np.bincount(group, weights=fractional[:, c]) / count)
        placed.positions -= shift[group] @ placed.cell.array
        here = atoms.cell.scaled_positions(atoms.positions[cell.center])
        placed.info["origin"] = -np.where(atoms.pbc, 0.5, here) @ atoms.cell.array
    return placed


def _view(cell: Substructure) -> FloatArray:
    """Rows (3, 3): right, up and toward the eye. An axis with vacuum stands upright; turned a little, so that the
    columns of a crystal do not hide each other."""
    atoms = cell.atoms
    upright = 2
    if atoms.cell.rank == 3 and atoms.pbc.any():
        fractional = np.sort(atoms.cell.scaled_positions(atoms.positions) % 1.0, axis=0)
        gaps = np.diff(np.vstack([fractional, fractional[:1] + 1.0]), axis=0).max(axis=0)
        gaps = np.where(atoms.pbc, gaps * atoms.cell.lengths(), np.inf)
        if gaps.max() > _VACUUM:
            upright = int(np.argmax(gaps))
    axes = np.eye(3)[[(upright + 1) % 3, upright, (upright + 2) % 3]]
    axes[2] = np.cross(axes[0], axes[1])
    (a, b), (c, d) = ((np.cos(angle), np.sin(angle)) for angle in np.radians(_TURN))
    turn = np.array([[a, 0, b], [0, 1, 0], [-b, 0, a]])
    tilt = np.array([[1, 0, 0], [0, c, -d], [0, d, c]])
    return np.asarray(tilt @ turn @ axes)


def _extent(structures: list[Atoms], view: FloatArray) -> tuple[float, float]:
    points = np.vstack([np.vstack([atoms.positions, _corners(atoms)]) for atoms in structures])
    size = np.ptp(points @ view[:2].T, axis=0) + 2.0
    return float(size[0]), float(size[1])


def _corners(atoms: Atoms) -> FloatArray:
    """The cell's corners (8, 3), Å; none for a cluster, which has no cell."""
    if atoms.cell.rank < 3 or not atoms.pbc.any():
        return np.zeros((0, 3))
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    return np.asarray(corners @ atoms.cell.array + atoms.info["origin"])


def _draw(axes: Axes, atoms: Atoms, view: FloatArray, colors: list[Any], cell: Substructure) -> None:
    """Atoms as disks from back to front, bonds of molecules behind them, the cell's edges."""
    from ase.data import covalent_radii
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.patches import Circle

    from ideal.embedding.molecules import bonds

    seen = atoms.positions @ view.T
    radii = _RADIUS * np.asarray(covalent_radii)[atoms.numbers]
    order = np.argsort(seen[:, 2], kind="stable")
    corners = (_corners(atoms) @ view.T)[:, :2]
    if len(corners):
        edges = [(a, b) for a in range(8) for b in range(a) if bin(a ^ b).count("1") == 1]
        lines = [corners[[a, b]] for a, b in edges]
        axes.add_collection(LineCollection(lines, colors="#999999", linewidths=0.8, zorder=0))
    pairs: IntArray = bonds(np.asarray(atoms.numbers, dtype=np.int64), atoms.positions)
    if len(pairs):
        lines = [seen[pair, :2] for pair in pairs]
        axes.add_collection(LineCollection(lines, colors="#777777", linewidths=1.4, zorder=1))
    disks = [Circle(tuple(seen[k, :2]), radii[k]) for k in order]
    axes.add_collection(
        PatchCollection(
            disks,
            facecolors=[colors[k] for k in order],
            edgecolors=_LINE,
            linewidths=[1.8 if cell.core[k] else 0.4 for k in order],
            zorder=2,
        )
    )
    axes.plot(*seen[cell.center, :2], marker="+", color="black", markersize=9, zorder=3)
    points = np.vstack([seen[:, :2], corners])
    low, high = points.min(axis=0) - 1.2, points.max(axis=0) + 1.2
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.tick_params(labelsize=8)
