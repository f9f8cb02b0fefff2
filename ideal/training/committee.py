"""A committee of models, trained together: different initial weights, different splits of the data.

Every member holds back its own part of the initial labels for validation; labels that come later are learned by all, as
in aims-PAX (Henkes et al. 2025) and AiiDA-TrainsPot (Bidoggia et al. 2025). The members share the neighbor graphs of
the labels and are trained one after the other, so that memory is that of one training and k sets of weights. What
their spread is worth as an uncertainty is the business of `ideal.uncertainty.committee`.

For scripts: a run of the engine teaches one model, and takes its uncertainty from the distribution of environments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ideal.config import ModelConfig, TrainingConfig
from ideal.dataset.splits import split
from ideal.errors import TrainingError
from ideal.models import make_potential
from ideal.models.base import TrainablePotential
from ideal.records import Label
from ideal.training.records import ProgressListener, TrainingProgress, TrainingSummary
from ideal.training.trainer import Trainer

CommitteeListener = Callable[[int, TrainingProgress], None]
"""Called with the member's index and its progress."""


def new_members(config: ModelConfig, elements: Sequence[str], count: int, seed: int) -> list[TrainablePotential]:
    """Models of one architecture whose weights come from different seeds.

    Raises:
        TrainingError: as `ideal.models.make_potential`.
    """
    return [make_potential(config, elements, seed + index) for index in range(count)]


class CommitteeTrainer:
    """Trains k models in place.

    Args:
        members: at least two models that know the same elements.
        config: how each is trained.
        seed: seeds of the splits, shuffling and replay follow from it, different for every member.
        validation_fraction: part of the initial labels that each member holds back.

    Attributes:
        trainers: one per member.

    Raises:
        TrainingError: fewer than two members, or members of different elements.

    Example:
        >>> committee = CommitteeTrainer(new_members(ModelConfig(), ["Li"], 4, seed=0), TrainingConfig(), seed=0)
        >>> committee.pretrain(labels)
        >>> ModelCommittee(committee.members).atomic(atoms)
    """

    def __init__(
        self,
        members: Sequence[TrainablePotential],
        config: TrainingConfig,
        seed: int,
        validation_fraction: float = 0.1,
    ) -> None:
        if len(members) < 2:
            raise TrainingError(f"a committee of {len(members)} has no spread; give at least two members")
        if len({tuple(member.elements) for member in members}) > 1:
            raise TrainingError("the members of a committee know different elements; make them for the same ones")
        self.trainers = [Trainer(member, config, seed + index) for index, member in enumerate(members)]
        self._seed = seed
        self._fraction = validation_fraction
        self._learned: list[list[Label]] = [[] for _ in members]
        for trainer in self.trainers[1:]:
            if trainer.potential.cutoff == members[0].cutoff:
                trainer.batches.share_graphs(self.trainers[0].batches)

    @property
    def members(self) -> list[TrainablePotential]:
        """The models."""
        return [trainer.potential for trainer in self.trainers]

    def pretrain(self, labels: Sequence[Label], progress: CommitteeListener | None = None) -> list[TrainingSummary]:
        """Let every member learn its own part of the labels.

        Raises:
            TrainingError: as `Trainer.pretrain`.
        """
        summaries = []
        for index, trainer in enumerate(self.trainers):
            training, validation = split(labels, self._fraction, self._seed + index)
            self._learned[index] = list(training)
            summaries.append(trainer.pretrain(training, validation, _listener(progress, index)))
        return summaries

    def update(self, new: Sequence[Label], progress: CommitteeListener | None = None) -> list[TrainingSummary]:
        """Let every member learn new labels, each with a replay of what it has learned before.

        Raises:
            TrainingError: as `Trainer.update`.
        """
        summaries = []
        for index, trainer in enumerate(self.trainers):
            summaries.append(trainer.update(new, self._learned[index], _listener(progress, index)))
            known = {label.key for label in self._learned[index]}
            self._learned[index] += [label for label in new if label.key not in known]
        return summaries

    def converge(self, everyone: bool = False, progress: CommitteeListener | None = None) -> list[TrainingSummary]:
        """Final convergence of the best member on its validation labels, or of everyone.

        Raises:
            TrainingError: as `Trainer.converge`.
        """
        chosen = range(len(self.trainers)) if everyone else [self.best]
        return [self.trainers[index].converge(self._learned[index], _listener(progress, index)) for index in chosen]

    @property
    def best(self) -> int:
        """Index of the member with the least force error on its validation labels; 0 without any."""
        errors = [trainer.validation_errors() for trainer in self.trainers]
        forces = [error.force_mae if error is not None else float("inf") for error in errors]
        return forces.index(min(forces))


def _listener(progress: CommitteeListener | None, index: int) -> ProgressListener | None:
    if progress is None:
        return None
    return lambda state: progress(index, state)
