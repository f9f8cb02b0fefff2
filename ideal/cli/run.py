"""``ideal-run run`` and ``ideal-run resume``: the loop with its live view, summary and report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ideal.cli.conclusion import summary_lines
from ideal.cli.failures import say_error, say_warning, use_run_directory
from ideal.errors import ConfigError, SamplerError

if TYPE_CHECKING:
    from ideal.config import Config
    from ideal.engine.summary import RunSummary

_INTERRUPTED = {"SIGINT": 130, "SIGTERM": 143}
_SIGNAL_NAMES = {"SIGINT": "Ctrl-C"}

ConfigArgument = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML file, or a folder that holds a config.yaml.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the configuration (a.b.0.c=value); may be repeated."
    ),
]


def run(
    context: typer.Context,
    config: ConfigArgument = Path("config.yaml"),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run directory; the default stands in the configuration.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Seed of every random number of the run.")
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Run the loop of a configuration: simulate, find what is uncertain, label it, learn it, go on.

    Ctrl-C stops it after the present step; `ideal-run resume DIR` continues.
    """
    from ideal.cli.preflight import stop_at_problem

    settings = read_run_config(config, output, seed, overrides)
    directory = settings.output
    assert directory is not None
    if settings.serve is not None:
        raise ConfigError(
            f"{config}: has a section serve, LAMMPS moves the atoms; start it with `ideal-run serve {config}`"
        )
    if (directory / "config.yaml").is_file():
        raise ConfigError(
            f"{directory}: holds a run already; continue it with `ideal-run resume {directory}`, or name another "
            "folder with --output"
        )
    for warning in stop_at_problem(settings, directory):
        say_warning(warning)
    _drive(context, directory, settings)


def resume(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Run directory.")],
) -> None:
    """Continue an interrupted run; finished labels are kept and none is asked for twice."""
    if is_served(directory):
        from ideal.cli.serve import serve_on

        serve_on(context, directory)
    else:
        _drive(context, directory, None)


def is_served(directory: Path) -> bool:
    """Whether the run in a folder is one of `ideal-run serve`."""
    from ideal.config import read_yaml

    file = directory / "config.yaml"
    content = read_yaml(file) if file.is_file() else None
    return isinstance(content, dict) and bool(content.get("serve"))


def read_run_config(config: Path, output: Path | None, seed: int | None, overrides: list[str] | None) -> Config:
    """The configuration of a new run, with its run directory filled in.

    Raises:
        ConfigError: as `ideal.config.load_config`.
    """
    from ideal.cli.settings import config_file, read_config

    extra = [] if seed is None else [f"seed={seed}"]
    settings = read_config(config, [*(overrides or []), *extra])
    if output is None:
        output = settings.output
    if output is None:
        file = config_file(config).resolve()
        output = Path("runs") / (file.parent.name if file.stem == "config" else file.stem)
    return settings.model_copy(update={"output": output.absolute()})


def _drive(context: typer.Context, directory: Path, settings: Config | None) -> None:
    """Run a new engine (``settings``) or continue an old one to its end, with view, summary and report."""
    from rich.console import Console

    from ideal.cli.live import LiveView

    console = Console()
    typer.echo(f"Run directory: {directory}")
    with console.status("loading torch and the model"):
        from ideal.engine.engine import Engine
    with LiveView(console, directory) as view:
        if settings is not None:
            engine = Engine.create(settings, directory, listener=view)
        else:
            engine = Engine.resume(directory, listener=view)
        use_run_directory(context, directory, resume=f"ideal-run resume {shlex.quote(str(directory))}")
        try:
            summary = engine.run()
        except SamplerError:  # every trajectory failed: the run is over, and its report shows how
            use_run_directory(context, directory)
            _report(directory)
            raise
    conclude(context, directory, summary)


def _report(directory: Path) -> None:
    from ideal.report import write_report

    typer.echo(f"Report: {write_report(directory)}")


def conclude(context: typer.Context, directory: Path, summary: RunSummary) -> None:
    """Print the summary, write the report, and leave with the exit code that the outcome asks for.

    Raises:
        typer.Exit: the run was interrupted.
        SamplerError: a trajectory failed.
    """
    for line in summary_lines(summary.as_dict()):
        typer.echo(line)
    if summary.status == "interrupted":
        command = summary.resume_command or f"ideal-run resume {directory}"
        word = _SIGNAL_NAMES.get(summary.stopped_by, summary.stopped_by)
        say_error(f"by {word}; nothing finished is lost, continue with: {command}", "stopped")
        raise typer.Exit(_INTERRUPTED.get(summary.stopped_by, 130))
    use_run_directory(context, directory)
    _report(directory)
    failed = [t for t in summary.trajectories if t.status == "failed"]
    if failed:
        raise SamplerError("\n".join(f"{t.name}: stopped at step {t.step}: {t.reason}" for t in failed))
