"""The event log of a run (``events.jsonl``) as typed records.

A log may be short: the run goes on, or was interrupted within a line. What is there counts; an event that occurs twice
(same frame, same atom, same label) counts once, the later one wins. A step that a trajectory comes to again after going
back is another frame.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ideal.records import BoolArray, FloatArray, IntArray

STAGES = {
    "md": "molecular dynamics",
    "uncertainty": "uncertainty",
    "dynamics": "dynamics and uncertainty",
    "embedding": "embedding",
    "labelling_wait": "waiting for labels",
    "training": "training",
    "evaluation": "evaluation on held-out data",
    "io": "files and checkpoints",
    "other": "start-up and other",
}
"""Where wall time goes, in the words of the report."""

_STAGE_OF_EVENT = {
    "check": "dynamics",
    "trajectory_finished": "dynamics",
    "trajectory_failed": "dynamics",
    "embedded": "embedding",
    "label_finished": "labelling_wait",
    "label_failed": "labelling_wait",
    "updated": "training",
    "calibrated": "training",
    "pretrained": "training",
    "converged": "training",
    "checkpoint": "io",
}
_STAGE_OF_START_UP = {
    "generate": "md",
    "initial_labels": "labelling_wait",
    "pretrain": "training",
    "distribution": "uncertainty",
    "final_audit": "labelling_wait",
    "final_training": "training",
    "evaluation": "evaluation",
}


@dataclass(frozen=True)
class Errors:
    """Mean absolute errors; NaN where there is no reference value. Units: eV/atom, eV/Å, GPa."""

    energy: float
    force: float
    stress: float

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> Errors:
        """From a mapping with ``energy_mae``, ``force_mae``, ``stress_mae``."""
        values = values or {}
        return cls(*(number(values.get(f"{name}_mae")) for name in ("energy", "force", "stress")))


@dataclass(frozen=True)
class Trace:
    """What the checks saw along one trajectory; all arrays (n_checks,).

    Attributes:
        steps, times: step, fs; the steps stand for times where `timeless`.
        timeless: its steps take no time (searches, Monte Carlo).
        temperature, potential_energy, kinetic_energy, volume: K, eV, eV, Å³ (NaN where the cell is open).
        max_u, threshold: largest uncertainty of the frame and what it was held against.
        n_uncertain: atoms above the threshold.
        asked: true where at least one label was asked for.
    """

    steps: IntArray
    times: FloatArray
    timeless: bool
    temperature: FloatArray
    potential_energy: FloatArray
    kinetic_energy: FloatArray
    volume: FloatArray
    max_u: FloatArray
    threshold: FloatArray
    n_uncertain: IntArray
    asked: BoolArray


@dataclass(frozen=True)
class Cell:
    """One attempt to embed an atom."""

    trajectory: str
    step: int
    atom: int
    accepted: bool
    reason: str
    n_atoms: int
    max_u: float
    seconds: float
    key: str


@dataclass(frozen=True)
class LabelRecord:
    """One label that was asked for; ``trajectory`` is empty for the initial data, ``state`` waiting, done or failed."""

    key: str
    trajectory: str
    step: int
    n_atoms: int
    state: str
    seconds: float
    cause: str


@dataclass(frozen=True)
class Update:
    """One update of the model; errors on its new labels before and after. One that did not help is rolled back."""

    trajectory: str
    step: int
    labels: int
    before: Errors
    after: Errors
    seconds: float
    rolled_back: bool


@dataclass(frozen=True)
class RunLog:
    """Everything the event log says.

    Attributes:
        traces: what the checks saw, by trajectory.
        cells, labels, updates: in the order of their first event.
        started, ended: unix seconds of the first and last event; NaN for an empty log.
        stage_seconds: wall time by key of `STAGES`, each span attributed to the event that ended it; time between
            an interruption and its resumption is left out.
        resumed: how often the run was resumed.
        finished: whether the run came to its end.
        failed_trajectories: reason by trajectory.
        conclusions: how those ended that have something to say about it.
        restarts: the "trajectory_restarted" events as they stand, by trajectory.
        stopped: the stop rule that ended the dynamics, in words; empty: none has.
        calibrated: the "calibrated" events as they stand, one per frame that led to one.
        budget_spent: the "label_budget_spent" event as it stands; empty without one.
        n_unreadable: lines that are no event.
    """

    traces: Mapping[str, Trace] = field(default_factory=dict)
    cells: tuple[Cell, ...] = ()
    labels: tuple[LabelRecord, ...] = ()
    updates: tuple[Update, ...] = ()
    started: float = math.nan
    ended: float = math.nan
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    resumed: int = 0
    finished: bool = False
    failed_trajectories: Mapping[str, str] = field(default_factory=dict)
    conclusions: Mapping[str, str] = field(default_factory=dict)
    restarts: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    stopped: str = ""
    calibrated: tuple[Mapping[str, Any], ...] = ()
    budget_spent: Mapping[str, Any] = field(default_factory=dict)
    n_unreadable: int = 0

    @property
    def wall_seconds(self) -> float:
        """Wall time that the run was active."""
        return sum(self.stage_seconds.values())

    def count(self, state: str, initial: bool = False) -> int:
        """Labels in a state, asked for by the dynamics or (``initial``) before it."""
        return sum(label.state == state and (label.trajectory == "") == initial for label in self.labels)


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a JSON-lines file and the number of lines that hold none."""
    rows, unreadable = [], 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                unreadable += 1
    return rows, unreadable


