"""The trainer: it learns, it does no harm, it repeats itself bitwise, it resumes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ideal.config import LossConfig, OnlineConfig, PretrainConfig, TrainingConfig
from ideal.errors import TrainingError
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import Label
from ideal.training import fit
from ideal.training import trainer as trainer_module
from ideal.training.records import TrainingProgress
from ideal.training.trainer import Trainer

from .conftest import MODEL, TRAINING, cluster_label, emt_label


@pytest.fixture(scope="module")
def pretrained(labels: list[Label]) -> tuple[M3GNetPotential, Trainer]:
    potential = M3GNetPotential.new(MODEL, ["Al", "Cu"], seed=0)
    trainer = Trainer(potential, TRAINING, seed=1)
    trainer.pretrain(labels[:8], labels[8:10])
    return potential, trainer


@pytest.fixture
def trainer(pretrained: tuple[M3GNetPotential, Trainer], tmp_path: Path) -> Trainer:
    """A pretrained trainer of its own for each test."""
    potential, trainer = pretrained
    return resumed(potential, trainer, tmp_path)


def resumed(potential: M3GNetPotential, trainer: Trainer, folder: Path, config: TrainingConfig = TRAINING) -> Trainer:
    """What a new process makes of a checkpoint."""
    potential.save(folder / "checkpoint")
    again = Trainer(M3GNetPotential.load(folder / "checkpoint", device="cpu"), config, seed=1)
    again.restore(trainer.state())
    return again


def far_labels() -> list[Label]:
    return [emt_label(seed, rattle=0.4, strain=0.08) for seed in (100, 101, 102)]


def test_pretraining_learns(labels: list[Label], potential: M3GNetPotential) -> None:
    seen: list[TrainingProgress] = []
    trainer = Trainer(potential, TRAINING, seed=0)
    summary = trainer.pretrain([*labels[:10], cluster_label()], labels[10:], progress=seen.append)
    assert summary.after.force_mae < 0.6 * summary.before.force_mae
    assert summary.validation_after.force_mae < 0.7 * summary.validation_before.force_mae
    assert summary.after.energy_mae < summary.before.energy_mae
    assert summary.after.stress_mae < summary.before.stress_mae
    assert not summary.rolled_back
    assert (summary.steps, summary.epochs) == (20 * 6, 20)
    assert [p.epoch for p in seen] == list(range(1, 21))
    assert seen[-1].loss < seen[0].loss
    assert trainer.errors(labels[10:]) == summary.validation_after


def test_reference_energies_are_fitted_first(labels: list[Label], potential: M3GNetPotential) -> None:
    shifted = [replace(label, energy=label.energy - 5000.0 * len(label.atoms)) for label in labels[:6]]
    config = TRAINING.model_copy(update={"pretrain": PretrainConfig(epochs=0)})
    summary = Trainer(potential, config, seed=0).pretrain(shifted)
    assert potential.is_fitted
    assert summary.before.energy_mae < 0.5
    assert potential.reference_energies["Al"] == pytest.approx(-5000.0, abs=2.0)
    assert potential.energy_scale == pytest.approx(
        np.sqrt(np.mean(np.concatenate([label.forces for label in shifted]) ** 2))
    )
    assert summary.steps == 0
    assert not summary.reason


def test_a_fitted_model_only_shifts_its_references(trainer: Trainer, labels: list[Label]) -> None:
    """Fine-tuning on another code's energies: the offset is learned at once, forces are kept."""
    potential = trainer.potential
    scale, forces = potential.energy_scale, potential.evaluate(labels[0].atoms).forces
    error = trainer.errors(labels[:6]).energy_mae
    shifted = [
        replace(label, key=f"s{label.key}", energy=label.energy + 7.0 * len(label.atoms)) for label in labels[:6]
    ]
    config = TRAINING.model_copy(update={"pretrain": PretrainConfig(epochs=0)})
    summary = Trainer(potential, config, seed=0).pretrain(shifted)
    assert potential.energy_scale == scale
    assert summary.before.energy_mae <= error + 1e-6
    np.testing.assert_array_equal(potential.evaluate(labels[0].atoms).forces, forces)


def test_update_learns_new_labels(trainer: Trainer, labels: list[Label]) -> None:
    new = far_labels()
    config = TRAINING.model_copy(update={"online": TRAINING.online.model_copy(update={"epochs": 10})})
    trainer.config = config
    before_old = trainer.errors(labels[:8])
    summary = trainer.update(new, labels[:8])
    assert not summary.rolled_back
    assert summary.after.force_mae < 0.9 * summary.before.force_mae
    assert summary.replayed == 10 * 3
    assert summary.steps == 10 * 3
    assert trainer.errors(labels[:8]).force_mae < 1.5 * before_old.force_mae


def test_a_harmful_update_is_undone(trainer: Trainer, labels: list[Label]) -> None:
    """A learning rate far too high: the model, and the optimizer's memory, are as before, and the summary says why."""
    reckless = TRAINING.model_copy(update={"online": OnlineConfig(epochs=3, learning_rate=3.0, replay=2)})
    trainer.update(far_labels()[:1], labels[:8])
    before, memory = trainer.potential.fingerprint(), trainer.state()
    trainer.config = reckless
    summary = trainer.update(far_labels()[1:], labels[:8])
    assert summary.rolled_back
    assert "the model was put back" in summary.reason
    assert trainer.potential.fingerprint() == before
    assert summary.after == summary.before
    for key, value in trainer.state().items():
        if key.startswith("optimizer/"):
            np.testing.assert_array_equal(value, memory[key])


