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
from ideal.training.batches import Batches, SampleCache
from ideal.training.loss import Errors
from ideal.training.policy import Keeper, RatePolicy, cosine
from ideal.training.update import Judges, Verdict, passes_gate

from .conftest import TRAINING, cluster_label, emt_label


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


def test_keeper_of_weights_that_begin_elsewhere(potential: M3GNetPotential) -> None:
    """They need not beat the first ones at once; how far they must come in the end is the allowance."""
    weights = potential.weights()
    keeper = Keeper(potential, 1.0, allowance=4.0)
    assert keeper.look(50.0, weights) and keeper.look(5.0, weights) and not keeper.look(6.0, weights)
    assert keeper.best_is_first and "from 1 to 6, allowed were 4; the model was put back" in keeper.reason
    assert keeper.look(3.0, weights) and not keeper.best_is_first and not keeper.reason
    keeper = Keeper(potential, 1.0, allowance=1.0)
    assert keeper.look(1.5, weights) and keeper.best_is_first
    assert keeper.look(0.9, weights) and not keeper.best_is_first


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


def test_the_loss_that_judges_does_not_depend_on_the_parts(labels: list[Label], potential: M3GNetPotential) -> None:
    """Cells of different sizes, some without stress: the same loss in one part and in several."""
    potential.double()
    mixed = [replace(labels[0], stress=None), labels[1], cluster_label(), emt_label(2, repeat=2), labels[3]]
    values = []
    for max_atoms in (10_000, 8):
        batches = Batches(potential, TRAINING.model_copy(update={"max_atoms": max_atoms}))
        values.append(batches.loss(batches.prepare(mixed)))
    assert values[0] == pytest.approx(values[1], rel=1e-10)


def test_samples_are_kept_within_bounds(labels: list[Label], potential: M3GNetPotential) -> None:
    """A label that comes as another object takes the place of the first; a full cache begins anew."""
    samples = Batches(potential, TRAINING).prepare(labels[:3])
    sizes = [sample.graph.source.shape[0] for sample in samples]
    cache = SampleCache(most_edges=sizes[0] + sizes[1])
    cache.add(samples[0])
    cache.add(samples[0])
    assert cache.edges == sizes[0]
    assert cache.get(labels[0]) is samples[0]
    assert cache.get(replace(labels[0])) is None
    cache.add(samples[1])
    cache.add(samples[2])
    assert cache.get(labels[0]) is None
    assert cache.edges == sizes[2]


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