def read_log(path: Path) -> RunLog:
    """Read ``events.jsonl``.

    Args:
        path: the file.

    Returns:
        The log; empty when the file holds nothing readable.

    Raises:
        OSError: the file cannot be read.
    """
    rows, unreadable = read_json_lines(path)
    events = [row for row in rows if isinstance(row.get("event"), str) and "time" in row]
    cells = _cells(events)
    labels = _labels(events)
    return RunLog(
        traces=_traces(events, cells, labels),
        cells=cells,
        labels=labels,
        updates=_updates(events),
        started=number(events[0]["time"]) if events else math.nan,
        ended=number(events[-1]["time"]) if events else math.nan,
        stage_seconds=_stage_seconds(events),
        resumed=sum(event["event"] == "resumed" for event in events),
        finished=bool(events) and any(event["event"] == "run_finished" for event in events[-3:]),
        failed_trajectories={
            str(event.get("trajectory", "")): str(event.get("reason", ""))
            for event in events
            if event["event"] == "trajectory_failed"
        },
        conclusions={
            str(event.get("trajectory", "")): str(event["conclusion"])
            for event in _named(events, "trajectory_finished")
            if event.get("conclusion")
        },
        restarts=_restarts(events),
        stopped=_stopped(events),
        calibrated=_calibrated(events),
        budget_spent=next(iter(reversed(_named(events, "label_budget_spent"))), {}),
        n_unreadable=unreadable + len(rows) - len(events),
    )


