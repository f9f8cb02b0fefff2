"""The parts of training: averages, rates, gates, batches in parts, core weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ideal.config import LossConfig, OnlineConfig
from ideal.errors import TrainingError
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import Label
from ideal.training.average import WeightAverage
from ideal.training.batches import Batches
from ideal.training.loss import Errors
from ideal.training.policy import Keeper, RatePolicy, cosine
from ideal.training.update import Judges, Verdict, passes_gate

from .conftest import TRAINING


def test_average_follows_the_formula(potential: M3GNetPotential) -> None:
    average = WeightAverage(potential, decay=0.3)
    name, parameter = next(iter(potential.named_parameters()))
    expected = parameter.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            parameter += 1.0
        average.follow()
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.detach()
    torch.testing.assert_close(average.weights()[name], expected)


def test_average_is_applied_within_a_block_alone(potential: M3GNetPotential) -> None:
    average = WeightAverage(potential, decay=0.9)
    first = potential.fingerprint()
    with torch.no_grad():
        for _, parameter in potential.named_parameters():
            parameter += 0.1
    potential.changed()
    moved = potential.fingerprint()
    with average.applied():
        assert potential.fingerprint() == first
    assert potential.fingerprint() == moved


def test_decay_zero_is_the_present_weights(potential: M3GNetPotential) -> None:
    average = WeightAverage(potential, decay=0.0)
    with torch.no_grad():
        for _, parameter in potential.named_parameters():
            parameter += 0.1
    average.follow()
    for name, parameter in potential.named_parameters():
        torch.testing.assert_close(average.weights()[name], parameter.detach())


def test_rate_policy() -> None:
    policy = RatePolicy()
    for _ in range(9):
        policy.failed()
    assert policy.factor == 1 / 16
    for _ in range(9):
        policy.helped()
    assert policy.factor == 1.0
    assert cosine(0.0) == pytest.approx(0.01)
    assert cosine(0.0, warm_up=0.0) == 1.0
    assert cosine(1.0) == pytest.approx(0.01)


def test_keeper_says_why(potential: M3GNetPotential) -> None:
    keeper = Keeper(potential, 1.0)
    first = potential.weights()
    assert not keeper.look(2.0, first)
    assert "from 1 to 2; the model was put back" in keeper.reason
    assert not keeper.look(0.5, first, passes_gate=False)
    assert "larger loss on the validation labels" in keeper.reason
    assert keeper.look(0.9, first)
    assert not keeper.reason


def test_gates() -> None:
    def verdict(fresh: float, others: float, force: float = 1.0) -> Verdict:
        return Verdict(fresh + others, fresh, others, Errors(0.0, force, None, 1), Errors(0.0, force, None, 1))

    judges = Judges([], [None], are_validation=True)  # type: ignore[list-item]
    strict, balanced = OnlineConfig(gate="strict"), OnlineConfig()
    before = verdict(5.0, 1.0)
    assert passes_gate(judges, before, verdict(2.0, 1.0), strict)
    assert not passes_gate(judges, before, verdict(2.0, 1.5), strict)
    assert passes_gate(judges, before, verdict(2.0, 1.5), balanced)
    assert not passes_gate(judges, before, verdict(1.2, 1.5), balanced)
    assert passes_gate(judges, before, verdict(1.2, 1.5, force=1e-4), strict)
    assert passes_gate(replace(judges, are_validation=False), before, verdict(1.0, 9.0), strict)


def gradient(potential: M3GNetPotential, labels: list[Label], max_atoms: int) -> tuple[float, torch.Tensor]:
    """Loss and unclipped gradient of one batch."""
    config = TRAINING.model_copy(update={"max_atoms": max_atoms, "max_gradient_norm": 1e9})
    batches = Batches(potential, config)
    frozen = torch.optim.SGD([p for _, p in potential.named_parameters()], lr=0.0)
    value, errors = batches.step(frozen, batches.prepare(labels))
    assert sum(len(part.energy) for part in errors) == len(labels)
    grads = [p.grad.ravel() for _, p in potential.named_parameters() if p.grad is not None]
    return value, torch.cat(grads).clone()


def test_parts_of_a_batch_add_up(labels: list[Label], potential: M3GNetPotential) -> None:
    """One structure at a time gives loss and gradient of the whole batch; labels without stress among them."""
    potential.double()
    mixed = [labels[0], replace(labels[1], stress=None), *labels[2:5]]
    whole, parts = gradient(potential, mixed, 10_000), gradient(potential, mixed, 5)
    assert whole[0] == pytest.approx(parts[0], rel=1e-10)
    torch.testing.assert_close(whole[1], parts[1], rtol=1e-8, atol=1e-12)


def test_filler_weighs_less(labels: list[Label], potential: M3GNetPotential) -> None:
    """With weight 0 the filler's forces do not matter; a label without core counts with all its atoms."""
    config = TRAINING.model_copy(update={"loss": LossConfig(energy=0.0, stress=0.0, filler=0.0)})
    cell = replace(labels[0], info={"core": [0, 2]})
    wrong = cell.forces.copy()
    wrong[[1, 3]] += 5.0

    def value(label: Label) -> float:
        batches = Batches(potential, config)
        return batches.loss(batches.prepare([label]))

    assert value(replace(cell, forces=wrong)) == pytest.approx(value(cell))
    core_only = np.zeros((4, 3))
    core_only[[0, 2]] = 5.0
    assert value(replace(cell, forces=cell.forces + core_only)) > value(cell)
    assert value(replace(labels[0], forces=wrong)) > value(labels[0])


def test_a_step_that_is_not_finite_is_refused(labels: list[Label], potential: M3GNetPotential) -> None:
    batches = Batches(potential, TRAINING)
    before = potential.fingerprint()
    poisoned = replace(labels[0], forces=np.full_like(labels[0].forces, np.nan))
    optimizer = torch.optim.SGD([p for _, p in potential.named_parameters()], lr=1.0)
    with pytest.raises(TrainingError, match="training loss is nan"):
        batches.step(optimizer, batches.prepare([poisoned]))
    assert potential.fingerprint() == before
