"""What `check` says of initial structures, of labels of other codes, of further codes and of a shared store."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import write
from typer.testing import Result

from ideal.cli.preflight import _same_code
from ideal.config import parse_config
from ideal.dataset import write_labels
from ideal.labelling.store import LabelStore
from ideal.records import Label

from .conftest import EMT_CODE, tiny_config, write_config


def test_rattled_structures_that_cannot_be_made(folder: Path, copper: Atoms, ideal_run: Callable[..., Result]) -> None:
    config = tiny_config()
    config["dataset"]["rattled"] = {"count": 4, "max_atoms": 16}
    write_config(folder / "config.yaml", config)
    result = ideal_run("check")  # disordered copper repeats nothing smaller than its 32 atoms
    assert result.exit_code == 2 and "max_atoms" in result.stderr and "Ready" not in result.stdout
    write(folder / "copper.extxyz", bulk("Cu", cubic=True).repeat(2))
    result = ideal_run("check")
    assert result.exit_code == 0 and "4 rattled structures of 16 atoms will be made" in result.stdout.replace("\n", " ")


def test_labels_of_another_code(folder: Path, copper: Atoms, ideal_run: Callable[..., Result]) -> None:
    def given(code: str) -> list[Label]:
        return [Label(str(n), copper, -1.0, np.zeros((32, 3)), None, code) for n in range(3)]

    config = tiny_config()
    config["dataset"] = {"initial": "initial.extxyz"}
    write_config(folder / "config.yaml", config)
    write_labels(folder / "initial.extxyz", given("gpaw 26.7.0"))
    said = ideal_run("check").stdout.replace("\n", " ")
    assert "holds labels of gpaw, the run labels with ase" in said and "energy_offsets" in said
    write_labels(folder / "initial.extxyz", given("ase x"))
    assert "holds labels of" not in ideal_run("check").stdout


def test_energies_beside_free_energies(folder: Path, copper: Atoms) -> None:
    def said(code: str, **settings: float) -> list[str]:
        config = tiny_config()
        config["labelling"]["code"] = {"type": code, **settings}
        return [finding.text for finding in _same_code(labels, parse_config(config, folder), "initial.extxyz")]

    labels = [Label("a", copper, -1.0, np.zeros((32, 3)), None, "file", kind) for kind in ("total_energy",) * 2]
    (text,) = said("gpaw", smearing=0.1)
    assert "2 labels in initial.extxyz have an energy and no free energy" in text and "`free_energy`" in text
    assert said("gpaw", smearing=0.0) == said("tblite") == []
    labels = [Label("a", copper, -1.0, np.zeros((32, 3)), None, "file", "free_energy")]
    assert said("gpaw", smearing=0.1) == []


def test_further_codes_and_shared_store(folder: Path, ideal_run: Callable[..., Result]) -> None:
    config = tiny_config()
    other = {"type": "ase", "calculator": EMT_CODE, "arguments": {"asap_cutoff": True}}
    config["labelling"] |= {"codes": {"other": other}, "store": "shared/labels.db"}
    config["trajectories"][0]["code"] = "other"
    write_config(folder / "config.yaml", config)
    refused = ideal_run("check")
    assert refused.exit_code == 2 and "on another scale" in refused.stderr
    other["energy_offsets"] = {"Cu": 0.0}
    write_config(folder / "config.yaml", config)
    refused = ideal_run("check")
    assert refused.exit_code == 2 and "labelling.store: no such folder" in refused.stderr
    (folder / "shared").mkdir()
    LabelStore(folder / "shared" / "labels.db").close()
    said = ideal_run("check").stdout.replace("\n", " ")
    assert "code other: " in said and "energy offsets (eV): Cu 0" in said and "shared with other runs" in said
