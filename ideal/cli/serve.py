"""``ideal-run serve``: the learner behind ``fix ideal ... learn`` in a user's own LAMMPS script."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ideal.cli.failures import say_warning, use_run_directory
from ideal.cli.run import ConfigArgument, SetOption, conclude, is_served, read_run_config
from ideal.errors import ConfigError

if TYPE_CHECKING:
    from ideal.config import Config

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    context: typer.Context,
    config: ConfigArgument = Path("config.yaml"),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run directory; the default stands in the configuration.")
    ] = None,
    port: Annotated[int | None, typer.Option(metavar="N", min=0, max=65535, help="Port; 0: a free one.")] = None,
    host: Annotated[str | None, typer.Option(metavar="NAME", help="Address to listen on.")] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="End, with a final training, when the last LAMMPS has said good-bye.")
    ] = False,
    overrides: SetOption = None,
) -> None:
    """Learn for LAMMPS: label what `fix ideal ... learn` sends and send distribution and weights back.

    The configuration is that of a run, but LAMMPS moves the atoms: of its trajectories only the structures are used,
    for the initial data. Started again on the same run directory it goes on where it was. Ctrl-C ends it.
    """
    settings = read_run_config(config, output, None, overrides)
    directory = settings.output
    assert directory is not None
    if (directory / "config.yaml").is_file():
        if not is_served(directory):
            raise ConfigError(
                f"{directory}: holds a run that was not served; continue it with `ideal-run resume {directory}`, or "
                "name another folder with --output"
            )
        typer.echo(f"{directory} holds this run already: going on with it, as its own config.yaml says")
        serve_on(context, directory)
        return
    from ideal.cli.preflight import stop_at_problem
    from ideal.config import ServeConfig

    changes: dict[str, Any] = {"port": port, "host": host, "finish": finish or None}
    section = (settings.serve or ServeConfig()).model_copy(
        update={key: value for key, value in changes.items() if value is not None}
    )
    if section.host not in _LOOPBACK:
        say_warning(
            f"serve.host {section.host}: others can reach it, and token and data are not encrypted; an ssh tunnel to "
            "127.0.0.1 is safer"
        )
    settings = settings.model_copy(update={"serve": section})
    for warning in stop_at_problem(settings, directory):
        say_warning(warning)
    _drive(context, directory, settings)


def serve_on(context: typer.Context, directory: Path) -> None:
    """Go on with the served run in a folder."""
    _drive(context, directory, None)


def _drive(context: typer.Context, directory: Path, settings: Config | None) -> None:
    from rich.console import Console

    from ideal.cli.live import LiveView

    console = Console()
    typer.echo(f"Run directory: {directory}")
    with console.status("loading torch and the model"):
        from ideal.lammps.serve.served_run import ServedRun, served

    with LiveView(console, directory) as view:

        def listen(event: Any) -> None:
            view(event)
            values = event.as_dict()
            if values["event"] == "serving":
                _say_how(console, directory, values)

        if settings is not None:
            run = ServedRun.create(served(settings), directory, listener=listen)
        else:
            run = ServedRun.resume(directory, listener=listen)
        use_run_directory(context, directory, resume=f"ideal-run resume {shlex.quote(str(directory))}")
        summary = run.run()
    conclude(context, directory, summary)


def _say_how(console: Any, directory: Path, event: dict[str, Any]) -> None:
    """The words that a LAMMPS script needs."""
    from ideal.lammps.serve.token import TOKEN_FILE

    directory = directory.absolute()
    host = f"[{event['host']}]" if ":" in event["host"] else event["host"]
    elements = " ".join(event["elements"])
    threshold = 3.0 if event["threshold"] is None else event["threshold"]
    for line in (
        f"Serving on {host}:{event['port']}. In the LAMMPS script, elements in the order of its atom types:",
        f"fix learn all ideal 10 {_word(directory / 'uncertainty.safetensors')} {elements} threshold {threshold:.3g} &",
        f"    learn {host}:{event['port']} token-file {_word(directory / TOKEN_FILE)}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _word(path: Path) -> str:
    """A path as one word of a LAMMPS script."""
    return f'"{path}"' if " " in str(path) else str(path)
