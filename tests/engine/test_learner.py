"""The learner: what it hands to the trainer when the run is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from ideal.config import Config, parse_config
from ideal.engine.learner import Learner
from ideal.labelling.store import LabelStore
from ideal.records import Label, structure_key


def emt_label(seed: int) -> Label:
    """A rattled copper cell."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    clean = atoms.copy()
    atoms.calc = EMT()
    key = structure_key(clean, {"seed": seed})
    return Label(key, clean, atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(), "emt")


def copper(folder: Path, training: dict[str, Any]) -> Config:
    """A configuration with a small model."""
    write(folder / "copper.extxyz", bulk("Cu", cubic=True))
    return parse_config(
        {
            "trajectories": [{"name": "a", "structure": "copper.extxyz"}],
            "labelling": {"code": {"type": "ase", "calculator": "ase.calculators.emt:EMT"}},
            "dataset": {"rattled": {"count": 3}},
            "model": {"n_blocks": 1, "units": 8, "max_n": 2, "max_l": 2, "device": "cpu"},
            "training": training,
        },
        folder,
    )


def test_the_final_training_starts_from_scratch(tmp_path: Path) -> None:
    """New weights, the same for the same seed; at a rate of nothing they are what comes out."""
    final = {"epochs": 1, "learning_rate": 1e-12, "start": "scratch"}
    models = []
    for _ in range(2):
        config = copper(tmp_path, {"pretrain": {"epochs": 1, "learning_rate": 1e-12}, "final": final})
        learner = Learner.new(config, [emt_label(seed) for seed in range(4)], ["Cu"])
        learner.pretrain(lambda _: None)
        before = next(iter(learner.potential.weights().values()))
        assert learner.needs_convergence
        assert not learner.converge(lambda _: None).rolled_back
        after = next(iter(learner.potential.weights().values()))
        assert not torch.allclose(after, before)
        assert not learner.needs_convergence
        models.append(learner.potential.fingerprint())
    assert models[0] == models[1]


def test_labels_that_validate_are_not_learned_and_survive_a_checkpoint(tmp_path: Path) -> None:
    online = {"epochs": 1, "validation_fraction": 0.6}
    config = copper(tmp_path, {"pretrain": {"epochs": 2}, "online": online})
    learner = Learner.new(config, [emt_label(seed) for seed in range(4)], ["Cu"])
    learner.pretrain(lambda _: None)
    learner.fit_distribution()
    environments = sum(learner.uncertainty.counts.values())
    new = [emt_label(seed) for seed in range(10, 16)]
    summary = learner.learn(new, lambda _: None)
    held, learned = learner.held_keys, learner.learned_keys
    assert 0 < len(held) < 6
    assert {*held, *learned} == {label.key for label in new}
    assert summary.after.n_labels == len(learned)
    assert summary.validation_after is not None
    assert summary.validation_after.n_labels == len(held)  # 4 labels at the start leave none for validation
    assert sum(learner.uncertainty.counts.values()) == environments + 4 * len(learned)

    folder = tmp_path / "checkpoint"
    folder.mkdir()
    learner.save(folder)
    learner.write_initial_labels(tmp_path / "initial.extxyz")
    with LabelStore(tmp_path / "labels.sqlite") as store:
        for label in new:
            store.put(label)
        again = Learner.load(config, folder, tmp_path / "initial.extxyz", store)
    assert (again.held_keys, again.learned_keys) == (held, learned)
    for one, other in zip((again.dataset, learner.dataset), (learner.dataset, again.dataset), strict=True):
        assert [label.key for label in one.validation] == [label.key for label in other.validation]
    assert again.trainer.validation_errors() == learner.trainer.validation_errors()
