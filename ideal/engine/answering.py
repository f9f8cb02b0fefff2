"""From requests to answers: wait for labels, tell when they arrive, learn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ideal.engine.calculations import Calculations
from ideal.engine.events import LabelFailed, LabelFinished, TrainingEpoch, Updated
from ideal.engine.journal import Journal
from ideal.engine.learner import Learner, Progress, errors_as_dict
from ideal.engine.trajectory import LabelRequest, Trajectory, TrajectoryStatus
from ideal.models.calculator import IdealCalculator
from ideal.records import FailedLabel, Label
from ideal.training.records import TrainingProgress


def announce(
    calculations: Calculations,
    journal: Journal,
    trajectory: str,
    requests: Sequence[LabelRequest],
    announced: set[str],
    in_order: bool,
) -> bool:
    """Tell which answers have arrived since the last call.

    Args:
        calculations: holds the answers.
        journal: told about each.
        trajectory: who asked; empty for the initial data, which ``max_labels`` does not count.
        requests: what was asked.
        announced: keys told already; grows.
        in_order: tell them in the order of asking, so that the events of two equal runs are equal.

    Returns:
        Whether all are in.
    """
    for request in requests:
        if request.key in announced:
            continue
        answer = calculations.results.get(request.key)
        if answer is None:
            if in_order:
                break
            continue
        announced.add(request.key)
        if isinstance(answer, Label):
            journal.counters.done += bool(trajectory)
            journal.tell(LabelFinished(request.key, trajectory, answer.seconds, answer.energy))
        else:
            journal.counters.failed += bool(trajectory)
            journal.tell(LabelFailed(request.key, trajectory, answer.cause))
    return all(request.key in announced for request in requests)


def learn(
    trajectory: Trajectory,
    trajectories: Sequence[Trajectory],
    learner: Learner,
    calculations: Calculations,
    journal: Journal,
) -> None:
    """Learn the answers that ``trajectory`` waited for, and let it go on from the frame where it stopped.

    Labels are learned in the order of asking. Failed ones are left out; a cell that another trajectory has learned
    meanwhile is not learned twice.

    Args:
        trajectory: all its answers are in.
        trajectories: all of them; each goes on with the new model.
        learner: learns.
        calculations: holds the answers.
        journal: told about the update.
    """
    answers = [calculations.results[request.key] for request in trajectory.requests]
    labels = [a for a in answers if not isinstance(a, FailedLabel) and a.key not in learner.dataset]
    trajectory.status = TrajectoryStatus.RUNNING
    trajectory.requests = []
    trajectory.announced = set()
    trajectory.last_learned_step = trajectory.step
    if labels:
        with journal.times.stage("training"):
            summary = learner.learn(labels, training_progress(journal, trajectory))
        for other in trajectories:
            other.sampler.set_calculator(IdealCalculator(learner.potential))
        with journal.times.stage("io"):
            learner.publish(journal.directory.path)
        journal.tell(
            Updated(
                trajectory=trajectory.name,
                step=trajectory.step,
                labels=len(labels),
                before=errors_as_dict(summary.before),
                after=errors_as_dict(summary.after),
                seconds=summary.seconds,
                rolled_back=summary.rolled_back,
                model=learner.potential.fingerprint(),
            )
        )
    waited_for = {request.key for other in trajectories for request in other.requests}
    calculations.forget({answer.key for answer in answers} - waited_for)


def training_progress(
    journal: Journal, trajectory: Trajectory | None = None, after_epoch: Callable[[], None] | None = None
) -> Progress:
    """A listener of the trainer that tells every epoch.

    Args:
        journal: told.
        trajectory: whose labels are learned; None for pretraining.
        after_epoch: called after each; may raise to end the training.
    """

    def tell(progress: TrainingProgress) -> None:
        journal.tell(
            TrainingEpoch(
                phase=progress.phase,
                epoch=progress.epoch,
                epochs=progress.epochs,
                loss=progress.loss,
                energy_mae=progress.energy_mae,
                force_mae=progress.force_mae,
                stress_mae=progress.stress_mae,
                trajectory=trajectory.name if trajectory else "",
                step=trajectory.step if trajectory else 0,
            )
        )
        if after_epoch is not None:
            after_epoch()

    return tell
