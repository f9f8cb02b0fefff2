"""Many epochs over one set of labels: pretraining, and the convergence when a run is over.

The learning rate falls by a cosine over the planned epochs or the time budget, whichever ends first; the weight of the
energy may rise meanwhile (`ideal.training.loss.loss_at`). The averaged weights are judged every few epochs, and the
best ones are kept: the training stops early when nothing better has been seen for a while.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from ideal.training.average import WeightAverage
from ideal.training.batches import Batches, new_optimizer
from ideal.training.epochs import one_epoch
from ideal.training.loss import Errors, Sample, mean_errors
from ideal.training.policy import Keeper, Pace, pace
from ideal.training.records import ProgressListener

LOOKS = 25
"""Looks at the labels that judge during one training."""

_TELLING = 0.1  # part of the time budget after which the speed is known


@dataclass(frozen=True)
class FitPlan:
    """What to do.

    Attributes:
        phase: how it is called.
        epochs: passes at most.
        learning_rate: peak.
        batch_size: structures per step.
        patience: epochs without a better model after which it stops; None: never.
        max_seconds: time budget; None: none.
        average: decay of the averaged weights.
    """

    phase: Literal["pretrain", "final"]
    epochs: int
    learning_rate: float
    batch_size: int
    patience: int | None
    max_seconds: float | None
    average: float


@dataclass(frozen=True)
class FitResult:
    """Steps and epochs done, and why it ended early (empty when it did not)."""

    steps: int
    epochs: int
    reason: str


def fit(
    batches: Batches,
    parameters: dict[str, Tensor],
    samples: Sequence[Sample],
    judges: Sequence[Sample],
    plan: FitPlan,
    rng: np.random.Generator,
    keeper: Keeper,
    started: float,
    progress: ProgressListener | None,
) -> FitResult:
    """Learn ``samples``; the best weights, judged by ``judges``, are left to ``keeper``.

    Args:
        batches: evaluates and steps.
        parameters: of the potential, by name.
        samples: what to learn.
        judges: labels whose loss decides which weights are best.
        plan: rates and limits.
        rng: shuffles.
        keeper: knows the weights at the start.
        started: `time.perf_counter` when the training began; the time budget counts from there.
        progress: called after every epoch.

    Raises:
        TrainingError: the loss is not finite.
    """
    optimizer = new_optimizer(parameters, plan.learning_rate)
    average = WeightAverage(batches.potential, plan.average)
    per_epoch = math.ceil(len(samples) / plan.batch_size)
    every = max(1, plan.epochs // LOOKS)
    steps = epochs = best_epoch = 0
    done, reason = 0.0, ""

    def next_pace() -> Pace:
        nonlocal done, steps
        if done >= 1:
            return Pace(0.0, 1.0)
        total = plan.epochs * per_epoch
        done = steps / total
        if plan.max_seconds is not None and steps:
            spent = (time.perf_counter() - started) / plan.max_seconds
            # The clock decides only where the budget will not do for all epochs: else equal runs would differ.
            if spent > _TELLING and spent / steps * total > 1:
                done = max(done, spent)
        steps += 1
        return pace(plan.learning_rate, done)

    while epochs < plan.epochs and not reason:
        log, _ = one_epoch(batches, optimizer, average, samples, plan.batch_size, rng, next_pace)
        epochs += 1
        if done >= 1:
            reason = f"the time budget of {plan.max_seconds:g} s was spent after {epochs} of {plan.epochs} epochs"
        validation: Errors | None = None
        if reason or epochs == plan.epochs or epochs % every == 0:
            with average.applied():
                value, errors = batches.evaluate(judges)
            validation = mean_errors(errors)
            if keeper.look(value, average.weights()):
                best_epoch = epochs
            elif plan.patience is not None and epochs - best_epoch >= plan.patience and not reason:
                reason = f"nothing better was seen for {epochs - best_epoch} epochs"
        if progress is not None:
            present = optimizer.param_groups[0]["lr"]
            seconds = time.perf_counter() - started
            progress(log.progress(plan.phase, epochs, plan.epochs, present, validation, seconds))
    return FitResult(steps, epochs, reason)
