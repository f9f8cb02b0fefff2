"""One pass over a set of samples, and what is said about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ideal.training.average import WeightAverage
from ideal.training.batches import Batches, set_rate
from ideal.training.loss import Errors, Sample, SampleErrors, mean_errors
from ideal.training.policy import Pace
from ideal.training.records import Phase, TrainingProgress


class EpochLog:
    """Averages over the steps of one epoch."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._errors: list[SampleErrors] = []

    def add(self, value: float, errors: Sequence[SampleErrors]) -> None:
        """Take one step into account."""
        self._losses.append(value)
        self._errors.extend(errors)

    def progress(
        self, phase: Phase, epoch: int, epochs: int, rate: float, validation: Errors | None, seconds: float
    ) -> TrainingProgress:
        """What is told about the epoch."""
        errors = mean_errors(self._errors)
        return TrainingProgress(
            phase,
            epoch,
            epochs,
            float(np.mean(self._losses)) if self._losses else math.nan,
            errors.energy_mae,
            errors.force_mae,
            errors.stress_mae,
            rate,
            validation,
            seconds,
        )


def one_epoch(
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    samples: Sequence[Sample],
    batch_size: int,
    rng: np.random.Generator,
    pace: Callable[[], Pace],
    seen: Callable[[Sequence[Sample], Sequence[SampleErrors]], None] | None = None,
) -> tuple[EpochLog, int]:
    """Show all samples once, in random order.

    Args:
        batches: takes the steps.
        optimizer: of the potential.
        average: follows them.
        samples: what to show.
        batch_size: structures per step.
        rng: shuffles.
        pace: of the next step; a rate of 0 ends the epoch.
        seen: told the errors of every batch, before its step.

    Returns:
        The averages of the epoch and the number of its steps.
    """
    log, steps = EpochLog(), 0
    order = rng.permutation(len(samples))
    for first in range(0, len(samples), batch_size):
        now = pace()
        if now.rate <= 0:
            break
        set_rate(optimizer, now.rate)
        batch = [samples[i] for i in order[first : first + batch_size]]
        total, errors = batches.step(optimizer, batch, now.fallen)
        average.follow()
        if seen is not None:
            seen(batch, errors)
        log.add(total, errors)
        steps += 1
    return log, steps