def test_validation_gates_an_update(trainer: Trainer, labels: list[Label]) -> None:
    """What new labels that contradict the validation labels teach is kept only as far as it spoils nothing there."""
    wrong = [replace(label, key=f"w{label.key}", forces=2 * label.forces) for label in (*labels[8:10], *far_labels())]
    trainer.config = TRAINING.model_copy(
        update={"online": OnlineConfig(epochs=8, learning_rate=2e-3, replay=0, gate="strict")}
    )
    batches = trainer.batches
    before = batches.loss(batches.prepare(labels[8:10]))
    summary = trainer.update(wrong, [])
    assert batches.loss(batches.prepare(labels[8:10])) <= before
    assert summary.attempts == 2
    assert summary.learning_rate == 1e-3


def test_training_is_deterministic(labels: list[Label]) -> None:
    fingerprints = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        np.random.seed(noise)
        potential = M3GNetPotential.new(MODEL, ["Al", "Cu"], seed=0)
        trainer = Trainer(potential, TRAINING, seed=1)
        trainer.pretrain(labels[:5], labels[5:7])
        trainer.update(labels[7:9], labels[:5])
        fingerprints.append(potential.fingerprint())
    assert fingerprints[0] == fingerprints[1]


def test_the_seed_matters(labels: list[Label]) -> None:
    fingerprints = set()
    for seed in (0, 1):
        potential = M3GNetPotential.new(MODEL, ["Al", "Cu"], seed=0)
        Trainer(potential, TRAINING, seed=seed).pretrain(labels[:5])
        fingerprints.add(potential.fingerprint())
    assert len(fingerprints) == 2


def test_resumed_training_is_bitwise_the_same(
    pretrained: tuple[M3GNetPotential, Trainer], labels: list[Label], tmp_path: Path
) -> None:
    """Three updates in one go; and with a new process, from weights and state on disk, after each of them."""
    new = [far_labels()[:2], labels[10:12], labels[12:13]]
    straight = resumed(*pretrained, tmp_path)
    stepwise = resumed(*pretrained, tmp_path)
    known = list(labels[:8])
    for batch in new:
        first, second = straight.update(batch, known), stepwise.update(batch, known)
        assert replace(first, seconds=0.0) == replace(second, seconds=0.0)
        known += batch
        stepwise = resumed(stepwise.potential, stepwise, tmp_path)
    assert stepwise.potential.fingerprint() == straight.potential.fingerprint()


def test_state_holds_plain_arrays_and_numbers(pretrained: tuple[M3GNetPotential, Trainer]) -> None:
    for key, value in pretrained[1].state().items():
        assert isinstance(value, np.ndarray | int | float), key
        assert not isinstance(value, np.ndarray) or value.dtype != object, key


def test_restored_validation_labels_are_the_same(
    pretrained: tuple[M3GNetPotential, Trainer], labels: list[Label], tmp_path: Path
) -> None:
    again = resumed(*pretrained, tmp_path)
    for mine, theirs in zip(again._validation, labels[8:10], strict=True):
        assert mine.key == theirs.key
        assert mine.atoms == theirs.atoms
        assert mine.energy == theirs.energy
        np.testing.assert_array_equal(mine.forces, theirs.forces)
        np.testing.assert_array_equal(mine.stress, theirs.stress)


def test_restored_validation_labels_weigh_as_before(labels: list[Label], potential: M3GNetPotential) -> None:
    """The core of an embedded cell decides what its forces weigh: a checkpoint must not forget it."""
    config = TRAINING.model_copy(update={"loss": LossConfig(filler=0.2), "pretrain": PretrainConfig(epochs=0)})
    trainer = Trainer(potential, config, seed=1)
    trainer.pretrain(labels[:4], [replace(labels[4], info={"core": [3, 1]}), labels[5]])
    again = Trainer(potential, config, seed=1)
    again.restore(trainer.state())
    losses = [t.batches.loss(t.batches.prepare(t._validation)) for t in (trainer, again)]
    assert losses[0] == losses[1]
    assert [label.info for label in again._validation] == [{"core": [1, 3]}, {}]


def test_a_loss_that_is_not_finite_puts_the_model_back(trainer: Trainer, labels: list[Label]) -> None:
    before = trainer.potential.fingerprint()
    poisoned = replace(labels[12], forces=np.full_like(labels[12].forces, np.nan))
    with pytest.raises(TrainingError, match=r"training loss is nan .* the model was put back"):
        trainer.update([poisoned, labels[11]], labels[:8])
    assert trainer.potential.fingerprint() == before


def test_errors_of_use(trainer: Trainer, labels: list[Label], potential: M3GNetPotential, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="0 labels"):
        trainer.pretrain([])
    with pytest.raises(TrainingError, match="0 new labels"):
        trainer.update([], labels)
    state = trainer.state()
    del state["replay/clock"]
    with pytest.raises(TrainingError, match="lacks 'clock'"):
        trainer.restore(state)
    other = M3GNetPotential.new(MODEL.model_copy(update={"units": 8}), ["Al", "Cu"], seed=0)
    assert not trainer.update(far_labels(), labels[:8]).rolled_back
    with pytest.raises(TrainingError, match="does not fit this model"):
        Trainer(other, TRAINING, seed=0).restore(trainer.state())


def test_time_limit_ends_pretraining(
    labels: list[Label], potential: M3GNetPotential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that ticks once per look: how far the machine comes in a second must not decide."""
    ticks = itertools.count()
    monkeypatch.setattr(fit, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    config = TRAINING.model_copy(update={"pretrain": PretrainConfig(epochs=100_000, max_seconds=200.0)})
    summary = Trainer(potential, config, seed=0).pretrain(labels[:4])
    assert 150 < summary.steps < 210
    assert f"the time budget of 200 s was spent after {summary.epochs} of 100000 epochs" in summary.reason
    assert summary.after.force_mae < summary.before.force_mae
