"""The learner: what it hands to the trainer when the run is over."""

from __future__ import annotations

from pathlib import Path

from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from ideal.config import parse_config
from ideal.engine.learner import Learner
from ideal.records import Label, structure_key


def emt_label(seed: int) -> Label:
    """A rattled copper cell."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    clean = atoms.copy()
    atoms.calc = EMT()
    key = structure_key(clean, {"seed": seed})
    return Label(key, clean, atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(), "emt")


def test_the_final_training_starts_from_scratch(tmp_path: Path) -> None:
    """New weights, which one epoch does not make better than the present ones: the model stays."""
    write(tmp_path / "copper.extxyz", bulk("Cu", cubic=True))
    final = {"epochs": 1, "learning_rate": 1e-6, "start": "scratch"}
    config = parse_config(
        {
            "trajectories": [{"name": "a", "structure": "copper.extxyz"}],
            "labelling": {"code": {"type": "ase", "calculator": "ase.calculators.emt:EMT"}},
            "dataset": {"rattled": {"count": 3}},
            "model": {"n_blocks": 1, "units": 8, "max_n": 2, "max_l": 2, "device": "cpu"},
            "training": {"pretrain": {"epochs": 30, "learning_rate": 1e-2}, "final": final},
        },
        tmp_path,
    )
    learner = Learner.new(config, [emt_label(seed) for seed in range(4)], ["Cu"])
    learner.pretrain(lambda _: None)
    before = learner.potential.fingerprint()
    assert learner.needs_convergence
    summary = learner.converge(lambda _: None)
    assert summary.rolled_back
    assert learner.potential.fingerprint() == before
    assert not learner.needs_convergence
