"""The bound covers the errors of a trained model on frames that it never learned."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from ideal.config import ModelConfig, TrainingConfig
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import Label
from ideal.soap import SoapPowerSpectrum
from ideal.training.trainer import Trainer
from ideal.uncertainty.conformal import fit_error_bound
from ideal.uncertainty.mahalanobis import SoapMahalanobis


def copper(n: int, amplitude: float, seed: int) -> list[Label]:
    """Rattled crystals with the effective-medium potential as the reference."""
    labels = []
    for k in range(n):
        atoms = bulk("Cu", "fcc", a=3.65, cubic=True).repeat(2)
        rng = np.random.default_rng([seed, k])
        atoms.positions += amplitude * rng.lognormal(0, 0.2) * rng.standard_normal(atoms.positions.shape)
        atoms.calc = EMT()
        labels.append(
            Label(
                key=f"{seed}-{k}",
                atoms=Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True),
                energy=float(atoms.get_potential_energy()),
                forces=np.array(atoms.get_forces()),
                stress=None,
                code="EMT",
            )
        )
    return labels


@pytest.mark.slow
def test_the_bound_covers_the_errors_of_a_trained_model() -> None:
    known, new = copper(16, 0.06, 0), copper(120, 0.13, 1)
    potential = M3GNetPotential.new(ModelConfig(units=16, max_n=2, max_l=2), ["Cu"], seed=0)
    training = TrainingConfig.model_validate({"pretrain": {"epochs": 12, "learning_rate": 2e-3, "batch_size": 4}})
    Trainer(potential, training, seed=0).pretrain(known)
    distribution = SoapMahalanobis(SoapPowerSpectrum(["Cu"], r_cut=5.0, n_max=4, l_max=3, sigma=0.5), 1e-8)
    distribution.update([label.atoms for label in known])
    u = np.array([distribution.atomic(label.atoms) for label in new])
    predictions = potential.evaluate_batch([label.atoms for label in new])
    error = np.array([np.linalg.norm(p.forces - x.forces, axis=1) for p, x in zip(predictions, new, strict=True)])
    rng = np.random.default_rng(0)
    for confidence in (0.8, 0.9, 0.95):
        covered = []
        for _ in range(50):
            order = rng.permutation(len(new))
            first, second = order[:60], order[60:]
            cell = np.repeat(np.arange(60), u.shape[1])
            bound = fit_error_bound(u[first].ravel(), error[first].ravel(), cell, confidence)
            covered.append((error[second] <= bound(u[second])).mean())
        # 60 cells give confidence * 61 / 60 on average; splits share their frames, so that fifty of them are worth
        # little more than two
        assert np.mean(covered) == pytest.approx(confidence * 61 / 60, abs=2.5 * np.std(covered) / np.sqrt(2))
