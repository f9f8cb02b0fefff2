"""A picture of an embedded cell: core, filler and added atoms in their own colors, the center in the middle."""

from __future__ import annotations

from pathlib import Path

from ideal.records import Provenance, Substructure

COLORS = {
    Provenance.CORE: "#d1495b",
    Provenance.KEPT: "#8d99ae",
    Provenance.MOVED: "#30638e",
    Provenance.ADDED: "#edae49",
    Provenance.CAP: "#e9ecef",
}
_NAMES = {
    Provenance.CORE: "core",
    Provenance.KEPT: "filler, kept",
    Provenance.MOVED: "filler, moved",
    Provenance.ADDED: "filler, added",
    Provenance.CAP: "hydrogen cap",
}
_RADIUS = 0.45
_VIEWS = (("along z", ""), ("along x", "-90x,-90y"))


def draw_substructure(cell: Substructure, path: Path) -> None:
    """Write a PNG (or any format of matplotlib that ``path`` names).

    Raises:
        OSError: the file cannot be written.
    """
    from ase.data import covalent_radii
    from ase.visualize.plot import plot_atoms
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from ideal.cli.output import replacing

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    atoms = cell.atoms.copy()
    atoms.translate(atoms.cell.array.sum(axis=0) / 2 - atoms.positions[cell.center])
    atoms.wrap()
    radii = _RADIUS * covalent_radii[atoms.numbers]
    provenance = [Provenance(int(value)) for value in cell.provenance]
    colors = [COLORS[value] for value in provenance]
    for number, (title, rotation) in enumerate(_VIEWS):
        axes = figure.add_subplot(1, len(_VIEWS), number + 1)
        plot_atoms(atoms, axes, radii=radii, colors=colors, rotation=rotation, show_unit_cell=2)
        axes.set(xlabel="Å", ylabel="Å", title=title)
    present = [value for value in Provenance if value in provenance]
    handles = [Patch(color=COLORS[value], label=f"{_NAMES[value]} ({provenance.count(value)})") for value in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
