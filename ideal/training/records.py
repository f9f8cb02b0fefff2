"""What training reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ideal.training.loss import Errors


@dataclass(frozen=True)
class TrainingProgress:
    """One epoch of training.

    Attributes:
        phase: "pretrain" or "update".
        epoch: passes done, from 1.
        epochs: passes planned.
        loss: average over the epoch's steps.
        energy_mae: eV per atom, average over the epoch, before each step.
        force_mae: eV/Å.
        stress_mae: GPa; None when no label has stress.
    """

    phase: Literal["pretrain", "update"]
    epoch: int
    epochs: int
    loss: float
    energy_mae: float
    force_mae: float
    stress_mae: float | None


@dataclass(frozen=True)
class TrainingSummary:
    """Outcome of a pretraining or an update.

    Attributes:
        phase: "pretrain" or "update".
        before: errors on the labels learned, before.
        after: the same, after.
        validation_before: errors on the validation labels, before; None without any.
        validation_after: the same, after.
        seconds: wall time.
        steps: optimizer steps taken.
        epochs: passes made.
        replayed: old labels shown, repetitions counted.
        rolled_back: true when the model was put back to what it was.
        reason: why; empty otherwise.
    """

    phase: Literal["pretrain", "update"]
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
