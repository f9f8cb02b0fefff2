"""``ideal-run converge``: how fine the reference code's cutoff and k-points must be, on the user's own structure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ideal.cli.run import ConfigArgument, SetOption
from ideal.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from ideal.labelling.convergence import Point, Series, Tolerance

_MILLI = 1000.0


def converge(
    config: ConfigArgument = Path("config.yaml"),
    structure: Annotated[
        Path | None, typer.Option("--structure", help="Structure file; the default is the first trajectory's.")
    ] = None,
    energy: Annotated[str, typer.Option(metavar="E", help="Tolerance of the energy per atom.")] = "2 meV",
    force: Annotated[str, typer.Option(metavar="F", help="Tolerance of every force.")] = "10 meV/angstrom",
    stress: Annotated[str, typer.Option(metavar="S", help="Tolerance of every stress component.")] = "0.5 GPa",
    rattle: Annotated[
        float, typer.Option(metavar="A", min=0.0, help="Displace the atoms by this much (Å) first; 0: not at all.")
    ] = 0.05,
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Also compare the cell with its repeats: the scatter between cell sizes.")
    ] = False,
    max_atoms: Annotated[int, typer.Option(metavar="N", min=1, help="Refuse larger structures.")] = 64,
    overrides: SetOption = None,
) -> None:
    """Converge cutoff and k-points of the reference code on a structure and recommend settings.

    One setting is varied at a time around its configured value; every calculation is compared with the finest of its
    series. Atoms are displaced a little, since a perfect crystal has no forces to converge.
    """
    from ideal.cli.settings import read_config
    from ideal.labelling import convergence
    from ideal.quantities import parse_quantity

    settings = read_config(config, overrides or [])
    try:
        tolerance = convergence.Tolerance(
            parse_quantity(energy, "energy"), parse_quantity(force, "force"), parse_quantity(stress, "pressure")
        )
    except ValueError as error:
        raise ConfigError(f"a tolerance: {error}") from None
    atoms = _structure(structure or settings.trajectories[0].structure, max_atoms, rattle)
    code = settings.labelling.code
    typer.echo(f"{code.type} on {atoms.get_chemical_formula()} ({len(atoms)} atoms)")
    for series in convergence.converge(code, atoms, tolerance, progress=_tell):
        _show(series, tolerance)
    if sizes:
        repeats = _repeats(atoms, max_atoms)
        points = []
        for point in convergence.cell_sizes(code, atoms, repeats):
            _tell("cell", point)
            points.append(point)
        _table("The same matter in cells of different sizes", "atoms", points, tolerance, grid=True)


def _structure(path: Path, max_atoms: int, rattle: float) -> Atoms:
    import numpy as np

    from ideal.dataset.files import read_structures

    atoms = read_structures(path)[0]
    if len(atoms) > max_atoms:
        raise ConfigError(
            f"{path}: {len(atoms)} atoms are more than --max-atoms {max_atoms}; give a small cell of the same matter "
            "with --structure (settings converge with the matter, not with the size), or raise the limit"
        )
    if rattle:
        atoms.positions += np.random.default_rng(0).normal(0.0, rattle, atoms.positions.shape)
    return atoms


def _repeats(atoms: Atoms, max_atoms: int) -> list[tuple[int, int, int]]:
    """The cell, then doubled along its periodic axes one after the other while small enough."""
    repeat, found = [1, 1, 1], [(1, 1, 1)]
    for axis in range(3):
        if atoms.pbc[axis] and 2 * len(atoms) * repeat[0] * repeat[1] * repeat[2] <= max_atoms:
            repeat[axis] = 2
            found.append((repeat[0], repeat[1], repeat[2]))
    return found


def _tell(setting: str, point: Point) -> None:
    """One line per calculation, on standard error: the tables are what the command prints."""
    detail = f" ({point.detail})" if point.detail else ""
    result = point.cause or f"{point.energy:.5f} eV/atom"
    typer.echo(f"  {setting} {point.value:g}{detail}: {result}, {point.seconds:.1f} s", err=True)


def _show(series: Series, tolerance: Tolerance) -> None:
    grid = bool(series.points[0].detail)
    _table(f"{series.setting} ({series.unit})", series.setting, list(series.points), tolerance, grid)
    limits = (
        f"{_MILLI * tolerance.energy:g} meV/atom, {_MILLI * tolerance.force:g} meV/Å, {_gpa(tolerance.stress):.2g} GPa"
    )
    finest = series.points[-1].value
    if series.recommended is None:
        typer.echo(f"Not converged within {limits}: try again with labelling.code.{series.setting} above {finest:g}.\n")
        return
    judgement = "is enough" if series.recommended <= series.configured else "is too small"
    typer.echo(
        f"Recommended: labelling.code.{series.setting}: {series.recommended:g}  (within {limits}; the configured "
        f"{series.configured:g} {judgement})\n"
    )


def _table(title: str, first: str, points: list[Point], tolerance: Tolerance, grid: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(first, justify="right")
    if grid:
        table.add_column("k-points")
    for name in ("E (eV/atom)", "dE (meV/atom)", "dF (meV/Å)", "dS (GPa)", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for point in points:
        cells: list[Any] = [f"{point.value:g}", *([point.detail] if grid else [])]
        if point.energy is None:
            table.add_row(*cells, "failed", "", "", "", f"{point.seconds:.1f}", point.cause[:60])
            continue
        cells.append(f"{point.energy:.5f}")
        changes = (point.energy_change, point.force_change)
        cells += ["" if change is None else f"{_MILLI * change:.2f}" for change in changes]
        cells.append("" if point.stress_change is None else f"{_gpa(point.stress_change):.3f}")
        mark = "reference" if point.energy_change is None else "ok" if point.within(tolerance) else ""
        table.add_row(*cells, f"{point.seconds:.1f}", mark)
    Console(width=110, highlight=False).print(table)


def _gpa(value: float) -> float:
    from ase.units import GPa

    return float(value / GPa)
