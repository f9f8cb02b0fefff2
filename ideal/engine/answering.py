"""From requests to answers: tell when labels arrive, compare the model with them, learn them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ideal.engine.calculations import Calculations
from ideal.engine.calibrating import Calibrator
from ideal.engine.comparing import compare
from ideal.engine.events import LabelFailed, LabelFinished, TrainingEnded, TrainingEpoch, Updated
from ideal.engine.journal import Journal
from ideal.engine.learner import Learner, Progress, errors_as_dict
from ideal.engine.stopping import StopRules
from ideal.engine.trajectory import LabelRequest, Trajectory
from ideal.records import Label
from ideal.training.records import TrainingProgress, TrainingSummary


def announce(
    calculations: Calculations,
    journal: Journal,
    requests: Sequence[LabelRequest],
    announced: set[str],
    in_order: bool,
) -> bool:
    """Tell which answers have arrived since the last call.

    Args:
        calculations: holds the answers.
        journal: told about each.
        requests: what was asked; those of the initial data name no trajectory, and ``max_labels`` does not count them.
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
        trajectory = request.info.get("trajectory", "")
        if isinstance(answer, Label):
            journal.counters.done += bool(trajectory)
            journal.tell(LabelFinished(request.key, trajectory, answer.seconds, answer.energy))
        else:
            journal.counters.failed += bool(trajectory)
            journal.tell(LabelFailed(request.key, trajectory, answer.cause))
    return all(request.key in announced for request in requests)


class Answers:
    """What comes back from the reference code: told, compared with the model, learned.

    Args:
        trajectories: all of them; each goes on with the new model.
        learner: learns.
        calibrator: gets the comparisons.
        stop_rules: get the error on the validation labels.
        calculations: holds the answers.
        journal: told about labels, updates and calibration.
        in_order: tell labels in the order of asking.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        learner: Learner,
        calibrator: Calibrator,
        stop_rules: StopRules,
        calculations: Calculations,
        journal: Journal,
        in_order: bool,
    ) -> None:
        self._trajectories = trajectories
        self._learner = learner
        self._calibrator = calibrator
        self._stop_rules = stop_rules
        self._calculations = calculations
        self._journal = journal
        self._in_order = in_order

    def complete(self, requests: Sequence[LabelRequest], announced: set[str]) -> bool:
        """Whether every label that is waited for is in; tells those that are new.

        Args:
            requests: what was asked.
            announced: keys told already; grows.
        """
        told = announce(self._calculations, self._journal, requests, announced, self._in_order)
        return told and all(request.key in self._calculations.results for request in requests)

    def learn(
        self, requests: Sequence[LabelRequest], name: str, step: int, others: Mapping[str, int] | None = None
    ) -> None:
        """Compare the model with the answers to ``requests``, then learn them.

        Labels are learned in the order of asking. Failed ones are left out; a cell that was learned meanwhile, or that
        two of the requests name, is compared and learned once.

        Args:
            requests: all answers are in.
            name: the trajectory that waited for them.
            step: its MD step.
            others: MD steps of further trajectories that waited for a part of them.
        """
        learner, journal = self._learner, self._journal
        labels: dict[str, Label] = {}
        origins: list[Mapping[str, Any]] = []
        for request in requests:
            answer = self._calculations.results[request.key]
            if isinstance(answer, Label) and answer.key not in learner.dataset and answer.key not in labels:
                labels[answer.key] = answer
                origins.append(request.info)
            else:
                journal.counters.audits_missing += request.info["purpose"] == "audit"
        if labels:
            new = list(labels.values())
            with journal.times.stage("evaluation"):
                comparisons = compare(learner.potential, learner.uncertainty, new, origins)
            with journal.times.stage("training"):
                summary = learner.learn(new, training_progress(journal, name, step))
            tell_training(journal, summary, len(new), name, step)
            if summary.validation_after is not None:
                self._stop_rules.note_validation(summary.validation_after.force_mae)
            for trajectory in self._trajectories:
                if not trajectory.is_over:  # a search that is over would look again when the run is resumed
                    trajectory.sampler.set_calculator(learner.calculator())
            with journal.times.stage("io"):
                learner.publish(journal.directory.path)
            journal.tell(
                Updated(
                    trajectory=name,
                    step=step,
                    labels=len(new),
                    before=errors_as_dict(summary.before),
                    after=errors_as_dict(summary.after),
                    seconds=summary.seconds,
                    rolled_back=summary.rolled_back,
                    model=learner.potential.fingerprint(),
                    reason=summary.reason,
                    others=others or {},
                )
            )
            with journal.times.stage("uncertainty"):
                self._calibrator.take(comparisons, name, step)
        waited_for = {request.key for trajectory in self._trajectories for request in trajectory.requests}
        self._calculations.forget({request.key for request in requests} - waited_for)


def training_progress(
    journal: Journal, trajectory: str = "", step: int = 0, after_epoch: Callable[[], None] | None = None
) -> Progress:
    """A listener of the trainer that tells every epoch.

    Args:
        journal: told.
        trajectory: whose labels are learned; empty for pretraining.
        step: its MD step.
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
                trajectory=trajectory,
                step=step,
                learning_rate=progress.learning_rate,
                validation=errors_as_dict(progress.validation) if progress.validation else None,
                seconds=progress.seconds,
            )
        )
        if after_epoch is not None:
            after_epoch()

    return tell


def tell_training(
    journal: Journal, summary: TrainingSummary, n_labels: int, trajectory: str = "", step: int = 0
) -> None:
    """Tell how a training ended.

    Args:
        journal: told.
        summary: what the trainer says.
        n_labels: labels learned.
        trajectory: whose labels; empty for pretraining and final convergence.
        step: its MD step.
    """
    validation_before, validation_after = summary.validation_before, summary.validation_after
    journal.tell(
        TrainingEnded(
            phase=summary.phase,
            labels=n_labels,
            replayed=summary.replayed,
            before=errors_as_dict(summary.before),
            after=errors_as_dict(summary.after),
            validation_before=errors_as_dict(validation_before) if validation_before else None,
            validation_after=errors_as_dict(validation_after) if validation_after else None,
            seconds=summary.seconds,
            steps=summary.steps,
            epochs=summary.epochs,
            attempts=summary.attempts,
            learning_rate=summary.learning_rate,
            rolled_back=summary.rolled_back,
            reason=summary.reason,
            trajectory=trajectory,
            step=step,
        )
    )
