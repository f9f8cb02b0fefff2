"""The configurations of ``examples/paths`` are valid, and their samplers take steps with EMT."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import read

from ideal.config import load_config
from ideal.samplers import make_sampler

from .plumed_library import require_plumed

FOLDER = Path(__file__).parents[2] / "examples" / "paths"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_example_takes_steps(path: Path, tmp_path: Path) -> None:
    (trajectory,) = load_config(path).trajectories
    if trajectory.sampler.type == "plumed":
        require_plumed()
    atoms, final = (read(FOLDER / f"{name}.extxyz") for name in ("vacancy", "hopped"))
    assert isinstance(atoms, Atoms) and isinstance(final, Atoms)
    sampler = make_sampler(trajectory.sampler, atoms, EMT(), seed=0, final=final, folder=tmp_path)
    sampler.advance(2)
    assert sampler.step in (1, 2)  # the relaxation starts at the minimum of its cell
