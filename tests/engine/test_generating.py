"""Initial structures by short dynamics."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from ideal.config import Config
from ideal.engine.generating import generated_structures
from ideal.engine.startup import distinct_structures
from ideal.errors import ConfigError, SamplerError
from ideal.records import FailedLabel, Label

from .runs import copper_config


def config_for(folder: Path, **section: Any) -> Config:
    values = {"count": 3, "steps_between": 4, "max_atoms": 8, "calculator": "ase.calculators.emt:EMT", **section}
    return copper_config(folder, dataset__generated=values, dataset__rattled__count=0)


class EMTCalculations:
    """Answers a request at the second look; fails every label when asked to."""

    def __init__(self, failing: bool = False) -> None:
        self.failing = failing
        self.asked: list[str] = []
        self.results: dict[str, Label | FailedLabel] = {}
        self._late: dict[str, Label | FailedLabel] = {}

    def request(self, atoms: Atoms, info: dict[str, Any]) -> Any:
        return SimpleNamespace(key=atoms.positions.tobytes().hex(), atoms=atoms)

    def submit(self, request: Any) -> None:
        self.asked.append(request.key)
        atoms = request.atoms.copy()
        atoms.calc = EMT()
        forces = atoms.get_forces()
        label = Label(request.key, request.atoms, atoms.get_potential_energy(), forces, None, "emt")
        self._late[request.key] = FailedLabel(request.key, atoms, "no convergence", "") if self.failing else label

    def look(self) -> None:
        self.results.update(self._late)


def test_frames_differ_and_follow_from_the_seed(tmp_path: Path) -> None:
    copper = bulk("Cu", cubic=True).repeat(2)
    config = config_for(tmp_path)
    frames = generated_structures([copper], config, None, lambda: None)  # type: ignore[arg-type]
    assert [len(atoms) for atoms in frames] == [8] * 3, "reduced to whole repeat units"
    moved = [np.linalg.norm(a.positions - b.positions, axis=1).max() for a, b in itertools.pairwise(frames)]
    assert min(moved) > 0.01 and all(not atoms.has("momenta") and atoms.calc is None for atoms in frames)
    again = generated_structures([copper], config, None, lambda: None)  # type: ignore[arg-type]
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(frames, again, strict=True))


def test_reference_code_moves_the_same_way_as_its_calculator(tmp_path: Path) -> None:
    copper = bulk("Cu", cubic=True)
    calculations = EMTCalculations()
    by_code = generated_structures([copper], config_for(tmp_path, calculator=None), calculations, calculations.look)
    by_calculator = generated_structures([copper], config_for(tmp_path), None, lambda: None)  # type: ignore[arg-type]
    assert all(np.allclose(a.positions, b.positions) for a, b in zip(by_code, by_calculator, strict=True))
    assert len(set(calculations.asked)) == len(calculations.asked) == 13, "the start and every step, each once"


def test_what_goes_wrong_is_named_with_the_remedy(tmp_path: Path) -> None:
    copper, calculations = bulk("Cu", cubic=True), EMTCalculations(failing=True)
    with pytest.raises(SamplerError, match=r"dataset.generated: Cu4: the reference code fails: no convergence; lower"):
        generated_structures([copper], config_for(tmp_path, calculator=None), calculations, calculations.look)
    wrong = config_for(tmp_path, calculator="ase.calculators.emt:EMTT")
    with pytest.raises(ConfigError, match=r"dataset.generated.calculator: .*EMTT"):
        generated_structures([copper], wrong, None, lambda: None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"raise dataset.generated.max_atoms"):
        generated_structures([copper], config_for(tmp_path, max_atoms=1), None, lambda: None)  # type: ignore[arg-type]


def test_copies_of_one_structure_count_once() -> None:
    copper = bulk("Cu", cubic=True)
    strained = copper.copy()
    strained.positions[0, 0] += 1e-9
    assert len(distinct_structures([copper, copper.copy(), strained])) == 2
