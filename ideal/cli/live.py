"""The live view of a run: one line per trajectory and bars for labelling and training.

`LiveView` is a listener of the engine's events. On a terminal it redraws a small table in place; elsewhere (a pipe, a
log of a scheduler, CI) it prints plain lines: every change of state at once, plain progress at most every ten seconds.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ideal.cli.progress import ENDED, STAGES, RunProgress, TrajectoryProgress, read_progress
from ideal.report.words import audit_line, budget_sentence, threshold_line

_STATE_STYLES = {
    "running": "green",
    "labelling": "yellow",
    "training": "cyan",
    "finished": "bold green",
    "stopped": "green",
    "failed": "bold red",
}
_PLAIN_INTERVAL = 10.0


class EventLike(Protocol):
    """What the view needs of an `ideal.engine.events.Event`."""

    def as_dict(self) -> dict[str, Any]: ...


class LiveView:
    """Shows a run while it goes on; use as a context manager and pass it to the engine as its listener.

    Args:
        console: where to draw; it decides between redrawing and plain lines (``console.is_terminal``).
        run_directory: where a resumed run's earlier events stand; None: there are none.

    Example:
        >>> with LiveView(Console()) as view:  # doctest: +SKIP
        ...     Engine.create(config, path, listener=view).run()  # doctest: +SKIP
    """

    def __init__(self, console: Console, run_directory: Path | None = None) -> None:
        self.progress = RunProgress()
        self._run_directory = run_directory
        self._console = console
        self._start = time.monotonic()
        self._printed: dict[str, float] = {}
        self._live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=4) if console.is_terminal else None
        )

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: EventLike) -> None:
        values = event.as_dict()
        if values["event"] == "resumed" and self._run_directory is not None:
            # What came after the checkpoint is cut off by now and will happen again.
            self.progress = read_progress(self._run_directory)
        self.progress.apply(values)
        line = self._line(values)
        if line is not None:
            self._console.print(f"[dim]{elapsed(time.monotonic() - self._start)}[/dim] ", end="", highlight=False)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    # --- lines that stay ---

    def _line(self, event: dict[str, Any]) -> str | None:
        """The line that stays on the screen for an event; None: nothing worth a line."""
        name = event["event"]
        if name == "label_failed":
            return f"label {event['key'][:8]} failed: {event['cause']}"
        if name == "trajectory_restarted":
            return (
                f"{event['trajectory']}: back from step {event['step']} to {event['good_step']} "
                f"(setback {event['setbacks']} of {event['limit']}): {event['reason']}"
            )
        if name == "dynamics_stopped":
            return f"the dynamics ends: {event['reason']}"
        if name == "trajectory_failed":
            return f"{event['trajectory']}: stopped at step {event['step']}: {event['reason']}"
        if name == "embedded" and not event["accepted"]:
            where = f"{event['trajectory']}: step {event['step']}, atom {event['atom']}"
            return f"{where}: no acceptable cell: {event['reason']}"
        if name == "label_budget_spent":
            return budget_sentence(event)
        if name == "pretrained":
            return f"trained on {event['labels']} initial labels: {errors_text(event['after'])}"
        if name == "converged":
            outcome = f"put back: {event['reason']}" if event["rolled_back"] else errors_text(event["after"])
            return f"trained on all {event['labels']} labels: {outcome}"
        if (line := client_line(event)) is not None:
            return line
        return self._plain_line(event) if self._live is None else None

    def _plain_line(self, event: dict[str, Any]) -> str | None:
        name = event["event"]
        if name == "stage_started":
            return STAGES.get(event["stage"], event["stage"])
        if name == "resumed":
            return f"resumed from checkpoint {event['checkpoint']}"
        if name == "label_finished":
            counts = self.progress.label_counts()
            return f"label {event['key'][:8]} done in {event['seconds']:.1f} s ({counts_text(counts)})"
        if name == "training_epoch" and self._due(name):
            where = f"training: epoch {event['epoch']} of {event['epochs']}"
            return f"{where}, {errors_text({'energy': event['energy_mae'], 'force': event['force_mae']})}"
        if name == "updated":
            change = f"{errors_text(event['before'])} -> {errors_text(event['after'])}"
            if event.get("rolled_back"):
                change = f"put back because it did not help, {errors_text(event['after'])}"
            return f"{event['trajectory'] or 'model'}: learned {event['labels']} labels, {change}"
        if name == "calibrated":
            return "; ".join(filter(None, [threshold_line(event), audit_line(event)]))
        if name == "check":
            trajectory = self.progress.trajectory(event["trajectory"])
            if self._due(trajectory.name) or event["n_uncertain"]:
                return self._trajectory_line(trajectory)
        if name == "trajectory_finished":
            how = f": {event['conclusion']}" if event.get("conclusion") else ""
            return f"{event['trajectory']}: finished at step {event['step']}{how}"
        return None

    def _due(self, key: str) -> bool:
        now = time.monotonic()
        if now - self._printed.get(key, -_PLAIN_INTERVAL) < _PLAIN_INTERVAL:
            return False
        self._printed[key] = now
        return True

    def _trajectory_line(self, trajectory: TrajectoryProgress) -> str:
        cells = trajectory_cells(trajectory, self.progress)
        labels = counts_text(self.progress.label_counts(trajectory.name))
        return f"{cells[0]}: step {cells[2]}, {cells[3]}, {cells[4]}, max u/threshold {cells[5]}, labels {labels}"

    # --- the part that is redrawn ---

    def _render(self) -> RenderableType:
        progress = self.progress
        parts: list[RenderableType] = []
        head = STAGES.get(progress.stage, progress.stage) or ("finished" if progress.finished else "preparing")
        parts.append(Text(f"{elapsed(time.monotonic() - self._start)}  {head}", style="bold"))
        if progress.trajectories:
            parts.append(trajectory_table(progress))
        parts += [Text(line) for line in calibration_lines(progress)]
        counts = progress.batch_counts()
        if counts["running"]:
            total = sum(counts.values())
            parts.append(_bar("labels", total - counts["running"], total, counts_text(counts)))
        training = progress.training
        if training is not None and training.running:
            text = errors_text({"force": training.force_mae})
            parts.append(_bar("training", training.epoch, training.epochs, f"epochs of {training.phase}, {text}"))
        return Group(*parts)


def client_line(event: dict[str, Any]) -> str | None:
    """A line about a client of a served run; None for other events."""
    name = event["event"]
    if name == "client_connected":
        return f"{event['trajectory']}: {'back' if event['again'] else 'connected'} from {event['address']}"
    if name == "client_left":
        return f"{event['trajectory']}: left ({event['reason']})"
    if name == "client_refused":
        others = f", and {event['count'] - 1} more" if event["count"] > 1 else ""
        return f"refused {event['address']}: {event['reason']}{others}"
    if name == "client_answered":
        what = f"{event['learned']} labels learned" if event["learned"] else event["text"]
        return f"{event['trajectory']}: step {event['step']} answered, {what}"
    return None


def _bar(title: str, done: int, total: int, text: str) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_row(
        Text(f"{title:<8}"), ProgressBar(total=max(total, 1), completed=done, width=24), f"{done}/{total}", text
    )
    return row


def trajectory_table(progress: RunProgress) -> Table:
    """One row per trajectory: name, state, step, time, temperature, max u against the threshold, labels, restarts."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("name", overflow="fold")
    table.add_column("state", no_wrap=True)
    any_restarted = any(trajectory.restarts for trajectory in progress.trajectories.values())
    titles = [
        "step",
        "time",
        "T",
        "max u /\nthreshold",
        "labels: done/\nrunning/failed",
        *["re-\nstarts"] * any_restarted,
    ]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for trajectory in progress.trajectories.values():
        cells = trajectory_cells(trajectory, progress)
        over = (trajectory.max_u or 0.0) > (trajectory.threshold or float("inf"))
        table.add_row(
            cells[0],
            Text(cells[1], style=_STATE_STYLES.get(cells[1], "")),
            *cells[2:5],
            Text(cells[5], style="yellow" if over and trajectory.state not in ENDED else ""),
            cells[6],
            *[f"{trajectory.restarts or ''}"] * any_restarted,
        )
    return table


