"""What training reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ideal.training.loss import Errors

Phase = Literal["pretrain", "update", "final"]


@dataclass(frozen=True)
class TrainingProgress:
    """One epoch of training.

    Attributes:
        phase: "pretrain", "update" or "final".
        epoch: passes done, from 1.
        epochs: passes planned.
        loss: average over the epoch's steps.
        energy_mae: eV per atom, average over the epoch, before each step.
        force_mae: eV/Å.
        stress_mae: GPa; None when no label has stress.
        learning_rate: of the epoch's last step.
        validation: errors of the averaged weights on validation labels, in epochs that end with a look at them.
        seconds: wall time since the training began.
    """

    phase: Phase
    epoch: int
    epochs: int
    loss: float
    energy_mae: float
    force_mae: float
    stress_mae: float | None
    learning_rate: float = 0.0
    validation: Errors | None = None
    seconds: float = 0.0


ProgressListener = Callable[[TrainingProgress], None]


@dataclass(frozen=True)
class TrainingSummary:
    """Outcome of a pretraining, an update or a final convergence.

    Attributes:
        phase: "pretrain", "update" or "final".
        before: errors on the labels learned, before.
        after: the same, after.
        validation_before: errors on the validation labels, before; None without any.
        validation_after: the same, after.
        seconds: wall time.
        steps: optimizer steps taken.
        epochs: passes made.
        replayed: old labels shown, repetitions counted.
        rolled_back: true when the model was put back to what it was.
        reason: why; otherwise why the training ended before its last epoch, empty when it did not.
        attempts: how often an update was tried.
        learning_rate: peak rate of the last attempt.
    """

    phase: Phase
    before: Errors
    after: Errors
    validation_before: Errors | None
    validation_after: Errors | None
    seconds: float
    steps: int
    epochs: int
    replayed: int = 0
    rolled_back: bool = False
    reason: str = ""
    attempts: int = 1
    learning_rate: float = 0.0
