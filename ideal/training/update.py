"""One online update: all new labels, and an importance-sampled replay of the old ones.

Its cost depends on the number of new labels and on the settings, not on the size of the data set. It ends when the new
labels are met within the tolerance, or with the last epoch. The weights it leaves are the best of those it looked at,
judged by the loss on the new labels and the validation labels together, among those that pass the gate: they are not
worse on the validation labels than before, nor (`gate: balanced`) than on the new ones. The second clause lets a model
that was perfect on cold crystals give some of that up for a melt; what it may not do is to forget them. Weights that do
not help are undone; then the optimizer's memory is cleared and the update is tried again at half the rate
(`ideal.training.policy`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ideal.config import OnlineConfig
from ideal.records import Label
from ideal.training.average import WeightAverage
from ideal.training.batches import Batches
from ideal.training.epochs import one_epoch
from ideal.training.loss import Errors, Sample, SampleErrors, mean_errors
from ideal.training.policy import Keeper, pace
from ideal.training.records import ProgressListener
from ideal.training.replay import Replay, scores

LOOKS = 4
"""Looks at the labels that judge during one attempt."""


@dataclass(frozen=True)
class Judges:
    """The labels by which an update is judged.

    Attributes:
        fresh: the new ones.
        others: validation labels, or old ones where there are none.
        are_validation: whether ``others`` are validation labels, which nothing may spoil.
    """

    fresh: Sequence[Sample]
    others: Sequence[Sample]
    are_validation: bool


@dataclass(frozen=True)
class Verdict:
    """What a look saw: loss on all judges, loss and errors on the others, loss and errors on the new labels."""

    loss: float
    fresh_loss: float
    others_loss: float
    others: Errors
    fresh: Errors


def judge(batches: Batches, judges: Judges) -> Verdict:
    """Evaluate the potential's present weights on the labels that judge."""
    fresh_loss, fresh = batches.evaluate(judges.fresh)
    others_loss, others = batches.evaluate(judges.others)
    n_fresh, n_others = len(judges.fresh), len(judges.others)
    total = (n_fresh * fresh_loss + n_others * others_loss) / (n_fresh + n_others)
    return Verdict(total, fresh_loss, others_loss, mean_errors(others), mean_errors(fresh))


def passes_gate(judges: Judges, before: Verdict, now: Verdict, config: OnlineConfig) -> bool:
    """Whether validation labels are no worse than before; or no worse than new ones, or than is asked of these."""
    if not judges.are_validation or not judges.others:
        return True
    allowed = before.others_loss
    if config.gate == "balanced":
        allowed = max(allowed, now.fresh_loss)
    return now.others_loss <= allowed or is_fitted(now.others, config)


def is_fitted(errors: Errors, config: OnlineConfig) -> bool:
    """Whether energy and forces are met within the tolerance."""
    return errors.energy_mae <= config.fitted_energy and errors.force_mae <= config.fitted_force


@dataclass
class Attempt:
    """What one attempt did.

    Attributes:
        steps: optimizer steps.
        epochs: passes.
        replayed: old labels shown, repetitions counted.
        reason: why it ended before the last epoch; empty when it did not.
        best: what was seen of the best weights; None when none were kept.
    """

    steps: int = 0
    epochs: int = 0
    replayed: int = 0
    reason: str = ""
    best: Verdict | None = None


def attempt(
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    old: Sequence[Label],
    judges: Judges,
    before: Verdict,
    keeper: Keeper,
    replay: Replay,
    config: OnlineConfig,
    decay: float,
    factor: float,
    rng: np.random.Generator,
    started: float,
    progress: ProgressListener | None,
) -> Attempt:
    """Try to learn ``judges.fresh``; the best weights are left to ``keeper``.

    Args:
        batches: evaluates and steps.
        optimizer: of the potential; changed.
        old: labels learned before.
        judges: new labels, and those by which else it is judged.
        before: what `judge` said at the start.
        keeper: knows the weights at the start.
        replay: scores of old and new labels; changed.
        config: rates and limits.
        decay: of the averaged weights.
        factor: on the learning rate.
        rng: draws and shuffles.
        started: `time.perf_counter` when the update began; its time budget counts from there.
        progress: called after every pass.

    Raises:
        TrainingError: the loss is not finite.
    """
    done = Attempt()
    average = WeightAverage(batches.potential, decay)
    keys = [label.key for label in old]
    every = max(1, config.epochs // LOOKS)

    def seen(batch: Sequence[Sample], errors: Sequence[SampleErrors]) -> None:
        values = np.concatenate([scores(part) for part in errors])
        replay.record([sample.label.key for sample in batch], values)

    while done.epochs < config.epochs and not done.reason:
        now = pace(factor * config.learning_rate, done.epochs / config.epochs, warm_up=0.0)
        drawn = replay.draw(keys, config.replay, rng)
        done.replayed += len(drawn)
        shown = [*judges.fresh, *batches.prepare([old[i] for i in drawn])]
        log, steps = one_epoch(
            batches,
            optimizer,
            average,
            shown,
            config.batch_size,
            rng,
            lambda: now,  # noqa: B023
            seen,
        )
        done.steps += steps
        done.epochs += 1
        seconds = time.perf_counter() - started
        if config.max_seconds is not None and seconds >= config.max_seconds:
            done.reason = f"the time budget of {config.max_seconds:g} s was spent"
        validation: Errors | None = None
        if done.reason or done.epochs == config.epochs or done.epochs % every == 0:
            with average.applied():
                verdict = judge(batches, judges)
            validation = verdict.others if judges.are_validation else None
            kept = keeper.look(verdict.loss, average.weights(), passes_gate(judges, before, verdict, config))
            if kept:
                done.best = verdict
            if kept and is_fitted(verdict.fresh, config) and not done.reason and done.epochs < config.epochs:
                done.reason = f"the new labels were met within the tolerance after {done.epochs} passes"
        if progress is not None:
            progress(log.progress("update", done.epochs, config.epochs, now.rate, validation, seconds))
    return done
