"""Batches: from labels to losses, gradients and errors, in parts of bounded size.

A batch larger than ``max_atoms`` is evaluated in parts whose gradients add up to those of the whole, so that memory
depends neither on the batch nor on the size of the model's other structures. The parts' losses are shares of the
whole's (`ideal.training.loss.Counts`): the result differs by rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ideal.config import LossConfig, TrainingConfig
from ideal.errors import TrainingError
from ideal.models.base import TrainablePotential
from ideal.records import Label
from ideal.training.loss import (
    Counts,
    Errors,
    Sample,
    SampleErrors,
    Targets,
    loss,
    loss_at,
    make_sample,
    make_targets,
    mean_errors,
    sample_errors,
)

_CACHED_EDGES = 20_000_000


class SampleCache:
    """Samples of labels that were prepared already, with a bounded number of edges together.

    Args:
        most_edges: beyond it all samples are forgotten.
    """

    def __init__(self, most_edges: int = _CACHED_EDGES) -> None:
        self._most = most_edges
        self._samples: dict[str, Sample] = {}
        self.edges = 0

    def get(self, label: Label) -> Sample | None:
        """The sample of this very label; None when there is none."""
        sample = self._samples.get(label.key)
        return sample if sample is not None and sample.label is label else None

    def add(self, sample: Sample) -> None:
        """Keep a sample, in the place of another one of its label."""
        replaced = self._samples.pop(sample.label.key, None)
        self.edges -= 0 if replaced is None else replaced.graph.source.shape[0]
        n_edges = sample.graph.source.shape[0]
        if self.edges + n_edges > self._most:
            self._samples.clear()
            self.edges = 0
        self._samples[sample.label.key] = sample
        self.edges += n_edges


class Batches:
    """Evaluates a potential on labels and takes optimizer steps.

    Args:
        potential: changed in place by `step`.
        config: loss, ``max_atoms``, ``max_gradient_norm``.

    Attributes:
        evaluated: structures evaluated so far, in steps and in judging: what training costs.

    Example:
        >>> batches = Batches(potential, TrainingConfig())
        >>> batches.errors(batches.prepare(labels)).force_mae < 1.0
        True
    """

    def __init__(self, potential: TrainablePotential, config: TrainingConfig) -> None:
        self.potential = potential
        self.evaluated = 0
        self._config = config
        self._parameters: list[Tensor] = [parameter for _, parameter in potential.named_parameters()]
        self._samples = SampleCache()
        self._judging = loss_at(config.loss, 1.0)

    @property
    def loss_config(self) -> LossConfig:
        """Weights and delta of the loss that judges: those of a training's end."""
        return self._judging

    def prepare(self, labels: Sequence[Label]) -> list[Sample]:
        """Samples of labels; neighbor graphs are built once and kept as long as they fit.

        Raises:
            TrainingError: an element that the potential does not know.
        """
        samples = []
        for label in labels:
            sample = self._samples.get(label)
            if sample is None:
                sample = make_sample(label, self.potential.graph(label.atoms), self.loss_config.filler)
                self._samples.add(sample)
            samples.append(sample)
        return samples

    def share_graphs(self, other: Batches) -> None:
        """Use the graphs that ``other`` has built, and the other way round; both potentials have equal cutoffs."""
        self._samples = other._samples

    def step(
        self, optimizer: torch.optim.Optimizer, batch: Sequence[Sample], fallen: float = 1.0
    ) -> tuple[float, list[SampleErrors]]:
        """One optimizer step.

        Args:
            optimizer: of the potential's parameters.
            batch: what to learn; taken in parts of at most ``max_atoms`` atoms.
            fallen: how far the learning rate has fallen, which decides the weight of the energy.

        Returns:
            The loss before the step, and the errors of the parts before it, in the order of ``batch``.

        Raises:
            TrainingError: loss or gradient is not finite; no step was taken.
        """
        whole, weights = Counts.of(batch), loss_at(self._config.loss, fallen)
        optimizer.zero_grad(set_to_none=True)
        total, errors = 0.0, []
        for part in self.parts(batch):
            prediction = self.potential.predict([sample.graph for sample in part], differentiable=True)
            targets = self._targets(part)
            value = loss(prediction, targets, weights, whole)
            value.backward()
            total += value.item()
            errors.append(sample_errors(prediction, targets))
        self.evaluated += len(batch)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_gradient_norm)
        if not bool(torch.isfinite(torch.tensor(total)) & torch.isfinite(norm)):
            keys = ", ".join(sample.label.key[:12] for sample in batch)
            raise TrainingError(
                f"the training loss is {total} with gradient norm {norm.item()} on labels {keys}; the model was "
                "put back; lower the learning rate or remove the labels"
            )
        optimizer.step()
        self.potential.changed()
        return total, errors

    def evaluate(self, samples: Sequence[Sample]) -> tuple[float, list[SampleErrors]]:
        """The loss of all samples as one batch, and errors of every structure in order."""
        whole = Counts.of(samples)
        total, errors = 0.0, []
        for part in self.parts(samples):
            prediction = self.potential.predict([sample.graph for sample in part])
            targets = self._targets(part)
            total += loss(prediction, targets, self.loss_config, whole).item()
            errors.append(sample_errors(prediction, targets))
        self.evaluated += len(samples)
        return total, errors

    def loss(self, samples: Sequence[Sample]) -> float:
        """The loss of all samples as one batch."""
        return self.evaluate(samples)[0]

    def errors(self, samples: Sequence[Sample]) -> Errors:
        """Mean absolute errors; zero over no samples."""
        return mean_errors(self.evaluate(samples)[1])

    def residuals(self, samples: Sequence[Sample]) -> list[float]:
        """Label minus prediction, eV per structure."""
        residuals: list[float] = []
        for part in self.parts(samples):
            predicted = self.potential.predict([sample.graph for sample in part]).energies.detach().double().tolist()
            for sample, energy in zip(part, predicted, strict=True):
                residuals.append(sample.label.energy - self.potential.reference_energy(sample.label.atoms) - energy)
        self.evaluated += len(samples)
        return residuals

    def parts(self, samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
        """Consecutive parts of at most ``max_atoms`` atoms, a larger structure by itself."""
        start = atoms = 0
        for index, sample in enumerate(samples):
            size = sample.graph.n_atoms
            if index > start and atoms + size > self._config.max_atoms:
                yield samples[start:index]
                start, atoms = index, 0
            atoms += size
        if start < len(samples):
            yield samples[start:]

    def _targets(self, samples: Sequence[Sample]) -> Targets:
        return make_targets(samples, [self.potential.reference_energy(sample.label.atoms) for sample in samples])


def new_optimizer(parameters: Mapping[str, Tensor], learning_rate: float) -> torch.optim.AdamW:
    """AdamW with AMSGrad, without weight decay."""
    return torch.optim.AdamW(parameters.values(), lr=learning_rate, weight_decay=0.0, amsgrad=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
