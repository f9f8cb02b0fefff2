"""The final convergence: the model is trained on all labels when the dynamics is over."""

from __future__ import annotations

from collections.abc import Callable

from ideal.engine.answering import tell_training, training_progress
from ideal.engine.events import Converged
from ideal.engine.journal import Journal
from ideal.engine.learner import Learner, errors_as_dict


def converge(learner: Learner, journal: Journal, after_epoch: Callable[[], None]) -> None:
    """Train as ``training.final`` says, publish the model, and tell it.

    A training from scratch replaces the model that led the run: that one is kept as ``model_run``.

    Args:
        learner: learns.
        journal: told about every epoch and the outcome.
        after_epoch: called after each epoch; when it raises, the model is as it was before.
    """
    if learner.config.training.final.start == "scratch":
        with journal.times.stage("io"):
            learner.publish(journal.directory.path, "_run")
    with journal.part("final_training"), journal.times.stage("training"):
        summary = learner.converge(training_progress(journal, after_epoch=after_epoch))
    n_labels = len(learner.dataset.training)
    tell_training(journal, summary, n_labels)
    before, after = summary.validation_before, summary.validation_after
    journal.tell(
        Converged(
            labels=n_labels,
            before=errors_as_dict(summary.before),
            after=errors_as_dict(summary.after),
            validation_before=errors_as_dict(before) if before else None,
            validation_after=errors_as_dict(after) if after else None,
            seconds=summary.seconds,
            rolled_back=summary.rolled_back,
            reason=summary.reason,
            model=learner.potential.fingerprint(),
        )
    )
    with journal.times.stage("io"):
        learner.publish(journal.directory.path)
