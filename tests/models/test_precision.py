"""`model.precision`: dynamics and training in double precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ideal.config import ModelConfig, PretrainConfig, TrainingConfig
from ideal.models import load_potential, make_potential
from ideal.models.edge_potential import EdgePotential
from ideal.records import Label
from ideal.training.trainer import Trainer

from .conftest import crystal

SMALL = {"n_blocks": 1, "units": 8, "max_n": 2, "max_l": 2, "device": "cpu"}


@pytest.mark.parametrize("kind", ["m3gnet", "tensornet"])
def test_float64(kind: str, tmp_path: Path) -> None:
    """Made, learned with, saved and loaded; what float32 gives differs by its rounding."""
    config = ModelConfig.model_validate({**SMALL, "type": kind, "precision": "float64"})
    atoms = crystal()
    elements = sorted(set(atoms.get_chemical_symbols()))
    potential = make_potential(config, elements, seed=0)
    single = make_potential(config.model_copy(update={"precision": "float32"}), elements, seed=0)
    assert isinstance(potential, EdgePotential)
    assert potential.dtype == torch.float64
    difference = abs(potential.evaluate(atoms).forces - single.evaluate(atoms).forces).max()
    assert 0 < difference < 1e-4

    label = Label("a", atoms, -3.0 * len(atoms), np.zeros((len(atoms), 3)), None, "test")
    plan = TrainingConfig(pretrain=PretrainConfig(epochs=2))
    assert Trainer(potential, plan, seed=0).pretrain([label]).steps == 2
    assert potential.dtype == torch.float64

    potential.save(tmp_path / "model")
    again = load_potential(tmp_path / "model", ModelConfig(device="cpu"))
    np.testing.assert_array_equal(again.evaluate(atoms).forces, potential.evaluate(atoms).forces)
    single.save(tmp_path / "single")
    turned = load_potential(tmp_path / "single", config)
    assert isinstance(turned, EdgePotential)
    assert turned.dtype == torch.float64
