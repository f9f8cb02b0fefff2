"""``ideal-run check``: everything that can be known to be wrong, in seconds, before anything expensive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ideal.cli.run import ConfigArgument, SetOption, read_run_config

_MARKS = {
    "ok": ("ok", typer.colors.GREEN),
    "warning": ("warning", typer.colors.YELLOW),
    "problem": ("problem", typer.colors.RED),
}


def check(
    config: ConfigArgument = Path("config.yaml"),
    overrides: SetOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run directory; the default stands in the configuration.")
    ] = None,
) -> None:
    """Check a configuration, its files, the reference code and its workers before anything expensive.

    Nothing is written. The exit code is that of the first problem, 0 when the run can start.
    """
    from ideal.cli.preflight import findings

    settings = read_run_config(config, output, None, overrides)
    assert settings.output is not None
    _say("ok", "configuration", f"{config} is valid")
    exit_code = 0
    problems = warnings = 0
    for finding in findings(settings, settings.output):
        _say(finding.level, finding.topic, finding.text)
        if finding.level == "problem":
            problems += 1
            exit_code = exit_code or (finding.error.exit_code if finding.error else 2)
        warnings += finding.level == "warning"
    if problems:
        typer.echo(f"{problems} problem{'s' if problems > 1 else ''} to solve before the run can start.", err=True)
        raise typer.Exit(exit_code)
    extra = f" ({warnings} warning{'s' if warnings > 1 else ''})" if warnings else ""
    typer.echo(f"Ready{extra}. Start it with: ideal-run run {config}")


def _say(level: str, topic: str, text: str) -> None:
    """One line per finding; problems go to stderr."""
    word, color = _MARKS[level]
    problem = level == "problem"
    lines = text.splitlines() or [""]
    typer.secho(f"{word:<8}", fg=color, nl=False, err=problem)
    typer.echo(f"{topic}: {lines[0]}", err=problem)
    for line in lines[1:]:
        typer.echo(f"{'':<8}{line}", err=problem)
