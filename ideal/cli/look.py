"""``ideal-run status``, ``report`` and ``score``: looking at a run and at trajectories."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ideal.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from ideal.cli.progress import RunProgress
    from ideal.records import FloatArray

_Row = TypeVar("_Row")

DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Run directory.")]
UncertaintyOption = Annotated[
    Path,
    typer.Option("--uncertainty", "-u", help="Distribution of known environments: uncertainty.safetensors of a run."),
]
_SHOWN = 5
"""Restarts, failures and refusals that `status` shows of each kind on a terminal."""

_WIDE = 200
"""Columns where the output is no terminal."""

EverythingOption = Annotated[
    bool, typer.Option("--all", "-a", help="Every restart, failure and refusal; so where the output is no terminal.")
]


def status(directory: DirectoryArgument, everything: EverythingOption = False) -> None:
    """Show where a run stands: trajectories, labels, failures, last sign of life. Works while it runs."""
    from rich.console import Console

    from ideal.cli.live import calibration_lines, counts_text, trajectory_table
    from ideal.cli.progress import STAGES, read_progress
    from ideal.engine.run_directory import lock_holder

    _require_run(directory)
    progress = read_progress(directory)
    process = lock_holder(directory)
    typer.echo(f"{directory}: {_state(progress, process, directory)}")
    if progress.stopped and not progress.finished:
        typer.echo(f"The dynamics has ended: {progress.stopped}")
    if process is not None and progress.stage:
        typer.echo(f"Now: {STAGES.get(progress.stage, progress.stage)}")
    if progress.trajectories:
        console = Console()
        if not console.is_terminal:
            console, everything = Console(width=max(console.width, _WIDE)), True
        console.print(trajectory_table(progress))
    initial = progress.label_counts("")
    if any(initial.values()):
        typer.echo(f"Labels of the initial structures: {counts_text(initial)}")
    typer.echo(f"Labels in all: {counts_text(progress.label_counts())}; updates of the model: {progress.updates}")
    for line in calibration_lines(progress):
        typer.echo(line[:1].upper() + line[1:])
    for text in progress.notes:
        typer.echo(f"Note: {text}")
    _failures(progress, directory, None if everything else _SHOWN)
    if progress.last is not None:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(progress.last))
        typer.echo(f"Last event: {when} ({_ago(time.time() - progress.last)} ago)")
    if progress.finished and progress.summary:
        from ideal.cli.conclusion import summary_lines

        for line in summary_lines(progress.summary):
            typer.echo(line)


def _require_run(directory: Path) -> None:
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such folder; name the folder of a run")
    if not (directory / "events.jsonl").is_file():
        raise ConfigError(f"{directory}: holds no run (no events.jsonl); name the folder of a run")


def _state(progress: RunProgress, process: int | None, directory: Path) -> str:
    if process is not None:
        return f"running (process {process})"
    if progress.finished and progress.summary.get("status", "finished") == "finished":
        failed = any(trajectory.state == "failed" for trajectory in progress.trajectories.values())
        return "finished, with failed trajectories" if failed else "finished"
    return f"stopped; continue with: ideal-run resume {directory}"


def _failures(progress: RunProgress, directory: Path, shown: int | None) -> None:
    from ideal.cli.failed_labels import failed_labels, failure_lines

    for trajectory in progress.trajectories.values():
        if trajectory.state == "failed":
            typer.echo(f"Trajectory {trajectory.name} failed at step {trajectory.step}: {trajectory.reason}")
        elif trajectory.conclusion:
            typer.echo(f"Trajectory {trajectory.name} ended at step {trajectory.step}: {trajectory.conclusion}")
    restarted = [t for t in progress.trajectories.values() if t.restarts and t.state != "failed"]
    for trajectory in restarted[:shown]:
        times = "once" if trajectory.restarts == 1 else f"{trajectory.restarts} times"
        typer.echo(f"Trajectory {trajectory.name} went back to a good state {times}, last: {trajectory.reason}")
    failed = [label for label in progress.labels.values() if label.state == "failed"]
    stored = failed_labels(directory)
    for line in failure_lines(stored, directory):
        typer.echo(line)
    known = {failure.key for failure in stored}  # one that today's gate refuses of a shared store is told, not stored
    untold = [label for label in failed if label.key not in known]
    for label in _last(untold, shown):
        typer.echo(f"Label {label.key[:8]} failed ({label.trajectory or 'initial data'}): {label.cause}")
    for name, step, atom, reason in _last(progress.refused, shown):
        typer.echo(f"No cell for atom {atom} of {name} at step {step}: {reason}")
    more = sum(len(kind) - len(_last(kind, shown)) for kind in (restarted, untold, progress.refused))
    if more:
        typer.echo(f"and {more} more; --all shows them")


def _last(rows: Sequence[_Row], number: int | None) -> Sequence[_Row]:
    return rows if number is None else rows[-number:]


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def report(directory: DirectoryArgument) -> None:
    """Write report.html and its figures from what a run has left so far."""
    from ideal.report import write_report

    _require_run(directory)
    typer.echo(f"Report: {write_report(directory)}")


def score(
    trajectory: Annotated[Path, typer.Argument(metavar="TRAJECTORY", help="Frames in any format that ASE reads.")],
    uncertainty: UncertaintyOption,
    threshold: Annotated[float, typer.Option(metavar="U", help="u above which an atom counts as uncertain.")] = 2.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the frames with u of every atom (extended XYZ).")
    ] = None,
    table: Annotated[Path | None, typer.Option("--csv", help="Write frame, atom, element and u as CSV.")] = None,
    every: Annotated[int, typer.Option(metavar="N", min=1, help="Score every n-th frame.")] = 1,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads of the C++ core.")] = 1,
) -> None:
    """Score the uncertainty u of every atom of a trajectory.

    u is 1 on average over what the distribution was learned from. An element that its descriptor does not know ends
    the command with exit code 3.
    """
    from ideal.dataset.files import read_structures
    from ideal.uncertainty.mahalanobis import SoapMahalanobis

    frames = read_structures(trajectory)[::every]
    distribution = SoapMahalanobis.load(existing_file(uncertainty, "--uncertainty"), threads=threads)
    typer.echo(
        f"{'frame':>6} {'atoms':>7} {'mean u':>9} {'max u':>9} {'of atom':>8} {'above ' + format(threshold, 'g'):>9}"
    )
    scores = []
    for number, atoms in enumerate(frames):
        u = distribution.atomic(atoms)
        scores.append(u)
        worst = int(u.argmax())
        typer.echo(
            f"{number * every:>6} {len(atoms):>7} {u.mean():>9.3f} {u[worst]:>9.3f} "
            f"{f'{atoms.symbols[worst]}{worst}':>8} {int((u > threshold).sum()):>9}"
        )
    if output is not None:
        _write_scored(output, frames, scores)
    if table is not None:
        _write_csv(table, frames, scores, every)


def existing_file(path: Path, option: str) -> Path:
    """``path``, which must be a file.

    Raises:
        ConfigError: it is not.
    """
    if not path.is_file():
        raise ConfigError(f"{option} {path}: no such file; a run keeps one as DIR/uncertainty.safetensors")
    return path


def _write_scored(path: Path, frames: list[Atoms], scores: list[FloatArray]) -> None:
    import numpy as np

    from ideal.cli.output import write_text
    from ideal.dataset.extxyz import format_frame

    texts = []
    for atoms, u in zip(frames, scores, strict=True):
        info = {
            key: value for key, value in atoms.info.items() if isinstance(value, bool | int | float | str | np.generic)
        }
        texts.append(format_frame(atoms, info, {"u": u}))
    write_text(path, "".join(texts))
    typer.echo(f"Wrote {path}.")


def _write_csv(path: Path, frames: list[Atoms], scores: list[FloatArray], every: int) -> None:
    from ideal.cli.output import replacing

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "atom", "element", "u"])
        for number, (atoms, u) in enumerate(zip(frames, scores, strict=True)):
            writer.writerows(
                [number * every, index, symbol, f"{value:.6g}"]
                for index, (symbol, value) in enumerate(zip(atoms.get_chemical_symbols(), u, strict=True))
            )
    typer.echo(f"Wrote {path}.")
