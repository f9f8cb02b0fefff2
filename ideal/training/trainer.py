"""Training: once on the initial labels, then a little whenever new labels arrive.

Pretraining fits reference energies, sets the energy scale, and runs AdamW (AMSGrad) with a cosine decay. An update
shows all new labels and an importance-sampled replay of the old ones (`ideal.training.replay`) at a low learning rate.
Both keep the best weights they meet and never leave the model worse than they found it: an update that does not help is
undone, and says so.

Every random number comes from the seed and the count of updates; with the state put back (`Trainer.state`,
`Trainer.restore`) a resumed run continues bitwise on the CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from ideal.config import OnlineConfig, TrainingConfig
from ideal.errors import TrainingError
from ideal.models.base import TrainablePotential
from ideal.records import Label
from ideal.training import state as packing
from ideal.training.loss import (
    Errors,
    Sample,
    SampleErrors,
    loss,
    make_sample,
    make_targets,
    mean_errors,
    sample_errors,
)
from ideal.training.records import TrainingProgress, TrainingSummary
from ideal.training.reference_energies import fit_reference_energies
from ideal.training.replay import Replay, scores

ProgressListener = Callable[[TrainingProgress], None]

_CACHED_EDGES = 20_000_000
_EVALUATION_BATCH = 8
_WARM_UP = 0.05
_FINAL_RATE = 0.01
_LOOKS = 10
_LEAST_SCALE = 0.01


class Trainer:
    """Trains one potential in place.

    Args:
        potential: the potential; its weights change.
        config: loss, pretraining, online updates.
        seed: seed of shuffling and replay.

    Example:
        >>> trainer = Trainer(potential, TrainingConfig(), seed=0)
        >>> summary = trainer.pretrain(labels, validation)
        >>> summary.after.force_mae < summary.before.force_mae
        True
    """

    def __init__(self, potential: TrainablePotential, config: TrainingConfig, seed: int) -> None:
        self.potential = potential
        self.config = config
        self.replay = Replay()
        self._seed = seed
        self._updates = 0
        self._validation: list[Label] = []
        self._samples: dict[str, Sample] = {}
        self._cached_edges = 0
        self._parameters = dict(potential.named_parameters())
        self._online = self._optimizer(config.online.learning_rate)

    def _optimizer(self, learning_rate: float) -> torch.optim.AdamW:
        return torch.optim.AdamW(self._parameters.values(), lr=learning_rate, weight_decay=0.0, amsgrad=True)

    # --- public ---

    def pretrain(
        self,
        labels: Sequence[Label],
        validation: Sequence[Label] = (),
        progress: ProgressListener | None = None,
    ) -> TrainingSummary:
        """Learn the initial labels.

        Args:
            labels: what to learn.
            validation: never learned; the best weights are chosen by it, now and in later updates.
            progress: called after every epoch.

        Returns:
            errors before (with fitted reference energies) and after, time, steps.

        Raises:
            TrainingError: no labels, an unknown element, or a loss that is not finite (the model is put back).
        """
        started = time.perf_counter()
        settings = self.config.pretrain
        self._normalize(labels)
        samples = self._prepare(labels)
        self._validation = list(validation)
        judges = self._prepare(self._validation) or samples
        before, validation_before = self._errors(samples), self._validation_errors()
        keeper = _Keeper(self.potential, self._loss(judges))

        optimizer = self._optimizer(settings.learning_rate)
        rng = np.random.default_rng([self._seed, 1])
        batches_per_epoch = math.ceil(len(samples) / settings.batch_size)
        steps = epochs = 0
        for epoch in range(settings.epochs):
            order = rng.permutation(len(samples))
            log = _EpochLog()
            for first in range(0, len(samples), settings.batch_size):
                done = steps / (settings.epochs * batches_per_epoch)
                if settings.max_seconds is not None:
                    done = max(done, (time.perf_counter() - started) / settings.max_seconds)
                _set_rate(optimizer, settings.learning_rate * _cosine(done))
                batch = [samples[i] for i in order[first : first + settings.batch_size]]
                log.add(*self._step(optimizer, batch, keeper))
                steps += 1
                if done >= 1:
                    break
            epochs += 1
            out_of_time = done >= 1
            if out_of_time or epoch + 1 == settings.epochs or (epoch + 1) % max(1, settings.epochs // _LOOKS) == 0:
                keeper.look(self._loss(judges))
            if progress is not None:
                progress(log.progress("pretrain", epoch + 1, settings.epochs))
            if out_of_time:
                break
        keeper.restore_best()
        self._online = self._optimizer(self.config.online.learning_rate)
        after = self._score(samples)
        return TrainingSummary(
            "pretrain",
            before,
            after,
            validation_before,
            self._validation_errors(),
            time.perf_counter() - started,
            steps,
            epochs,
            rolled_back=keeper.best_is_first and steps > 0,
            reason=keeper.reason if steps else "",
        )

    def update(
        self, new: Sequence[Label], old: Sequence[Label], progress: ProgressListener | None = None
    ) -> TrainingSummary:
        """Learn new labels without forgetting the old.

        Args:
            new: labels to learn; every pass shows all of them.
            old: labels learned before; every pass shows ``config.online.replay`` of them, drawn by importance.
            progress: called after every pass.

        Returns:
            errors on ``new`` before and after; ``rolled_back`` with a reason when the update did not help.

        Raises:
            TrainingError: no new labels, an unknown element, or a loss that is not finite (the model is put back).
        """
        started = time.perf_counter()
        settings: OnlineConfig = self.config.online
        if not new:
            raise TrainingError("0 new labels: an update needs at least one")
        new_keys = {label.key for label in new}
        old = [label for label in old if label.key not in new_keys]
        keys = [label.key for label in old]
        fresh = self._prepare(new)
        rescored = self._prepare([old[i] for i in self.replay.stalest(keys, settings.rescore)])
        if rescored:
            self._score(rescored)
        judges = fresh + (self._prepare(self._validation) or rescored)
        before, validation_before = self._errors(fresh), self._validation_errors()
        keeper = _Keeper(self.potential, self._loss(judges))
        memory = packing.pack_optimizer(self._online, self._parameters)

        self._updates += 1
        rng = np.random.default_rng([self._seed, 2, self._updates])
        steps = replayed = 0
        for epoch in range(settings.epochs):
            _set_rate(self._online, settings.learning_rate * _cosine(epoch / settings.epochs, warm_up=0.0))
            drawn = self.replay.draw(keys, settings.replay, rng)
            replayed += len(drawn)
            shown = fresh + self._prepare([old[i] for i in drawn])
            order = rng.permutation(len(shown))
            log = _EpochLog()
            for first in range(0, len(shown), settings.batch_size):
                batch = [shown[i] for i in order[first : first + settings.batch_size]]
                value, errors = self._step(self._online, batch, keeper)
                self.replay.record([sample.label.key for sample in batch], scores(errors))
                log.add(value, errors)
                steps += 1
            if epoch + 1 == settings.epochs or (epoch + 1) % max(1, settings.epochs // 3) == 0:
                keeper.look(self._loss(judges))
            if progress is not None:
                progress(log.progress("update", epoch + 1, settings.epochs))
        keeper.restore_best()
        if keeper.best_is_first:
            packing.unpack_optimizer(memory, self._online, self._parameters)
        after = self._score(fresh)
        return TrainingSummary(
            "update",
            before,
            after,
            validation_before,
            self._validation_errors(),
            time.perf_counter() - started,
            steps,
            settings.epochs,
            replayed,
            keeper.best_is_first,
            keeper.reason,
        )

    def errors(self, labels: Sequence[Label]) -> Errors:
        """Mean absolute errors of the present model; zero over no labels."""
        return self._errors(self._prepare(labels))

    def state(self) -> dict[str, Any]:
        """Everything but the weights that decides what the next update does: plain arrays and numbers."""
        return {
            "updates": self._updates,
            **packing.with_prefix("optimizer", packing.pack_optimizer(self._online, self._parameters)),
            **packing.with_prefix("replay", self.replay.state()),
            **packing.with_prefix("validation", packing.pack_labels(self._validation)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave; the potential's weights are restored by loading the potential.

        Raises:
            TrainingError: the state is incomplete or belongs to another model.
        """
        try:
            packing.unpack_optimizer(packing.without_prefix("optimizer", state), self._online, self._parameters)
            self.replay.restore(packing.without_prefix("replay", state))
            self._validation = packing.unpack_labels(packing.without_prefix("validation", state))
            self._updates = int(state["updates"])
        except KeyError as error:
            raise TrainingError(f"the trainer's state lacks {error}; resume from an older checkpoint") from None

    # --- inside ---

    def _normalize(self, labels: Sequence[Label]) -> None:
        """Reference energies and energy scale.

        A new potential takes the reference energies of the labels and their root mean square force as its scale. Then,
        and for a fitted one only, reference energies move by what the predictions leave unexplained.
        """
        potential = self.potential
        structures = [label.atoms for label in labels]
        energies = [label.energy for label in labels]
        if not potential.is_fitted:
            references = fit_reference_energies(structures, energies, potential.elements)
            rms = math.sqrt(np.mean(np.concatenate([label.forces.ravel() for label in labels]) ** 2))
            potential.set_normalization(references, max(rms, _LEAST_SCALE))
            potential.is_fitted = True
        residuals = self._residuals(self._prepare(labels))
        present = potential.reference_energies
        shifts = fit_reference_energies(structures, residuals, potential.elements)
        potential.set_normalization({symbol: present[symbol] + shift for symbol, shift in shifts.items()})

    def _residuals(self, samples: Sequence[Sample]) -> list[float]:
        """Label minus prediction, eV per structure."""
        residuals: list[float] = []
        for batch in _chunks(samples, _EVALUATION_BATCH):
            predicted = self.potential.predict([sample.graph for sample in batch]).energies.detach().double().tolist()
            for sample, energy in zip(batch, predicted, strict=True):
                reference = self.potential.reference_energy(sample.label.atoms)
                residuals.append(sample.label.energy - reference - energy)
        return residuals

    def _prepare(self, labels: Sequence[Label]) -> list[Sample]:
        """Samples of labels; neighbor graphs are built once."""
        samples = []
        for label in labels:
            sample = self._samples.get(label.key)
            if sample is None or sample.label is not label:
                sample = make_sample(label, self.potential.graph(label.atoms))
                if self._cached_edges > _CACHED_EDGES:
                    self._samples.clear()
                    self._cached_edges = 0
                self._samples[label.key] = sample
                self._cached_edges += sample.graph.source.shape[0]
            samples.append(sample)
        return samples

    def _step(
        self, optimizer: torch.optim.Optimizer, batch: Sequence[Sample], keeper: _Keeper
    ) -> tuple[float, SampleErrors]:
        """One optimizer step; its loss and errors before the step."""
        prediction = self.potential.predict([sample.graph for sample in batch], differentiable=True)
        targets = make_targets(batch, [self.potential.reference_energy(s.label.atoms) for s in batch])
        value = loss(prediction, targets, self.config.loss)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.config.max_gradient_norm)
        if not bool(torch.isfinite(value) & torch.isfinite(norm)):
            keeper.restore_first()
            keys = ", ".join(sample.label.key[:12] for sample in batch)
            raise TrainingError(
                f"the training loss is {value.item()} with gradient norm {norm.item()} on labels {keys}; the model was "
                "put back; lower the learning rate or remove the labels"
            )
        optimizer.step()
        self.potential.changed()
        return value.item(), sample_errors(prediction, targets)

    def _evaluate(self, samples: Sequence[Sample]) -> tuple[float, list[SampleErrors]]:
        """Loss averaged over structures, and errors of every structure."""
        total, errors = 0.0, []
        for batch in _chunks(samples, _EVALUATION_BATCH):
            prediction = self.potential.predict([sample.graph for sample in batch])
            targets = make_targets(batch, [self.potential.reference_energy(s.label.atoms) for s in batch])
            total += loss(prediction, targets, self.config.loss).item() * len(batch)
            errors.append(sample_errors(prediction, targets))
        return total / max(len(samples), 1), errors

    def _loss(self, samples: Sequence[Sample]) -> float:
        return self._evaluate(samples)[0]

    def _errors(self, samples: Sequence[Sample]) -> Errors:
        return mean_errors(self._evaluate(samples)[1])

    def _score(self, samples: Sequence[Sample]) -> Errors:
        """Errors, and the replay scores that follow from them."""
        errors = self._evaluate(samples)[1]
        values = np.concatenate([scores(batch) for batch in errors])
        self.replay.record([sample.label.key for sample in samples], values)
        return mean_errors(errors)

    def _validation_errors(self) -> Errors | None:
        return self.errors(self._validation) if self._validation else None


