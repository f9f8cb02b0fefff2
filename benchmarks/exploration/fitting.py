"""Many passes in little time: the benchmark's own training, with SOAP instead of the library's AdamW.

    M, V: Adam's averages of G and of (Q_L^T G Q_R)^2,    Q_L, Q_R: eigenvectors of the averages of G G^T and G^T G
    W <- W - rate Q_L [Q_L^T M Q_R / (sqrt(V) + eps)] Q_R^T

Every round of every arm trains, on one core: what counts is how far few passes lead. Loss: squared errors of energies
per atom and of force components; the rate rises shortly, then falls linearly; the averaged weights are kept.

Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam (ICLR 2025), arXiv:2409.11321.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from moments import MomentPotential
from torch import Tensor

from ideal.config import PretrainConfig, TrainingConfig
from ideal.records import Label
from ideal.training.average import WeightAverage
from ideal.training.trainer import Trainer

AVERAGE = 0.995
_DECAY_MEAN, _DECAY_SQUARE, _EPSILON, _EVERY = 0.95, 0.95, 1e-8, 10
_WARM_UP = 0.03


@dataclass(frozen=True)
class Plan:
    """How a training goes.

    Attributes:
        steps: of the optimizer.
        rate: peak learning rate.
        batch: labels per step.
        decay: of weight matrices, per step and unit of the rate.
        energy: weight of squared energies per atom (eV) against squared force components (eV/Å).
    """

    steps: int
    rate: float = 2e-2
    batch: int = 8
    decay: float = 0.0
    energy: float = 20.0


class Soap:
    """SOAP on parameters in place; vectors are stepped as by Adam.

    Args:
        parameters: of a network; of more than two axes all but the first count as one.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self._states: list[dict[str, Tensor]] = [{} for _ in parameters]
        self._steps = 0

    @torch.no_grad()
    def step(self, rate: float, decay: float = 0.0) -> None:
        """One step along the gradients; the first one only looks. Matrices shrink by ``rate * decay`` before it."""
        for parameter, state in zip(self._parameters, self._states, strict=True):
            if parameter.grad is None:
                continue
            gradient = parameter.grad.flatten(1) if parameter.dim() > 1 else parameter.grad
            if not self._steps:
                self._begin(state, gradient)
                continue
            if parameter.dim() > 1:
                parameter.mul_(1 - rate * decay)
            parameter.sub_(rate * self._direction(state, gradient).view_as(parameter))
        self._steps += 1

    def _begin(self, state: dict[str, Tensor], gradient: Tensor) -> None:
        state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        if gradient.dim() > 1 and min(gradient.shape) > 1:
            for side, product in (("left", gradient @ gradient.T), ("right", gradient.T @ gradient)):
                state[side] = (1 - _DECAY_SQUARE) * product
                state[f"{side} axes"] = torch.linalg.eigh(product)[1].flip(1)

    def _direction(self, state: dict[str, Tensor], gradient: Tensor) -> Tensor:
        state["mean"].lerp_(gradient, 1 - _DECAY_MEAN)
        mean = state["mean"]
        rotated = "left" in state
        turned, mean = (self._turn(state, each) if rotated else each for each in (gradient, mean))
        state["square"].lerp_(turned * turned, 1 - _DECAY_SQUARE)
        unbiased_mean = mean / (1 - _DECAY_MEAN**self._steps)
        unbiased_square = state["square"] / (1 - _DECAY_SQUARE**self._steps)
        step = unbiased_mean / (unbiased_square.sqrt() + _EPSILON)
        if not rotated:
            return step
        result: Tensor = state["left axes"] @ step @ state["right axes"].T
        self._follow(state, gradient)
        return result

    @staticmethod
    def _turn(state: dict[str, Tensor], matrix: Tensor) -> Tensor:
        return state["left axes"].T @ matrix @ state["right axes"]

    def _follow(self, state: dict[str, Tensor], gradient: Tensor) -> None:
        """Average the products; now and then one power iteration turns the axes after them."""
        state["left"].lerp_(gradient @ gradient.T, 1 - _DECAY_SQUARE)
        state["right"].lerp_(gradient.T @ gradient, 1 - _DECAY_SQUARE)
        if self._steps % _EVERY:
            return
        for axis, side in enumerate(("left", "right")):
            axes = state[f"{side} axes"]
            order = ((state[side] @ axes) * axes).sum(0).argsort(descending=True)
            state["square"] = state["square"].index_select(axis, order)
            state[f"{side} axes"] = torch.linalg.qr(state[side] @ axes[:, order])[0]


def normalize(potential: MomentPotential, labels: Sequence[Label]) -> None:
    """Reference energies and the energy scale as the library's pretraining sets them, and the features' scale."""
    potential.scale_features([each.atoms for each in labels])
    Trainer(potential, TrainingConfig(pretrain=PretrainConfig(epochs=0)), 0).pretrain(labels)


def fit(potential: MomentPotential, labels: Sequence[Label], plan: Plan, seed: int) -> None:
    """Train on labels drawn pass by pass; the potential gets the averaged weights."""
    graphs = [potential.graph(each.atoms) for each in labels]
    references = np.array([potential.reference_energy(each.atoms) for each in labels])
    n_atoms = len(labels[0].atoms)
    energies = torch.tensor((np.array([each.energy for each in labels]) - references) / n_atoms).to(potential.dtype)
    forces = torch.tensor(np.array([each.forces for each in labels])).to(potential.dtype)
    parameters: list[Any] = [parameter for _, parameter in potential.named_parameters()]
    optimizer, average = Soap(parameters), WeightAverage(potential, AVERAGE)
    rng, order = np.random.default_rng([seed, 23]), np.zeros(0, dtype=int)
    for step in range(plan.steps):
        if len(order) < min(plan.batch, len(labels)):
            order = rng.permutation(len(labels))
        batch, order = order[: plan.batch], order[plan.batch :]
        found = potential.predict([graphs[index] for index in batch], differentiable=True)
        energy_errors = found.energies / n_atoms - energies[batch]
        force_errors = found.forces.view(len(batch), n_atoms, 3) - forces[batch]
        loss = plan.energy * energy_errors.square().mean() + force_errors.square().mean()
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        done = step / plan.steps
        optimizer.step(plan.rate * min(1.0, done / _WARM_UP + 0.02) * (1 - done), plan.decay)
        average.follow()
    potential.set_weights(average.weights())