def trajectory_cells(trajectory: TrajectoryProgress, progress: RunProgress) -> list[str]:
    """The columns of `trajectory_table` for one trajectory, as text."""
    steps = "?" if trajectory.steps is None else str(trajectory.steps)
    counts = progress.label_counts(trajectory.name)
    return [
        trajectory.name,
        trajectory.state,
        f"{trajectory.step}/{steps}",
        duration_fs(trajectory.time_fs),
        "-" if trajectory.temperature is None else f"{trajectory.temperature:.0f} K",
        "-" if trajectory.max_u is None else f"{trajectory.max_u:.2f}/{trajectory.threshold or 0.0:.2f}",
        f"{counts['done']}/{counts['running']}/{counts['failed']}",
    ]


def calibration_lines(progress: RunProgress) -> list[str]:
    """What the threshold means, what the audits say, whether the label budget is spent; as much as is known."""
    lines = [threshold_line(progress.calibration), audit_line(progress.calibration)] if progress.calibration else []
    if progress.label_limit is not None:
        lines.append(f"label budget spent ({progress.label_limit}): uncertain atoms are no longer labelled")
    return [line for line in lines if line]


def counts_text(counts: dict[str, int]) -> str:
    """``3 done, 1 running, 0 failed``."""
    return ", ".join(f"{number} {state}" for state, number in counts.items())


def errors_text(errors: dict[str, Any]) -> str:
    """Mean absolute errors with their units; a missing one is left out."""
    units = {"energy": ("eV/atom", 4), "force": ("eV/Å", 3), "stress": ("GPa", 2)}
    parts = []
    for key, value in errors.items():
        name = key.removesuffix("_mae")
        if name in units and value is not None:
            unit, digits = units[name]
            parts.append(f"{name} {value:.{digits}f} {unit}")
    return "MAE " + ", ".join(parts) if parts else "no errors known"


def duration_fs(time_fs: float | None) -> str:
    """Simulated time as text.

    Example:
        >>> duration_fs(1250.0)
        '1.25 ps'
    """
    if time_fs is None:
        return "-"
    if time_fs >= 1e6:
        return f"{time_fs / 1e6:.3g} ns"
    return f"{time_fs / 1e3:.3g} ps" if time_fs >= 1e3 else f"{time_fs:.4g} fs"


def elapsed(seconds: float) -> str:
    """Wall time as minutes and seconds, with hours once there are any.

    Example:
        >>> elapsed(75)
        '01:15'
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