def number(value: Any) -> float:
    """``value`` as a float, NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value)


def _uncertainty(check: Mapping[str, Any]) -> float:
    """Largest u of a check; null stands for the infinite u of a species that was never seen."""
    return math.inf if check.get("max_u", math.nan) is None else number(check.get("max_u"))


def _named(events: Iterable[Mapping[str, Any]], *names: str) -> list[Mapping[str, Any]]:
    return [event for event in events if event["event"] in names]


def _ways(events: list[dict[str, Any]], name: str) -> list[tuple[int, Mapping[str, Any]]]:
    """Events of one name, each with how often its trajectory had gone back by then."""
    found, restarts = [], Counter[str]()
    for event in _named(events, name, "trajectory_restarted"):
        trajectory = str(event.get("trajectory", ""))
        if event["event"] == name:
            found.append((restarts[trajectory], event))
        else:
            restarts[trajectory] += 1
    return found


def _restarts(events: list[dict[str, Any]]) -> dict[str, tuple[Mapping[str, Any], ...]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for event in _named(events, "trajectory_restarted"):
        found.setdefault(str(event.get("trajectory", "")), []).append(event)
    return {name: tuple(its) for name, its in found.items()}


def _stopped(events: list[dict[str, Any]]) -> str:
    """What ended the dynamics last, unless the run was resumed with other rules since."""
    ends = _named(events, "dynamics_stopped", "run_finished")
    last = ends[-1] if ends else {}
    if last.get("event") == "run_finished":
        return str((last.get("summary") or {}).get("ended_by") or "")
    return str(last.get("reason") or "")


def _cells(events: list[dict[str, Any]]) -> tuple[Cell, ...]:
    cells = {}
    for way, event in _ways(events, "embedded"):
        place = (str(event.get("trajectory", "")), int(event.get("step", 0)), int(event.get("atom", -1)))
        cells[way, *place] = Cell(
            *place,
            accepted=bool(event.get("accepted")),
            reason=str(event.get("reason") or ""),
            n_atoms=int(event.get("n_atoms") or 0),
            max_u=number(event.get("max_u")),
            seconds=number(event.get("seconds")),
            key=str(event.get("key") or ""),
        )
    return tuple(cells.values())


def _labels(events: list[dict[str, Any]]) -> tuple[LabelRecord, ...]:
    known: dict[str, dict[str, Any]] = {}
    for event in _named(events, "label_submitted", "label_finished", "label_failed"):
        key = str(event.get("key", ""))
        label = known.setdefault(
            key, {"trajectory": "", "step": 0, "n_atoms": 0, "state": "waiting", "seconds": math.nan, "cause": ""}
        )
        label["trajectory"] = str(event.get("trajectory") or label["trajectory"])
        label["step"] = int(event.get("step") or label["step"])
        label["n_atoms"] = int(event.get("n_atoms") or label["n_atoms"])
        if event["event"] == "label_finished":
            label.update(state="done", seconds=number(event.get("seconds")))
        elif event["event"] == "label_failed":
            label.update(state="failed", cause=str(event.get("cause", "")))
    return tuple(LabelRecord(key=key, **values) for key, values in known.items())


def _updates(events: list[dict[str, Any]]) -> tuple[Update, ...]:
    updates = {}
    for position, (way, event) in enumerate(_ways(events, "updated")):
        place = (str(event.get("trajectory", "")), int(event.get("step", position)))
        updates[way, *place] = Update(
            *place,
            labels=int(event.get("labels") or 0),
            before=Errors.read(event.get("before")),
            after=Errors.read(event.get("after")),
            seconds=number(event.get("seconds")),
            rolled_back=bool(event.get("rolled_back")),
        )
    return tuple(updates.values())


def _calibrated(events: list[dict[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    found = {(way, event.get("trajectory"), event.get("step")): event for way, event in _ways(events, "calibrated")}
    return tuple(found.values())


def _traces(events: list[dict[str, Any]], cells: tuple[Cell, ...], labels: tuple[LabelRecord, ...]) -> dict[str, Trace]:
    checks: dict[str, dict[int, Mapping[str, Any]]] = {}
    for event in _named(events, "check", "trajectory_restarted"):
        seen = checks.setdefault(str(event.get("trajectory", "")), {})
        if event["event"] == "check":
            seen[int(event.get("step", 0))] = event
        else:  # what lies beyond the state it went back to is void
            good_step = int(event.get("good_step", 0))
            checks[str(event.get("trajectory", ""))] = {step: one for step, one in seen.items() if step <= good_step}
    asked = {(cell.trajectory, cell.step) for cell in cells if cell.accepted}
    asked |= {(label.trajectory, label.step) for label in labels if label.trajectory}
    traces = {}
    for name, by_step in checks.items():
        steps = sorted(by_step)
        if not steps:
            continue

        def column(key: str, rows: list[Mapping[str, Any]]) -> FloatArray:
            return np.array([number(row.get(key)) for row in rows])

        rows = [by_step[step] for step in steps]
        times = column("time_fs", rows)
        timeless = not np.any(times) and steps[-1] > 0
        traces[name] = Trace(
            steps=np.array(steps, dtype=np.int64),
            times=np.array(steps, dtype=float) if timeless else times,
            timeless=timeless,
            temperature=column("temperature", rows),
            potential_energy=column("potential_energy", rows),
            kinetic_energy=column("kinetic_energy", rows),
            volume=column("volume", rows),
            max_u=np.array([_uncertainty(row) for row in rows]),
            threshold=column("threshold", rows),
            n_uncertain=np.array([int(row.get("n_uncertain") or 0) for row in rows], dtype=np.int64),
            asked=np.array([(name, step) in asked for step in steps], dtype=bool),
        )
    return traces


def _stage_seconds(events: list[dict[str, Any]]) -> dict[str, float]:
    """Wall time by stage; spans within a start-up stage belong to it, whatever event ends them."""
    seconds: dict[str, float] = {}
    before: float | None = None
    within: str | None = None
    for event in events:
        time = number(event["time"])
        name = event["event"]
        if before is not None and name != "resumed" and time > before:
            part = within or (str(event.get("stage")) if name == "stage_finished" else "")
            stage = _STAGE_OF_START_UP.get(part) or _STAGE_OF_EVENT.get(name, "other")
            seconds[stage] = seconds.get(stage, 0.0) + time - before
        if name == "stage_started":
            within = str(event.get("stage"))
        elif name in ("stage_finished", "resumed"):
            within = None
        before = time
    return {stage: seconds[stage] for stage in STAGES if stage in seconds}
