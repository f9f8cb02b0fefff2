"""What a run is doing, folded from its events: the state behind the live view and ``ideal-run status``.

`RunProgress.apply` takes one event as the dictionary that ``events.jsonl`` holds, so the same code follows a running
engine and reads a finished run back. Unknown events are ignored: a newer engine may tell more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STAGES = {
    "generate": "moving the starting structures",
    "initial_labels": "labelling the initial structures",
    "pretrain": "training on the initial data",
    "distribution": "building the distribution",
    "dynamics": "dynamics",
    "final_audit": "auditing the last stretch",
    "final_training": "training on all labels",
    "evaluation": "evaluating on the held-out frames",
}
ENDED = ("finished", "failed")


@dataclass
class TrajectoryProgress:
    """One trajectory. Energies in eV, time in fs, temperature in K; None: not known yet.

    Attributes:
        state: not started, running, labelling (waits for its labels), training, finished, stopped (by a rule), failed.
        restarts: how often it went back to a good state; ``reason`` says why it did last, or why it failed.
        conclusion: how a search or a ladder ended.
    """

    name: str
    steps: int | None = None
    state: str = "not started"
    step: int = 0
    time_fs: float | None = None
    temperature: float | None = None
    max_u: float | None = None
    threshold: float | None = None
    restarts: int = 0
    reason: str = ""
    conclusion: str = ""


@dataclass
class LabelProgress:
    """One reference calculation: state is running, done or failed."""

    key: str
    trajectory: str
    state: str = "running"
    seconds: float | None = None
    cause: str = ""


@dataclass
class TrainingProgress:
    """The training that goes on, or the last one."""

    phase: str
    epoch: int
    epochs: int
    energy_mae: float | None
    force_mae: float | None
    running: bool = True


@dataclass
class RunProgress:
    """The whole run.

    Attributes:
        trajectories: by name.
        labels: by key.
        batch: keys of the labels asked for since none was running: what a progress bar should count.
        refused: embedded cells that were refused, as (trajectory, step, atom, reason).
        calibration: the last "calibrated" event; empty: there is none.
        label_limit: engine.max_labels once it is spent.
        stopped: the stop rule that ended the dynamics, in words; empty: none has.
    """

    trajectories: dict[str, TrajectoryProgress] = field(default_factory=dict)
    labels: dict[str, LabelProgress] = field(default_factory=dict)
    batch: set[str] = field(default_factory=set)
    refused: list[tuple[str, int, int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    calibration: dict[str, Any] = field(default_factory=dict)
    label_limit: int | None = None
    stopped: str = ""
    stage: str = ""
    training: TrainingProgress | None = None
    updates: int = 0
    started: float | None = None
    last: float | None = None
    finished: bool = False
    summary: dict[str, Any] = field(default_factory=dict)
    resumed: int = 0

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take one event in."""
        self.last = event.get("time", self.last)
        if self.started is None:
            self.started = self.last
        handler = _HANDLERS.get(event.get("event", ""))
        if handler is not None:
            handler(self, event)

    def trajectory(self, name: str) -> TrajectoryProgress:
        """The trajectory of that name, made when it is new."""
        return self.trajectories.setdefault(name, TrajectoryProgress(name))

    def label_counts(self, trajectory: str | None = None) -> dict[str, int]:
        """Labels done, running and failed: of one trajectory ("": the initial data), or all."""
        return _count(label for label in self.labels.values() if trajectory is None or label.trajectory == trajectory)

    def batch_counts(self) -> dict[str, int]:
        """Labels done, running and failed of the present batch."""
        return _count(self.labels[key] for key in self.batch if key in self.labels)


def _count(labels: Iterable[LabelProgress]) -> dict[str, int]:
    counts = {"done": 0, "running": 0, "failed": 0}
    for label in labels:
        counts[label.state] += 1
    return counts


# --- one function per event -------------------------------------------------------------------------------------------


def _run_started(run: RunProgress, event: Mapping[str, Any]) -> None:
    for name, steps in event.get("trajectories", {}).items():
        trajectory = run.trajectory(name)
        trajectory.steps = trajectory.steps or steps


def _resumed(run: RunProgress, event: Mapping[str, Any]) -> None:
    run.resumed += 1
    run.finished = False
    run.stopped = ""
    run.training = None
    run.labels = {key: label for key, label in run.labels.items() if label.state != "running"}
    for name, step in event.get("steps", {}).items():
        trajectory = run.trajectory(name)
        trajectory.step = step
        trajectory.state = "finished" if trajectory.state == "finished" and step == trajectory.steps else "running"


def _stage_started(run: RunProgress, event: Mapping[str, Any]) -> None:
    run.stage = event["stage"]


def _stage_finished(run: RunProgress, event: Mapping[str, Any]) -> None:
    if run.stage == event["stage"]:
        run.stage = ""


def _pretrained(run: RunProgress, event: Mapping[str, Any]) -> None:
    if run.training is not None:
        run.training.running = False


def _training_epoch(run: RunProgress, event: Mapping[str, Any]) -> None:
    run.training = TrainingProgress(
        event["phase"], event["epoch"], event["epochs"], event.get("energy_mae"), event.get("force_mae")
    )
    if event.get("trajectory"):
        run.trajectory(event["trajectory"]).state = "training"


