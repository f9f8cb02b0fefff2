"""What happens in a run, one frozen record per event.

Every event is written as one JSON line of ``events.jsonl`` (``{"time": unix seconds, "event": name, ...}``) and
given to the listener of the engine, which the command line uses for its live view. `TrainingEpoch` goes to
``training.jsonl`` instead, because it comes often.

Units: fs, K, eV, Å; errors are eV/atom (energy), eV/Å (force), GPa (stress).
"""

from __future__ import annotations

import json
import math
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Event:
    """Base of the events.

    Attributes:
        time: unix seconds.

    Example:
        >>> TrajectoryFinished("md", 100, time=0.0).to_json()
        '{"time": 0.0, "event": "trajectory_finished", "trajectory": "md", "step": 100, '
        '"conclusion": ""}'
    """

    name: ClassVar[str] = "event"

    time: float = field(default_factory=clock.time, kw_only=True)

    def as_dict(self) -> dict[str, Any]:
        """The event as plain JSON types: time, name, then the fields in their order."""
        values = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "time"}
        return {"time": self.time, "event": self.name, **values}

    def to_json(self) -> str:
        """One line of JSON without the line end."""
        return json.dumps(self.as_dict(), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: no NumPy, tuple or enum; null where infinite or not a number (JSON has neither).

    What may be infinite is the uncertainty of a species that was never seen; whoever reads it takes null for that.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


@dataclass(frozen=True)
class RunStarted(Event):
    """A new run begins. ``trajectories`` maps each name to its number of MD steps."""

    name: ClassVar[str] = "run_started"

    directory: str
    seed: int
    mode: str
    code: str
    trajectories: Mapping[str, int]


@dataclass(frozen=True)
class Resumed(Event):
    """A run goes on from a checkpoint (0: from the beginning). ``steps`` maps trajectories to MD steps."""

    name: ClassVar[str] = "resumed"

    checkpoint: int
    steps: Mapping[str, int]


@dataclass(frozen=True)
class StageStarted(Event):
    """A part of the start-up or of the end begins: generate, initial_labels, pretrain, distribution, final_audit,
    final_training, evaluation."""

    name: ClassVar[str] = "stage_started"

    stage: str


@dataclass(frozen=True)
class StageFinished(Event):
    """The part that `StageStarted` named is over."""

    name: ClassVar[str] = "stage_finished"

    stage: str
    seconds: float


@dataclass(frozen=True)
class Pretrained(Event):
    """The model has learned the initial data; ``before`` and ``after`` are its errors on what it was trained on.

    ``validation`` holds those on the part that was kept back, null without such a part.
    """

    name: ClassVar[str] = "pretrained"

    labels: int
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    validation: Mapping[str, float | None] | None
    seconds: float


@dataclass(frozen=True)
class TrainingEpoch(Event):
    """One pass of the trainer. ``phase`` is "pretrain", "update" or "final".

    ``validation`` holds the errors on validation labels where the pass ended with a look at them; ``seconds`` count
    from the start of the training.
    """

    name: ClassVar[str] = "training_epoch"

    phase: str
    epoch: int
    epochs: int
    loss: float
    energy_mae: float
    force_mae: float
    stress_mae: float | None
    trajectory: str = ""
    step: int = 0
    learning_rate: float = 0.0
    validation: Mapping[str, float | None] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class TrainingEnded(Event):
    """A pretraining, an update or the final convergence is over: the last of its lines in ``training.jsonl``.

    ``before`` and ``after`` are the errors on the labels learned, ``validation_*`` those on the validation labels, null
    without any. ``reason`` says why the model was put back (``rolled_back``) or why the training ended early;
    ``learning_rate`` is the peak of the last of ``attempts``.
    """

    name: ClassVar[str] = "training_ended"

    phase: str
    labels: int
    replayed: int
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    validation_before: Mapping[str, float | None] | None
    validation_after: Mapping[str, float | None] | None
    seconds: float
    steps: int
    epochs: int
    attempts: int
    learning_rate: float
    rolled_back: bool
    reason: str
    trajectory: str = ""
    step: int = 0


@dataclass(frozen=True)
class Check(Event):
    """Every atom of a frame was scored. Energies in eV, volume in Å³ (null without a cell).

    ``observables`` holds the sampler's own numbers, such as tau of a bias or shares of accepted moves.
    """

    name: ClassVar[str] = "check"

    trajectory: str
    step: int
    time_fs: float
    temperature: float
    potential_energy: float
    kinetic_energy: float
    max_u: float
    threshold: float
    n_uncertain: int
    volume: float | None
    observables: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedded(Event):
    """A chosen atom was embedded into a small cell; ``key`` is empty when the cell was refused.

    Where no cell could be made at all, ``n_atoms`` is 0 and ``max_u`` null.

    ``purpose`` is "selected" (the atom is uncertain) or "audit" (it was drawn from those held for certain).
    """

    name: ClassVar[str] = "embedded"

    trajectory: str
    step: int
    atom: int
    accepted: bool
    reason: str
    n_atoms: int
    max_u: float
    seconds: float
    key: str
    purpose: str = "selected"


@dataclass(frozen=True)
class LabelSubmitted(Event):
    """A structure was sent to the reference code; ``trajectory`` is empty for the initial data.

    ``purpose`` is "initial", "selected" or "audit". The cell of an audit comes from trajectory, step and atom named
    here, whichever trajectory waits for it.
    """

    name: ClassVar[str] = "label_submitted"

    key: str
    trajectory: str
    step: int
    atom: int
    n_atoms: int
    purpose: str = "selected"


@dataclass(frozen=True)
class LabelFinished(Event):
    """A label arrived; ``seconds`` is the wall time of its calculation."""

    name: ClassVar[str] = "label_finished"

    key: str
    trajectory: str
    seconds: float
    energy: float


@dataclass(frozen=True)
class LabelFailed(Event):
    """A reference calculation gave no trustworthy result; the run goes on without it."""

    name: ClassVar[str] = "label_failed"

    key: str
    trajectory: str
    cause: str


@dataclass(frozen=True)
class StoreRescued(Event):
    """The label store was damaged; ``text`` says what was saved and where the damaged file is kept."""

    name: ClassVar[str] = "store_rescued"

    text: str


@dataclass(frozen=True)
class Updated(Event):
    """The model and the distribution have learned; errors are those on the new labels.

    ``rolled_back`` is true when the update did not help and the model was put back, for the ``reason`` given; ``model``
    is its fingerprint. ``others`` maps further trajectories whose labels were learned at once to their MD steps.
    """

    name: ClassVar[str] = "updated"

    trajectory: str
    step: int
    labels: int
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    seconds: float
    rolled_back: bool
    model: str
    reason: str = ""
    others: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Converged(Event):
    """The model was trained on all labels when the dynamics was over; errors are those on these labels.

    ``validation_before`` and ``validation_after`` are those on the validation labels, null without any; ``reason`` says
    why it ended early or why the model was put back.
    """

    name: ClassVar[str] = "converged"

    labels: int
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    validation_before: Mapping[str, float | None] | None
    validation_after: Mapping[str, float | None] | None
    seconds: float
    rolled_back: bool
    reason: str
    model: str


@dataclass(frozen=True)
class Calibrated(Event):
    """New labels were compared with the model that had not learned them; the latest content of ``calibration.json``.

    ``threshold_bound`` is the bound on the force error (eV/Å) of an atom at the threshold; null while not calibrated.
    ``missed_error_rate`` is the share of the environments held for certain whose force error exceeds the tolerance,
    ``force_error`` the mean norm of the force error over all environments of the run (eV/Å), both from the audits with
    the limits of their confidence intervals; null without audits. ``trajectory`` is empty for the validation labels.
    """

    name: ClassVar[str] = "calibrated"

    trajectory: str
    step: int
    ready: bool
    threshold: float
    threshold_source: str
    in_distribution: float
    scale: float | None
    threshold_bound: float | None
    n_pairs: int
    coverage: float | None
    auc: float | None
    missed_error_rate: float | None
    missed_error_rate_low: float | None
    missed_error_rate_high: float | None
    force_error: float | None
    force_error_low: float | None
    force_error_high: float | None


@dataclass(frozen=True)
class LabelBudgetSpent(Event):
    """A frame would have asked, but ``limit`` (``engine.max_labels``) is reached: the run goes on without learning.

    Told once.
    """

    name: ClassVar[str] = "label_budget_spent"

    trajectory: str
    step: int
    limit: int


@dataclass(frozen=True)
class CheckpointWritten(Event):
    """The complete state is on disk. ``step`` is the sum over trajectories, ``steps`` each one's."""

    name: ClassVar[str] = "checkpoint"

    number: int
    step: int
    steps: Mapping[str, int]


@dataclass(frozen=True)
class TrajectoryRestarted(Event):
    """A trajectory went wrong at ``step`` and goes on from a good state with other random numbers.

    That state is at ``good_step``: the last one, or farther back where it did not get past the place from there.
    ``setbacks`` counts how often in a row, of at most ``limit``, it did not get past it.
    """

    name: ClassVar[str] = "trajectory_restarted"

    trajectory: str
    step: int
    good_step: int
    setbacks: int
    limit: int
    reason: str


@dataclass(frozen=True)
class TrajectoryFinished(Event):
    """A trajectory reached its last step, or what it searched for; ``conclusion`` says how, empty for the former."""

    name: ClassVar[str] = "trajectory_finished"

    trajectory: str
    step: int
    conclusion: str = ""


@dataclass(frozen=True)
class TrajectoryFailed(Event):
    """A trajectory left the physical range and stopped; the others go on."""

    name: ClassVar[str] = "trajectory_failed"

    trajectory: str
    step: int
    reason: str


@dataclass(frozen=True)
class DynamicsStopped(Event):
    """A stop rule holds: no trajectory moves any more. ``rule`` is its key in section ``stop``."""

    name: ClassVar[str] = "dynamics_stopped"

    rule: str
    reason: str


@dataclass(frozen=True)
class RunFinished(Event):
    """The run is over; ``summary`` holds the fields of `ideal.engine.summary.RunSummary`."""

    name: ClassVar[str] = "run_finished"

    summary: Mapping[str, Any]
