"""Weights of the loss that change within a training, and validation labels that come with the run."""

from __future__ import annotations

import pytest

from ideal.config import LossConfig, PretrainConfig
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import Label
from ideal.training.batches import Batches
from ideal.training.loss import loss_at
from ideal.training.policy import pace
from ideal.training.trainer import Trainer

from .conftest import MODEL, TRAINING, emt_label


def test_the_weight_of_the_energy_rises_as_the_rate_falls() -> None:
    config = LossConfig(energy=2.0, energy_end=200.0, force=3.0)
    weights = [loss_at(config, pace(1e-3, done).fallen).energy for done in (0.0, 0.04, 0.05, 0.525, 1.0)]
    assert weights == pytest.approx([2.0, 2.0, 2.0, 20.0, 200.0])
    assert loss_at(config, 0.7).force == 3.0
    assert loss_at(LossConfig(energy=2.0), 0.7).energy == 2.0
    assert loss_at(LossConfig(energy=0.0, energy_end=4.0), 0.25).energy == 1.0


def test_the_last_weight_judges(labels: list[Label], potential: M3GNetPotential) -> None:
    rising = TRAINING.model_copy(update={"loss": LossConfig(energy=1.0, energy_end=50.0)})
    constant = TRAINING.model_copy(update={"loss": LossConfig(energy=50.0)})
    values = []
    for config in (rising, constant):
        batches = Batches(potential, config)
        values.append(batches.loss(batches.prepare(labels[:3])))
    assert values[0] == values[1]


def test_a_rising_weight_improves_energies(labels: list[Label]) -> None:
    """Their error on the learned labels is less than half of what the first weight alone leaves."""
    errors = []
    for end in (None, 10.0):
        loss = LossConfig(energy=0.1, energy_end=end, stress=0.0)
        plan = PretrainConfig(epochs=20, learning_rate=1e-2, batch_size=2)
        config = TRAINING.model_copy(update={"loss": loss, "pretrain": plan})
        trainer = Trainer(M3GNetPotential.new(MODEL, ["Al", "Cu"], seed=0), config, seed=0)
        errors.append(trainer.pretrain(labels[:5]).after.energy_mae)
    assert errors[1] < 0.5 * errors[0]


def test_labels_of_the_run_judge(labels: list[Label], potential: M3GNetPotential) -> None:
    """They count among the validation labels at once, survive a checkpoint, and take the place of learned ones."""
    trainer = Trainer(potential, TRAINING, seed=0)
    trainer.pretrain(labels[:4], labels[4:6])
    assert trainer.validation_errors().n_labels == 2  # type: ignore[union-attr]
    assert trainer._learned_judges() == 16
    trainer.add_validation(labels[6:9])
    assert trainer.validation_errors().n_labels == 5  # type: ignore[union-attr]
    assert trainer._learned_judges() == 13
    summary = trainer.update([labels[9]], labels[:4])
    assert summary.validation_before is not None
    assert summary.validation_before.n_labels == 5
    again = Trainer(potential, TRAINING, seed=0)
    again.restore(trainer.state())
    assert [label.key for label in again._held] == [label.key for label in labels[6:9]]


def test_no_more_are_looked_at_than_the_sample(potential: M3GNetPotential) -> None:
    """And which does not depend on the groups they came in."""
    config = TRAINING.model_copy(update={"validation_sample": 3})
    some = [emt_label(seed) for seed in range(20, 28)]
    one, other = Trainer(potential, config, seed=4), Trainer(potential, config, seed=4)
    one.add_validation(some)
    for label in some:
        other.add_validation([label])
    assert len(one._held) == 3
    assert [label.key for label in one._held] == [label.key for label in other._held]
