"""Bad input: one clear line with the value and the remedy, the documented exit code, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from typer.testing import Result

from ideal.cli.settings import apply_overrides

from .conftest import tiny_config, write_config

Run = Callable[..., Result]


def assert_refused(result: Result, exit_code: int, *parts: str) -> None:
    """The command ended with this code; one line of stderr holds all the parts; no traceback anywhere."""
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    assert any(all(part in line for part in parts) for line in result.stderr.splitlines()), result.stderr


CONFIGURATIONS: list[tuple[str, tuple[str, ...]]] = [
    ("trajectories.0.sampler.temperatur=300", ("temperatur", "300", "did you mean 'temperature'?")),
    ("uncertanty=1", ("unknown key 'uncertanty'", "did you mean 'uncertainty'?")),
    ("trajectories.0.sampler.timestep=2 angstrom", ("timestep", "'2 angstrom'", "fs, ps, ns")),
    ("trajectories.0.sampler.steps=1.5", ("steps", "1.5", "whole number")),
    ("trajectories.0.structure=missing.xyz", ("trajectories.0.structure", "missing.xyz", "correct the path")),
    ("dataset.initial=missing.extxyz", ("dataset.initial", "missing.extxyz", "correct the path")),
    ("dataset.rattled.count=0", ("nothing to start from", "dataset.initial")),
    ("labelling.code.type=gpwa", ("gpwa", "did you mean 'gpaw'?")),
    ("trajectories.0.name=a b", ("trajectories.0.name", "'a b'")),
]


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(("override", "parts"), CONFIGURATIONS)
def test_wrong_configuration(command: str, override: str, parts: tuple[str, ...], ideal_run: Run, folder: Path) -> None:
    values = tiny_config()
    apply_overrides(values, [override])
    write_config(folder / "config.yaml", values)
    assert_refused(ideal_run(command, "config.yaml"), 2, "config.yaml", *parts)
    assert_refused(ideal_run(command, "--set", override), 2, *parts)
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("seed", ("'seed'", "key=value")),
        ("trajectories.3.name=x", ("'3'", "list of 1", "count from 0")),
        ("seed.deep=1", ("seed", "value 1", "no key 'deep'")),
        ("seed=[1", ("'[1'", "not a YAML value")),
    ],
)
def test_wrong_override(override: str, parts: tuple[str, ...], ideal_run: Run, folder: Path) -> None:
    assert_refused(ideal_run("check", "--set", override), 2, *parts)


def test_missing_and_broken_files(ideal_run: Run, folder: Path) -> None:
    assert_refused(ideal_run("run", "nothing.yaml"), 2, "nothing.yaml", "no such file", "ideal-run init")
    (folder / "empty").mkdir()
    assert_refused(ideal_run("run", "empty"), 2, "empty", "no config.yaml")
    (folder / "broken.yaml").write_text("seed: [1")
    assert_refused(ideal_run("check", "broken.yaml"), 2, "broken.yaml", "not valid YAML")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert_refused(ideal_run("check", "binary.yaml"), 2, "binary.yaml", "not a text file")
    (folder / "list.yaml").write_text("- 1\n")
    assert_refused(ideal_run("check", "list.yaml", "--set", "seed=1"), 2, "list.yaml", "key: value")
    for command in ("status", "report", "resume"):
        assert_refused(ideal_run(command, "nowhere"), 2, "nowhere")
        assert_refused(ideal_run(command, "empty"), 2, "empty")


def overlapping() -> Atoms:
    return Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0.9]], cell=[8, 8, 8], pbc=True)


def not_finite() -> Atoms:
    return Atoms("Cu2", positions=[[0, 0, 0], [0, 0, np.nan]], cell=[8, 8, 8], pbc=True)


def own_image() -> Atoms:
    return Atoms("Cu", cell=[8, 8, 1.0], pbc=True)


def flat() -> Atoms:
    return Atoms("Cu", cell=[8, 8, 0.0], pbc=True)


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (overlapping, ("atoms 0 (Cu) and 1 (Cu)", "0.90 Å", "correct the structure")),
        (not_finite, ("bad.traj", "not finite", "correct")),
        (own_image, ("its own periodic image", "1.00 Å", "correct the structure or its cell")),
        (flat, ("no extent along a periodic axis", "correct the cell")),
    ],
)
def test_wrong_structure(
    command: str, make: Callable[[], Atoms], parts: tuple[str, ...], ideal_run: Run, folder: Path
) -> None:
    write(folder / "bad.traj", make())
    result = ideal_run(command, "--set", "trajectories.0.structure=bad.traj")
    assert_refused(result, 2, *parts)
    assert not (folder / "run").exists()


def test_unreadable_structure(ideal_run: Run, folder: Path) -> None:
    (folder / "bad.xyz").write_text("three\natoms\n")
    result = ideal_run("check", "--set", "trajectories.0.structure=bad.xyz")
    assert_refused(result, 2, "bad.xyz", "cannot be read as a structure file")


def test_thin_cell_is_a_warning_with_the_repeat_to_set(ideal_run: Run, folder: Path) -> None:
    write(folder / "thin.extxyz", Atoms("Cu", cell=[2.55, 10, 10], pbc=True))
    result = ideal_run("check", "--set", "trajectories.0.structure=thin.extxyz")
    assert result.exit_code == 0, result.output
    assert "cell too small: 2.5 Å along axis 0" in result.stdout
    assert "repeat: [4, 1, 1]" in result.stdout


def test_the_threshold_is_explained(ideal_run: Run, folder: Path) -> None:
    def told(*overrides: str) -> str:
        words = [word for item in overrides for word in ("--set", item)]
        return ideal_run("check", "--set", "model.elements=[Al]", *words).stdout

    assert "threshold: an atom is labelled where u exceeds 1.5; 5 % of the labels audit" in told()
    kind = "uncertainty.threshold.type="
    tolerance = told(f"{kind}calibrated", "uncertainty.threshold.force_error=100 meV/angstrom", "selection.audit=0")
    assert "where its force error may exceed 0.1 eV/Å (bound that holds for 90 %)" in tolerance
    assert "where u exceeds 1.5 x the 0.99 quantile" in tolerance
    assert "nothing is audited" in tolerance
    assert "last 50 checks" in told(f"{kind}moving_average", "uncertainty.threshold.window=50")
    assert "force_error has no effect with" in told(f"{kind}quantile", "uncertainty.threshold.force_error=0.2")


def test_elements(ideal_run: Run, folder: Path, labelled: Path) -> None:
    result = ideal_run("check", "--set", "model.elements=[Al]")
    assert_refused(result, 6, "does not know Cu", "it knows Al", "model.elements")
    write(folder / "al.extxyz", Atoms("AlCu", positions=[[0, 0, 0], [0, 0, 2.6]], cell=[6, 6, 6], pbc=True))
    overrides = ["trajectories.0.structure=al.extxyz", "dataset.initial=labelled.extxyz", "dataset.rattled.count=0"]
    result = ideal_run("check", *(word for item in overrides for word in ("--set", item)))
    assert_refused(result, 2, "holds no Al", "dataset.rattled.count")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("uncertainty.rank=5000", ("uncertainty.rank: 5000 directions of", "features (Cu)")),
        ("uncertainty.soap.species_weights={Al: 2.0}", ("uncertainty.soap: species_weights are for Al", "each of Cu")),
        ("uncertainty.soap.species_weights={Cu: -1.0}", ("uncertainty.soap", "-1", "positive")),
    ],
)
def test_descriptor_that_does_not_fit(override: str, parts: tuple[str, ...], ideal_run: Run, folder: Path) -> None:
    assert_refused(ideal_run("check", "--set", override), 2, *parts)


def test_code_that_does_not_know_the_element(ideal_run: Run, folder: Path) -> None:
    write(folder / "iron.extxyz", Atoms("Fe2", positions=[[0, 0, 0], [0, 0, 2.5]], cell=[6, 6, 6], pbc=True))
    result = ideal_run("check", "--set", "trajectories.0.structure=iron.extxyz")
    assert_refused(result, 5, "EMT", "'Fe'")


def test_code_not_installed(ideal_run: Run, folder: Path) -> None:
    code = {"type": "ase", "calculator": "not_there.calculator:Code"}
    values: dict[str, Any] = tiny_config()
    values["labelling"]["code"] = code
    write_config(folder / "config.yaml", values)
    assert_refused(ideal_run("check"), 5, "not_there", "install")


def test_missing_package_prints_the_pip_install(ideal_run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "tblite":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert_refused(ideal_run("check", "--set", "labelling.code={type: tblite}"), 8, "'tblite'", "pip install")


def test_pseudopotential_missing(ideal_run: Run, folder: Path) -> None:
    (folder / "pseudo").mkdir()
    program = folder / "pw.x"
    program.write_text("#!/bin/sh\necho 'Program PWSCF v.7.2 starts'\n")
    program.chmod(0o755)
    code = f"{{type: espresso, command: {program}, pseudo_dir: pseudo, pseudopotentials: {{Cu: Cu.UPF}}}}"
    result = ideal_run("check", "--set", f"labelling.code={code}")
    assert_refused(result, 5, "Cu.UPF", "pseudo")
    missing = code.replace("pseudo_dir: pseudo", "pseudo_dir: nowhere")
    assert_refused(ideal_run("check", "--set", f"labelling.code={missing}"), 2, "pseudo_dir", "no such folder")


def test_unwritable_output(ideal_run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert_refused(ideal_run("check"), 2, "cannot be written", "--output")


def test_full_disk_is_seen_beforehand(ideal_run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(folder)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert_refused(ideal_run("check"), 2, "only 1 MiB free", "--output")


def test_tools_refuse_wrong_arguments(ideal_run: Run, folder: Path, distribution: Path, labelled: Path) -> None:
    u = str(distribution)
    assert_refused(ideal_run("score", "missing.xyz", "-u", u), 2, "missing.xyz", "no such file")
    assert_refused(ideal_run("score", "copper.extxyz", "-u", "missing.safetensors"), 2, "missing.safetensors")
    assert_refused(ideal_run("embed", "copper.extxyz", "--atom", 99, "-u", u), 4, "atom 99", "0 to 31")
    assert_refused(ideal_run("embed", "copper.extxyz", "--atom", 0, "--frame", 7, "-u", u), 2, "--frame 7", "1 frames")
    assert_refused(ideal_run("label", "copper.extxyz"), 2, "--code", "--config")
    assert_refused(ideal_run("label", "copper.extxyz", "--code", "gpwa"), 2, "did you mean 'gpaw'?")
    result = ideal_run("label", "copper.extxyz", "--code", "tblite", "--set", "seed=1")
    assert_refused(result, 2, "seed", "not used by this command")
    assert_refused(ideal_run("train", "copper.extxyz", "-o", "model"), 2, "copper.extxyz", "no energy")
    assert_refused(ideal_run("train", labelled, "-o", folder), 2, "exists already", "--force")
    assert_refused(ideal_run("init", "copper.extxyz"), 2, "config.yaml", "--force")
    assert_refused(ideal_run("init", "copper.extxyz", "-o", "x.yaml", "--code", "espresso"), 2, "--pseudo-dir")
