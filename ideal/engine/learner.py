"""What the run has learned: data set, model, distribution, thresholds, and how all of them learn from new labels.

Two numbers are held against u. ``threshold`` says which atoms of a trajectory are uncertain: that is the user's choice
(`uncertainty.threshold`). ``in_distribution`` says which filler of an embedded cell looks like known environments: a
question of statistics, answered by the held-out quantile of u times its factor for every type of threshold. It is taken
anew as the distribution grows, but never exceeds its first value: the cells that a run learns are the outliers of its
trajectories, and a quantile that rose with them would call anything known.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ideal.config import Config
from ideal.dataset import Dataset, read_labels, write_labels
from ideal.embedding import minimum_distances
from ideal.engine.lockstep import SharedPotential
from ideal.engine.seeds import derive_seed
from ideal.engine.state_files import read_state, write_state
from ideal.engine.storage import writing
from ideal.errors import ConfigError, IdealError, UncertaintyError
from ideal.labelling.store import LabelStore
from ideal.models import load_potential, make_potential
from ideal.models.base import TrainablePotential
from ideal.models.calculator import IdealCalculator
from ideal.records import Label
from ideal.soap import SoapPowerSpectrum
from ideal.training.loss import Errors
from ideal.training.records import TrainingProgress, TrainingSummary
from ideal.training.trainer import Trainer
from ideal.uncertainty.calibration import Calibration
from ideal.uncertainty.mahalanobis import SoapMahalanobis
from ideal.uncertainty.threshold import Source, Threshold, held_out_threshold, make_threshold

Progress = Callable[[TrainingProgress], None]

GROWTH = 1.1
"""``in_distribution`` is taken anew when the environments have become this many times more."""

LARGEST_THRESHOLD = sys.float_info.max
"""No threshold exceeds it, so that an atom of an unseen species, whose u is infinite, is uncertain whatever comes."""


@dataclass
class Learner:
    """The learned part of a run's state.

    Attributes:
        config: the run's configuration.
        dataset: every label that is known.
        potential: the model.
        trainer: teaches it; holds the optimizer's state and the replay scores.
        uncertainty: distribution of the training environments.
        selection: the rule that gives `threshold`; None before `fit_distribution`.
        in_distribution: u up to which the filler of a cell counts as known; nan before `fit_distribution`.
        initial_keys: keys of the labels known at the start, in their order.
        learned_keys: keys of the labels learned since, in the order of learning.
        held_keys: keys of the labels that came since and only validate, in the order of their coming.
        updates: how often it learned.
        converged_at: number of updates at the last final convergence; -1 before any.
    """

    config: Config
    dataset: Dataset
    potential: TrainablePotential
    trainer: Trainer
    uncertainty: SoapMahalanobis
    initial_keys: list[str]
    learned_keys: list[str] = field(default_factory=list)
    held_keys: list[str] = field(default_factory=list)
    updates: int = 0
    min_distances: dict[tuple[int, int], float] = field(default_factory=dict)
    selection: Threshold | None = None
    in_distribution: float = math.nan
    converged_at: int = -1
    _held_out: float = math.nan  # in_distribution at the start, which the selection begins with
    _fitted: int = 0  # environments when in_distribution was taken last

    @property
    def threshold(self) -> float:
        """u above which an atom of a trajectory counts as uncertain; nan before `fit_distribution`."""
        return math.nan if self.selection is None else min(self.selection.value, LARGEST_THRESHOLD)

    @property
    def threshold_source(self) -> Source:
        """Where the threshold comes from: fixed, quantile, moving_average or calibrated."""
        return self.config.uncertainty.threshold.type if self.selection is None else self.selection.source

    # --- the start ----------------------------------------------------------------------------------------------------

    @classmethod
    def new(cls, config: Config, labels: Sequence[Label], elements: Sequence[str]) -> Learner:
        """An untrained learner that knows the initial labels; `pretrain` and `fit_distribution` come next.

        Args:
            config: the run's configuration.
            labels: initial labels, at least one.
            elements: chemical symbols of everything that the run will meet.

        Raises:
            ConfigError, TrainingError: the model cannot be made, or does not know an element.
        """
        dataset = _dataset(config, labels)
        potential = _potential(config, elements)
        soap = make_soap(config, potential.elements)
        return cls(
            config=config,
            dataset=dataset,
            potential=potential,
            trainer=_trainer(config, potential),
            uncertainty=SoapMahalanobis(
                soap, config.uncertainty.ridge, metric=config.uncertainty.metric, rank=config.uncertainty.rank
            ),
            initial_keys=[label.key for label in [*dataset.training, *dataset.validation]],
        )

    def pretrain(self, progress: Progress) -> TrainingSummary:
        """Fit reference energies and weights to the initial labels."""
        return self.trainer.pretrain(self.dataset.training, self.dataset.validation, progress=progress)

    def fit_distribution(self) -> None:
        """Learn the training environments and take the thresholds from them.

        Raises:
            UncertaintyError: no held-out quantile can be taken, and the threshold is not a fixed number.
        """
        config = self.config.uncertainty.threshold
        structures = [label.atoms for label in self.dataset.training]
        self.uncertainty.update(structures)
        try:
            self._held_out = self._held_out_threshold()
        except UncertaintyError:
            if config.type != "fixed":
                raise
            self._held_out = config.value
        self.in_distribution = self._held_out
        self.selection = make_threshold(config, self._held_out)
        self.min_distances = minimum_distances(structures)

    def _held_out_threshold(self) -> float:
        """Quantile of held-out u times its factor, over everything learned so far."""
        config = self.config.uncertainty
        structures = [label.atoms for label in self.dataset.training]
        self._fitted = sum(len(atoms) for atoms in structures)
        seed = derive_seed(self.config.seed, "threshold")
        known = self.uncertainty
        return held_out_threshold(config.threshold, known.soap, structures, known.ridge, seed, known.metric, known.rank)

    def calculator(self) -> IdealCalculator:
        """What trajectories move with; those that move in lockstep have their forces evaluated together."""
        shared = SharedPotential(self.potential, self.config.engine.batch_atoms)
        return IdealCalculator(shared, dispersion=self.config.model.dispersion)

    # --- learning -----------------------------------------------------------------------------------------------------

    def learn(self, labels: Sequence[Label], progress: Progress) -> TrainingSummary:
        """Update model and distribution with labels that are not known yet.

        The model learns them and a sample of the old; every environment of their cells joins the distribution. Some
        (``training.online.validation_fraction``) only validate, from this update on: their environments do not join, so
        that one that stays uncertain is asked for again in its next shape.
        """
        held = self.dataset.hold_back(labels)
        self.held_keys.extend(label.key for label in self.dataset.add(held, validation=True))
        self.trainer.add_validation(held)
        old = self.dataset.training
        held_keys = {label.key for label in held}
        shown = [label for label in labels if label.key not in held_keys]
        summary = self.trainer.update(shown, old, progress=progress)
        new = self.dataset.add(shown)
        self.learned_keys.extend(label.key for label in new)
        structures = [label.atoms for label in new]
        self.uncertainty.update(structures)
        for pair, distance in minimum_distances(structures).items():
            self.min_distances[pair] = min(distance, self.min_distances.get(pair, distance))
        self._follow_distribution()
        self.updates += 1
        return summary

    def _follow_distribution(self) -> None:
        """Take `in_distribution` anew when the distribution has grown; its cost stays a fixed share of all learning."""
        if sum(self.uncertainty.counts.values()) >= GROWTH * self._fitted:
            with contextlib.suppress(UncertaintyError):  # all alike, so far: the value before stays
                self.in_distribution = min(self._held_out, self._held_out_threshold())

    @property
    def needs_convergence(self) -> bool:
        """Whether a final training is wanted and something was learned since the last."""
        return self.config.training.final.epochs > 0 and self.converged_at != self.updates

    def converge(self, progress: Progress) -> TrainingSummary:
        """Train on everything that is known, as ``training.final`` says."""
        weights = None
        if self.config.training.final.start == "scratch":
            seed = derive_seed(self.config.seed, "scratch")
            fresh = make_potential(self.config.model, self.potential.elements, seed)
            if self.config.training.pretrain.rescale_layers:
                fresh.rescale_layers([label.atoms for label in self.dataset.training])
            weights = fresh.weights()
        summary = self.trainer.converge(self.dataset.training, progress=progress, weights=weights)
        self.converged_at = self.updates
        return summary

    def observe(self, max_u: float) -> None:
        """Take note of the largest u of a check, which a moving average follows."""
        if self.selection is not None:
            self.selection.observe(max_u)

    def recalibrate(self, calibration: Calibration) -> None:
        """Let the threshold follow new pairs of u and error."""
        if self.selection is not None:
            factor = max(1.0, self.config.uncertainty.threshold.factor)  # what the quantile is without its margin
            self.selection.recalibrate(calibration, self.in_distribution / factor, self.in_distribution)

    def publish(self, folder: Path, suffix: str = "") -> None:
        """Write ``model`` and ``uncertainty.safetensors`` of the run directory, each atomically.

        Args:
            folder: the run directory.
            suffix: "_initial" for the state after pretraining, "_run" for that before a final training from scratch.
        """
        with writing(folder):
            self.potential.save(folder / f"model{suffix}")
            self.uncertainty.save(folder / f"uncertainty{suffix}.safetensors")

    # --- state --------------------------------------------------------------------------------------------------------

    def write_initial_labels(self, path: Path) -> None:
        """Write the initial labels as extended XYZ, exact to the last bit; `load` reads them from there."""
        with writing(path):
            write_labels(path, [self.dataset[key] for key in self.initial_keys])

    def save(self, folder: Path) -> None:
        """Write everything but the labels themselves, which stand in the run directory.

        Args:
            folder: a checkpoint that is being written; the caller makes it durable.
        """
        self.potential.save(folder / "model")
        self.uncertainty.save(folder / "uncertainty.safetensors")
        write_state(folder / "trainer.safetensors", self.trainer.state(), durable=False)
        write_state(
            folder / "learner.safetensors",
            {
                "selection": self.selection.state() if self.selection else None,
                "in_distribution": self.in_distribution,
                "held_out": self._held_out,
                "fitted": self._fitted,
                "initial_keys": self.initial_keys,
                "learned_keys": self.learned_keys,
                "held_keys": self.held_keys,
                "updates": self.updates,
                "converged_at": self.converged_at,
                "min_distances": [[*pair, distance] for pair, distance in self.min_distances.items()],
            },
            durable=False,
        )

    @classmethod
    def load(cls, config: Config, folder: Path, initial_labels: Path, store: LabelStore) -> Learner:
        """The learner that `save` wrote.

        Args:
            config: the run's configuration.
            folder: the checkpoint.
            initial_labels: what `write_initial_labels` wrote.
            store: holds the labels learned since.

        Raises:
            IdealError: a label of the checkpoint is missing or a file is damaged.
        """
        state = read_state(folder / "learner.safetensors")
        dataset = _dataset(config, _initial(initial_labels, state["initial_keys"]))
        for key in state["learned_keys"]:
            dataset.add([_known(store, key)])
        held_keys = state.get("held_keys", [])  # a checkpoint of before they were held back has none
        for key in held_keys:
            dataset.add([_known(store, key)], validation=True)
        potential = load_potential(folder / "model", config.model)
        trainer = _trainer(config, potential)
        trainer.restore(read_state(folder / "trainer.safetensors"))
        uncertainty = SoapMahalanobis.load(folder / "uncertainty.safetensors", threads=config.uncertainty.threads)
        selection = make_threshold(config.uncertainty.threshold, state["held_out"])
        selection.restore(state["selection"])
        return cls(
            config=config,
            dataset=dataset,
            potential=potential,
            trainer=trainer,
            uncertainty=uncertainty,
            initial_keys=state["initial_keys"],
            learned_keys=state["learned_keys"],
            held_keys=held_keys,
            updates=state["updates"],
            converged_at=state["converged_at"],
            min_distances={(z1, z2): distance for z1, z2, distance in state["min_distances"]},
            selection=selection,
            in_distribution=state["in_distribution"],
            _held_out=state["held_out"],
            _fitted=state["fitted"],
        )


def make_soap(config: Config, elements: Sequence[str]) -> SoapPowerSpectrum:
    """The descriptor of a configuration for ``elements``; the keys of `SoapConfig` are its arguments."""
    options = dict(config.uncertainty.soap)
    return SoapPowerSpectrum(species=list(elements), threads=config.uncertainty.threads, **options)


def errors_as_dict(errors: Errors) -> dict[str, float | None]:
    """Mean absolute errors under the names of the events: eV/atom, eV/Å, GPa."""
    return {"energy_mae": errors.energy_mae, "force_mae": errors.force_mae, "stress_mae": errors.stress_mae}


def _potential(config: Config, elements: Sequence[str]) -> TrainablePotential:
    model = config.model
    if model.path is None:
        wanted = list(model.elements or elements)
        potential = make_potential(model, wanted, derive_seed(config.seed, "model"))
    else:
        potential = load_potential(model.path, model)
    unknown = sorted(set(elements) - set(potential.elements))
    if unknown:
        key = "model.elements" if model.path is None else "model.path"
        raise ConfigError(
            f"{key}: the model knows {', '.join(potential.elements)}, but the structures hold {', '.join(unknown)}; "
            + ("add it to the list" if model.path is None else "name a model that knows it")
        )
    return potential


def _dataset(config: Config, labels: Sequence[Label]) -> Dataset:
    seed = derive_seed(config.seed, "split")
    return Dataset(labels, config.dataset.validation_fraction, seed, config.training.online.validation_fraction)


def _known(store: LabelStore, key: str) -> Label:
    label = store.get(key)
    if not isinstance(label, Label):
        raise IdealError(
            f"{store.path}: the label {key[:16]}, which the model has learned, is missing; restore the file"
        )
    return label


def _trainer(config: Config, potential: TrainablePotential) -> Trainer:
    return Trainer(potential, config.training, derive_seed(config.seed, "trainer"))


def _initial(path: Path, keys: Sequence[str]) -> list[Label]:
    """The initial labels with the keys that they had (a file gives keys of its own)."""
    labels = read_labels(path)
    if len(labels) != len(keys):
        raise IdealError(f"{path}: holds {len(labels)} labels but the checkpoint knows {len(keys)}; restore the file")
    return [replace(label, key=key) for label, key in zip(labels, keys, strict=True)]