class _Keeper:
    """Remembers the best weights seen."""

    def __init__(self, potential: TrainablePotential, value: float) -> None:
        self._potential = potential
        self._first = self._best = potential.weights()
        self._first_value = self._best_value = value
        self._last_value = value
        self.best_is_first = True

    def look(self, value: float) -> None:
        """Judge the present weights by their loss."""
        self._last_value = value
        if value < self._best_value:
            self._best, self._best_value, self.best_is_first = self._potential.weights(), value, False

    def restore_best(self) -> None:
        """Put the best weights back."""
        self._potential.set_weights(self._best)

    def restore_first(self) -> None:
        """Put the first weights back."""
        self._potential.set_weights(self._first)

    @property
    def reason(self) -> str:
        """Why the first weights were kept; empty when they were not."""
        if not self.best_is_first:
            return ""
        return (
            f"the loss on the labels that judge went from {self._first_value:.4g} to {self._last_value:.4g}; "
            "the model was put back"
        )


class _EpochLog:
    """Averages over the steps of one epoch."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._errors: list[SampleErrors] = []

    def add(self, value: float, errors: SampleErrors) -> None:
        self._losses.append(value)
        self._errors.append(errors)

    def progress(self, phase: Literal["pretrain", "update"], epoch: int, epochs: int) -> TrainingProgress:
        errors = mean_errors(self._errors)
        return TrainingProgress(
            phase,
            epoch,
            epochs,
            float(np.mean(self._losses)),
            errors.energy_mae,
            errors.force_mae,
            errors.stress_mae,
        )


def _cosine(done: float, warm_up: float = _WARM_UP) -> float:
    """Learning rate relative to its peak: a short linear warm-up, then a cosine down to a hundredth."""
    if done < warm_up:
        return _FINAL_RATE + (1 - _FINAL_RATE) * done / warm_up
    phase = min((done - warm_up) / (1 - warm_up), 1.0)
    return _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * phase))


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _chunks(samples: Sequence[Sample], size: int) -> Iterable[Sequence[Sample]]:
    return (samples[first : first + size] for first in range(0, len(samples), size))
