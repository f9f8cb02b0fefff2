"""``init`` writes what ``check`` accepts, with the choices that the structure asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.io import write
from typer.testing import Result

from ideal.cli import settings
from ideal.config import Config, load_config

Run = Callable[..., Result]
EMT = "ase.calculators.emt:EMT"


@pytest.mark.parametrize("full", [False, True])
def test_round_trip(full: bool, ideal_run: Run, folder: Path) -> None:
    (folder / "inputs").mkdir()
    (folder / "copper.extxyz").rename(folder / "inputs" / "copper.extxyz")
    arguments = ["inputs/copper.extxyz", "--output", "new/copper.yaml", "--code", EMT, *(["--full"] if full else [])]
    result = ideal_run("init", *arguments)
    assert result.exit_code == 0, result.output
    assert "ideal-run check new/copper.yaml" in result.stdout
    checked = ideal_run("check", "new/copper.yaml")
    assert checked.exit_code == 0, checked.output
    assert "Ready" in checked.stdout
    config = load_config(folder / "new" / "copper.yaml")
    assert config.trajectories[0].structure.resolve() == folder / "inputs" / "copper.extxyz"


def test_full_holds_every_top_level_key_and_its_help(ideal_run: Run, folder: Path) -> None:
    ideal_run("init", "copper.extxyz", "-o", "full.yaml", "--code", EMT, "--full")
    text = (folder / "full.yaml").read_text()
    assert set(yaml.safe_load(text)) == set(Config.model_fields)
    comments = " ".join(line.strip().removeprefix("# ") for line in text.splitlines() if line.strip().startswith("#"))
    for field in Config.model_fields.values():
        assert (field.description or "") in comments


def read(folder: Path, structure: Atoms, ideal_run: Run, *arguments: str, name: str = "s.traj") -> Config:
    write(folder / name, structure)
    result = ideal_run("init", name, "-o", "s.yaml", "--force", *arguments)
    assert result.exit_code == 0, result.output
    return load_config(folder / "s.yaml")


def test_choices(ideal_run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "installed_codes", lambda: ["gpaw", "pyscf", "tblite"])
    water = read(folder, molecule("H2O"), ideal_run)
    assert water.trajectories[0].sampler.timestep == 0.5
    assert water.trajectories[0].repeat == (1, 1, 1)
    assert water.labelling.code.type == "pyscf"

    lithium = read(folder, bulk("Li", cubic=True), ideal_run, "--temperature", "500", "--steps", "70")
    assert lithium.trajectories[0].repeat == (3, 3, 3)
    assert lithium.trajectories[0].sampler.timestep == 1.0
    assert lithium.trajectories[0].sampler.temperature == 500
    assert lithium.trajectories[0].sampler.steps == 70
    assert lithium.labelling.code.type == "gpaw"
    assert lithium.labelling.code.kpoint_length == 20

    salt = read(folder, bulk("NaCl", "rocksalt", a=5.64), ideal_run)
    assert salt.labelling.code.type == "gpaw"
    assert salt.labelling.code.kpoint_length == 12

    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    slab.pbc = True
    assert read(folder, slab, ideal_run).trajectories[0].repeat[2] == 1


def test_nothing_installed_prints_the_install(ideal_run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "installed_codes", list)
    result = ideal_run("init", "copper.extxyz", "-o", "new.yaml")
    assert result.exit_code == 0
    assert 'pip install "ideal-md[gpaw]"' in result.stdout


def test_data_and_pseudopotentials(ideal_run: Run, folder: Path, labelled: Path) -> None:
    (folder / "pseudo").mkdir()
    (folder / "pseudo" / "Cu.pbe-dn-rrkjus.UPF").touch()
    arguments = ["--data", "labelled.extxyz", "--pseudo-dir", "pseudo", "-o", "new.yaml"]
    assert ideal_run("init", "copper.extxyz", *arguments).exit_code == 0
    config = load_config(folder / "new.yaml")
    assert config.dataset.initial == labelled
    assert config.labelling.code.pseudopotentials == {"Cu": "Cu.pbe-dn-rrkjus.UPF"}
    write(folder / "salt.extxyz", bulk("NaCl", "rocksalt", a=5.64))
    result = ideal_run("init", "salt.extxyz", "--pseudo-dir", "pseudo", "-o", "salt.yaml")
    assert result.exit_code == 2
    assert "no pseudopotential for Cl" in result.stderr
