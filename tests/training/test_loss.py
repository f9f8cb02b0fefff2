"""The loss against its equation, and errors against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import units

from ideal.config import LossConfig
from ideal.models.base import Prediction
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import Label
from ideal.training.loss import loss, make_sample, make_targets, mean_errors, sample_errors

from .conftest import cluster_label


def huber(x: np.ndarray, delta: float) -> float:
    x = np.abs(x)
    return float(np.mean(np.where(x < delta, 0.5 * x**2, delta * (x - 0.5 * delta))))


@pytest.fixture
def batch(labels: list[Label], potential: M3GNetPotential) -> tuple:
    chosen = [labels[0], cluster_label(), labels[1]]
    samples = [make_sample(label, potential.graph(label.atoms)) for label in chosen]
    prediction = potential.predict([sample.graph for sample in samples])
    detached = Prediction(*(getattr(prediction, n).detach() for n in ("energies", "forces", "stresses")))
    return chosen, samples, detached


def differences(batch: tuple, references: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chosen, _, prediction = batch
    energies = prediction.energies.numpy() + references - [label.energy for label in chosen]
    sizes = [len(label.atoms) for label in chosen]
    forces = prediction.forces.numpy() - np.concatenate([label.forces for label in chosen])
    stresses = (prediction.stresses.numpy()[[0, 2]] - [chosen[0].stress, chosen[2].stress]) / units.GPa
    return energies / sizes, forces, stresses


def test_loss_is_its_equation(batch: tuple) -> None:
    _, samples, prediction = batch
    references = [1.0, -2.0, 0.5]
    config = LossConfig(energy=2.0, force=3.0, stress=0.5, delta=0.07)
    energy, force, stress = differences(batch, references)
    expected = 2 * huber(energy, 0.07) + 3 * huber(force, 0.07) + 0.5 * huber(stress, 0.07)
    assert loss(prediction, make_targets(samples, references), config).item() == pytest.approx(expected, rel=1e-5)


def test_labels_without_stress_do_not_enter_the_stress_term(batch: tuple) -> None:
    _, samples, prediction = batch
    only_cluster = Prediction(prediction.energies[1:2], prediction.forces[4:8], prediction.stresses[1:2])
    targets = make_targets(samples[1:2], [0.0])
    with_stress = loss(only_cluster, targets, LossConfig(stress=10.0))
    without = loss(only_cluster, targets, LossConfig(stress=0.0))
    assert torch.equal(with_stress, without)


def test_large_energies_keep_their_differences(batch: tuple) -> None:
    """Reference energies are taken off in float64: 1e-3 eV on top of 1e6 eV survives."""
    chosen, samples, _ = batch
    exact = make_targets(samples, [label.energy - 4e-3 for label in chosen]).energies
    np.testing.assert_allclose(exact, 1e-3, rtol=1e-4)


def test_mean_errors(batch: tuple) -> None:
    _, samples, prediction = batch
    references = [1.0, -2.0, 0.5]
    energy, force, stress = differences(batch, references)
    errors = mean_errors([sample_errors(prediction, make_targets(samples, references))])
    assert errors.energy_mae == pytest.approx(np.abs(energy).mean(), rel=1e-5)
    assert errors.force_mae == pytest.approx(np.abs(force).mean(), rel=1e-5)
    assert errors.stress_mae == pytest.approx(np.abs(stress).mean(), rel=1e-5)
    assert errors.n_labels == 3


def test_no_stress_error_without_stress(batch: tuple) -> None:
    _, samples, prediction = batch
    only_cluster = Prediction(prediction.energies[1:2], prediction.forces[4:8], prediction.stresses[1:2])
    assert mean_errors([sample_errors(only_cluster, make_targets(samples[1:2], [0.0]))]).stress_mae is None
