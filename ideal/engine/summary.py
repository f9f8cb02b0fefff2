"""What a run tells when it is over, or when it was interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ideal.engine.counters import LabelCounters
from ideal.engine.events import plain
from ideal.engine.journal import Journal
from ideal.engine.learner import Learner
from ideal.engine.trajectory import Trajectory

Outcome = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True)
class TrajectorySummary:
    """How one trajectory ended.

    Attributes:
        name: name of the trajectory.
        status: running, waiting, finished or failed.
        step: MD steps taken.
        reason: why it failed, or went back last.
        restarts: how often it went back to a good state.
        conclusion: how a search or a ladder ended.
    """

    name: str
    status: str
    step: int
    reason: str = ""
    restarts: int = 0
    conclusion: str = ""


@dataclass(frozen=True)
class RunSummary:
    """The outcome of `ideal.engine.engine.Engine.run`.

    Errors are ``energy_mae`` (eV/atom), ``force_mae`` (eV/Å) and ``stress_mae`` (GPa).

    Attributes:
        status: "finished"; "failed" when every trajectory failed; "interrupted" by Ctrl-C or SIGTERM
            (`resume_command` continues).
        directory: the run directory.
        labels: counts of labels.
        trajectories: one entry each.
        steps: MD steps taken, all trajectories together.
        updates: how often the model learned.
        threshold: u above which an atom counted as uncertain.
        wall_seconds: wall time of all sessions.
        stage_seconds: wall time by stage (`ideal.engine.timing.STAGES`), all sessions.
        held_out_before: errors of the pretrained model on the held-out file; None without such a file.
        held_out_after: errors of the final model on it.
        calibration: content of ``calibration.json`` (`ideal.engine.calibrating.Calibrator.as_dict`); None when the run
            was interrupted before it had learned anything.
        model_fingerprint: hash of the final weights.
        resume_command: what continues an interrupted run.
        stopped_by: "SIGINT" or "SIGTERM" when interrupted.
        ended_by: the stop rule that ended the dynamics, in words; empty where every step was taken.
    """

    status: Outcome
    directory: Path
    labels: LabelCounters
    trajectories: tuple[TrajectorySummary, ...]
    steps: int
    updates: int
    threshold: float | None
    wall_seconds: float
    stage_seconds: Mapping[str, float]
    held_out_before: Mapping[str, float | None] | None = None
    held_out_after: Mapping[str, float | None] | None = None
    calibration: Mapping[str, Any] | None = None
    model_fingerprint: str = ""
    resume_command: str = ""
    stopped_by: str = ""
    ended_by: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        values = plain(asdict(self))
        return {**values, "directory": str(self.directory)}


def summarize(
    status: Outcome,
    journal: Journal,
    learner: Learner | None,
    trajectories: Sequence[Trajectory],
    calibration: Mapping[str, Any] | None,
    stopped_by: str = "",
    ended_by: str = "",
) -> RunSummary:
    """The summary of a run as it stands.

    Args:
        status: how the session ended.
        journal: counts, times, run directory.
        learner: None when the run was interrupted before it had learned anything.
        trajectories: all of them.
        calibration: what ``calibration.json`` holds.
        stopped_by: name of the signal that interrupted it.
        ended_by: why the dynamics was over before its last step.
    """
    finished = status != "interrupted"
    path = journal.directory.path
    before = journal.directory.read_json("held_out_before.json")
    after = journal.directory.read_json("held_out_after.json") if finished else None
    return RunSummary(
        status=status,
        directory=path,
        labels=replace(journal.counters),
        trajectories=tuple(
            TrajectorySummary(t.name, t.status.value, t.step, t.reason, t.restarts, t.conclusion) for t in trajectories
        ),
        steps=sum(trajectory.step for trajectory in trajectories),
        updates=learner.updates if learner else 0,
        threshold=learner.threshold if learner else None,
        wall_seconds=journal.times.wall,
        stage_seconds=dict(journal.times.seconds),
        held_out_before=before and before["mae"],
        held_out_after=after and after["mae"],
        calibration=calibration,
        model_fingerprint=learner.potential.fingerprint() if learner else "",
        resume_command="" if finished else f"ideal-run resume {path}",
        stopped_by=stopped_by,
        ended_by=ended_by,
    )