def _check(run: RunProgress, event: Mapping[str, Any]) -> None:
    run.stage = "dynamics"
    trajectory = run.trajectory(event["trajectory"])
    trajectory.state = "running"
    for key in ("step", "time_fs", "temperature", "max_u", "threshold"):
        setattr(trajectory, key, event[key])
    if trajectory.max_u is None:  # what JSON has no number for: a species that was never seen
        trajectory.max_u = math.inf


def _embedded(run: RunProgress, event: Mapping[str, Any]) -> None:
    if not event["accepted"]:
        run.refused.append((event["trajectory"], event["step"], event["atom"], event["reason"]))


def _label_submitted(run: RunProgress, event: Mapping[str, Any]) -> None:
    name = event.get("trajectory", "")
    if not run.label_counts()["running"]:
        run.batch = set()
    run.batch.add(event["key"])
    run.labels[event["key"]] = LabelProgress(event["key"], name)
    if name and event.get("purpose") != "audit":  # an audited cell may come from a trajectory that moves on
        run.trajectory(name).state = "labelling"


def _label_finished(run: RunProgress, event: Mapping[str, Any]) -> None:
    label = run.labels.setdefault(event["key"], LabelProgress(event["key"], event.get("trajectory", "")))
    label.state, label.seconds = "done", event.get("seconds")


def _label_failed(run: RunProgress, event: Mapping[str, Any]) -> None:
    label = run.labels.setdefault(event["key"], LabelProgress(event["key"], event.get("trajectory", "")))
    label.state, label.cause = "failed", event.get("cause", "")


def _store_rescued(run: RunProgress, event: Mapping[str, Any]) -> None:
    run.notes.append(event["text"])


def _updated(run: RunProgress, event: Mapping[str, Any]) -> None:
    run.updates += 1
    if run.training is not None:
        run.training.running = False
    for name in filter(None, (event.get("trajectory"), *event.get("others", {}))):
        if run.trajectory(name).state not in ENDED:
            run.trajectory(name).state = "running"


def _calibrated(run: RunProgress, event: Mapping[str, Any]) -> None:
    run.calibration = dict(event)


def _label_budget_spent(run: RunProgress, event: Mapping[str, Any]) -> None:
    run.label_limit = event.get("limit")


def _client_connected(run: RunProgress, event: Mapping[str, Any]) -> None:
    run.stage = "dynamics"
    trajectory = run.trajectory(event["trajectory"])
    trajectory.steps = event.get("steps") or trajectory.steps
    if trajectory.state in ("not started", *ENDED):
        trajectory.state = "running"


def _trajectory_restarted(run: RunProgress, event: Mapping[str, Any]) -> None:
    trajectory = run.trajectory(event["trajectory"])
    trajectory.state, trajectory.reason = "running", event["reason"]
    trajectory.step = event["good_step"]
    trajectory.restarts += 1


def _dynamics_stopped(run: RunProgress, event: Mapping[str, Any]) -> None:
    run.stopped = event["reason"]


def _trajectory_finished(run: RunProgress, event: Mapping[str, Any]) -> None:
    trajectory = run.trajectory(event["trajectory"])
    trajectory.state, trajectory.step = "finished", event.get("step", trajectory.step)
    trajectory.conclusion = event.get("conclusion", "")


def _trajectory_failed(run: RunProgress, event: Mapping[str, Any]) -> None:
    trajectory = run.trajectory(event["trajectory"])
    trajectory.state, trajectory.reason = "failed", event["reason"]
    trajectory.step = event.get("step", trajectory.step)


def _run_finished(run: RunProgress, event: Mapping[str, Any]) -> None:
    run.finished = True
    run.stage = ""
    for trajectory in run.trajectories.values():
        if run.stopped and trajectory.state not in ENDED:
            trajectory.state = "stopped"
    run.summary = dict(event.get("summary") or {})


_HANDLERS: dict[str, Callable[[RunProgress, Mapping[str, Any]], None]] = {
    "run_started": _run_started,
    "resumed": _resumed,
    "stage_started": _stage_started,
    "stage_finished": _stage_finished,
    "pretrained": _pretrained,
    "converged": _pretrained,
    "training_epoch": _training_epoch,
    "check": _check,
    "embedded": _embedded,
    "label_submitted": _label_submitted,
    "label_finished": _label_finished,
    "label_failed": _label_failed,
    "store_rescued": _store_rescued,
    "updated": _updated,
    "calibrated": _calibrated,
    "label_budget_spent": _label_budget_spent,
    "client_connected": _client_connected,
    "trajectory_restarted": _trajectory_restarted,
    "dynamics_stopped": _dynamics_stopped,
    "trajectory_finished": _trajectory_finished,
    "trajectory_failed": _trajectory_failed,
    "run_finished": _run_finished,
}


# --- reading a run directory ------------------------------------------------------------------------------------------


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of an ``events.jsonl``; a last line that is still being written is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield json.loads(line)


def read_progress(run_directory: Path) -> RunProgress:
    """The progress that the events of a run directory tell; the planned steps come from its configuration."""
    progress = RunProgress()
    for name, steps in _planned_steps(run_directory / "config.yaml").items():
        progress.trajectory(name).steps = steps
    for event in read_events(run_directory / "events.jsonl"):
        progress.apply(event)
    return progress


def _planned_steps(config: Path) -> dict[str, int]:
    """Steps by trajectory, as the resolved configuration of a run names them."""
    from ideal.config import read_yaml

    if not config.is_file():
        return {}
    content = read_yaml(config) or {}
    trajectories = [] if content.get("serve") else content.get("trajectories", [])  # clients tell theirs
    return {item["name"]: item["sampler"]["steps"] for item in trajectories}
