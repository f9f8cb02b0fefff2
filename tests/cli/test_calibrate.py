"""``calibrate`` on labelled copper-gold: numbers, files, what is left out, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from PIL import Image
from typer.testing import Result

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.config import ModelConfig

Run = Callable[..., Result]

N_STRUCTURES = 12
FORCE_ERROR = 5.0  # the model knows nothing


def labelled(seed: int) -> Atoms:
    """A labelled cell of 8 atoms, more disordered the larger ``seed``."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.symbols[0] = "Au"
    atoms.positions += rng.normal(0, 0.05 + 0.02 * seed, atoms.positions.shape)
    atoms.calc = EMT()
    atoms.get_forces()
    atoms.get_stress()
    return atoms


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that knows nothing, a distribution and labelled structures."""
    from ideal.models.m3gnet import M3GNetPotential

    folder = tmp_path_factory.mktemp("calibrate")
    config = ModelConfig(n_blocks=1, units=8, cutoff=4.0, threebody_cutoff=3.0)
    M3GNetPotential.new(config, ["Cu", "Au"], seed=0).save(folder / "model")
    known = SoapMahalanobis(SoapPowerSpectrum(["Cu", "Au"], r_cut=4.0, n_max=3, l_max=2, sigma=0.5))
    known.update([labelled(100 + seed % 3) for seed in range(2)])
    known.update([labelled(seed) for seed in range(4)])
    known.save(folder / "uncertainty.safetensors")
    write(folder / "data.extxyz", [labelled(seed) for seed in range(N_STRUCTURES)])
    return folder


@pytest.fixture
def work(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a copy of them."""
    shutil.copytree(sources, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def run_directory(work: Path) -> Path:
    """A run that has learned the first two structures of the data."""
    run = work / "run"
    run.mkdir()
    (work / "model").rename(run / "model")
    (work / "uncertainty.safetensors").rename(run / "uncertainty.safetensors")
    (run / "events.jsonl").write_text("")
    write(run / "initial_labels.extxyz", read(work / "data.extxyz", index=":2"))
    return run


def test_numbers_table_and_plot(ideal_run: Run, work: Path) -> None:
    arguments = ["data.extxyz", "-m", "model", "-u", "uncertainty.safetensors", "--force-error", FORCE_ERROR]
    result = ideal_run("calibrate", *arguments, "--per-species", columns=80)
    assert result.exit_code == 0, result.output
    content = json.loads((work / "data-calibration" / "calibration.json").read_text())

    # The same by hand: the model's forces and u of every structure, from the public interfaces.
    from ideal import IdealCalculator

    uncertainty = SoapMahalanobis.load("uncertainty.safetensors")
    u, error = [], []
    for atoms in read("data.extxyz", index=":"):
        reference = atoms.get_forces()
        atoms.calc = IdealCalculator("model")
        u.append(uncertainty.atomic(atoms))
        error.append(np.linalg.norm(atoms.get_forces() - reference, axis=1))
    scores = np.concatenate(error) / np.concatenate(u)
    # Every structure weighs 1/13, the thirteenth is the one not seen: 0.9 is reached at this many of the 96 scores.
    rank = int(np.ceil(0.9 * (N_STRUCTURES + 1) * 8 - 1e-9))
    assert content["scale"] == pytest.approx(np.sort(scores)[rank - 1], rel=1e-5)
    bound_u, bound = content["bound"]["u"], content["bound"]["error"]
    assert np.all(np.diff(bound) >= 0)
    assert np.interp(content["threshold"], bound_u, bound) == pytest.approx(FORCE_ERROR, rel=0.05)
    found = content["assessment"]
    wrong, flagged = np.concatenate(error) > FORCE_ERROR, np.concatenate(u) > content["threshold"]
    assert found["n"] == 8 * N_STRUCTURES
    assert 0 < wrong.sum() < wrong.size
    assert 0 < flagged.sum() < flagged.size
    assert found["n_true"] == wrong.sum()
    assert found["tpr"]["value"] == pytest.approx(flagged[wrong].mean())
    assert found["ppv"]["value"] == pytest.approx(wrong[flagged].mean())
    assert found["auc"]["low"] <= found["auc"]["value"] <= found["auc"]["high"]
    assert set(content["per_species"]) == {"Au", "Cu"}
    assert content["per_species"]["Au"]["n"] == N_STRUCTURES

    for part in ("eV/Å at u = 1,", "coverage at 90 %", "TPR", "AUC", "Spearman", "12 folds", "Au"):
        assert part in result.stdout
    with Image.open(work / "data-calibration" / "calibration.png") as image:
        image.load()
        assert image.width > 1000


def test_a_given_threshold_is_judged(ideal_run: Run, work: Path) -> None:
    arguments = ["-m", "model", "-u", "uncertainty.safetensors", "--confidence", 0.5, "-o", "out/here"]
    result = ideal_run("calibrate", "data.extxyz", *arguments, "--threshold", 3)
    assert result.exit_code == 0, result.output
    content = json.loads((work / "out" / "here" / "calibration.json").read_text())
    assert content["assessment"]["threshold"] == 3
    assert content["threshold"] != 3
    assert "Judged below: the threshold u = 3" in result.stdout
    assert "coverage at 50 %" in result.stdout


def test_what_the_run_has_learned_is_left_out(ideal_run: Run, work: Path, run_directory: Path) -> None:
    result = ideal_run("calibrate", "data.extxyz", "--model", "run")
    assert result.exit_code == 0, result.output
    assert "2 of 12 structures were learned by this run and are left out" in result.stderr
    assert "10 structures" in result.stdout
    kept = ideal_run("calibrate", "data.extxyz", "--model", "run/model", "--include-known")
    assert kept.exit_code == 0, kept.output
    assert "flatter" in kept.stderr
    assert "12 structures" in kept.stdout
    write("known.extxyz", read("run/initial_labels.extxyz", index=":"))
    known = ideal_run("calibrate", "known.extxyz", "--model", "run")
    assert known.exit_code == 2
    assert "has learned all 2 structures" in known.stderr and "--include-known" in known.stderr
    assert ideal_run("calibrate", "data.extxyz", "--model", "run", "-o", "run").exit_code == 2
    assert not (run_directory / "calibration.json").exists()


@pytest.mark.parametrize("state", ["initial", "run"])
def test_an_earlier_model_of_a_run_goes_with_its_own_distribution(
    state: str, ideal_run: Run, work: Path, run_directory: Path
) -> None:
    shutil.copytree(run_directory / "model", run_directory / f"model_{state}")
    shutil.copy(run_directory / "uncertainty.safetensors", run_directory / f"uncertainty_{state}.safetensors")
    result = ideal_run("calibrate", "data.extxyz", "--model", f"run/model_{state}")
    assert result.exit_code == 0, result.output
    content = json.loads((work / "data-calibration" / "calibration.json").read_text())
    assert content["uncertainty"].endswith(f"uncertainty_{state}.safetensors")


def test_labels_of_the_run_are_known_too(ideal_run: Run, work: Path, run_directory: Path) -> None:
    from ideal.dataset.files import read_labels
    from ideal.labelling.store import LabelStore

    label = read_labels("data.extxyz")[5]
    with LabelStore(run_directory / "labels.db") as store:
        store.request(label.key, label.atoms)
        store.put(label)
    result = ideal_run("calibrate", "data.extxyz", "--model", "run", "--confidence", "0.8")
    assert "3 of 12 structures were learned" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["nothing.xyz", "-m", "model", "-u", "uncertainty.safetensors"], 2, ("nothing.xyz", "no such file")),
        (["data.extxyz", "-m", "nowhere"], 2, ("nowhere", "no such folder")),
        (["data.extxyz", "-m", "model"], 2, ("belongs to no run", "--uncertainty FILE")),
        (["data.extxyz", "-m", "model", "-u", "nothing"], 2, ("nothing", "no such file")),
        (["data.extxyz", "-m", "model", "-u", "model"], 3, ("state.safetensors", "does not exist")),
        (["data.extxyz", "-m", ".", "-u", "uncertainty.safetensors"], 6, ("no model there",)),
        (["data.extxyz", "-m", "model", "--force-error", "-1"], 2, ("--force-error -1", "above 0")),
        (["data.extxyz", "-m", "model", "--confidence", "90"], 2, ("--confidence 90", "between 0 and 1")),
        (["data.extxyz", "-m", "model", "--threshold", "0"], 2, ("--threshold 0", "above 0")),
        (
            ["data.extxyz", "-m", "model", "-u", "uncertainty.safetensors", "--confidence", "0.95"],
            2,
            ("12 structures", "at least 20", "--confidence"),
        ),
        (["bare.extxyz", "-m", "model", "-u", "uncertainty.safetensors"], 2, ("bare.extxyz", "no energy")),
    ],
)
def test_refused(arguments: list[str], code: int, parts: tuple[str, ...], ideal_run: Run, work: Path) -> None:
    write("bare.extxyz", bulk("Cu"))
    result = ideal_run("calibrate", *arguments)
    assert result.exit_code == code, result.output
    assert all(part in result.stderr for part in parts), result.stderr
    assert "Traceback" not in result.output
    assert not list(work.glob("*-calibration"))


@pytest.mark.parametrize("confidence", [0.3, 0.5, 0.9, 0.95, 0.96, 0.99])
def test_every_fold_has_a_bound_with_the_least_number_of_structures(confidence: float) -> None:
    from ideal.cli.calibration_study import FOLDS, structures_needed
    from ideal.uncertainty.calibration import Calibration

    def ready(n_cells: int) -> bool:
        calibration = Calibration(confidence, run_cells=0, half_life=np.inf)
        for number in range(n_cells):
            calibration.add(str(number), "validation", [1.0], [0.1])
        return calibration.ready

    n = structures_needed(confidence)
    others = n - int(np.ceil(n / FOLDS))  # without the largest fold
    assert ready(others) and not ready(others - 1)


def test_too_few_structures_with_a_finite_u(ideal_run: Run, work: Path) -> None:
    """No bound, said so, and a file that every JSON parser reads."""
    gold = []
    for seed in range(N_STRUCTURES):
        atoms = labelled(seed)
        if seed > 3:
            atoms.symbols[:] = "Au"
            atoms.calc = EMT()
            atoms.get_forces()
        gold.append(atoms)
    write("gold.extxyz", gold)
    known = SoapMahalanobis(SoapPowerSpectrum(["Cu", "Au"], r_cut=4.0, n_max=3, l_max=2, sigma=0.5))
    structures = [labelled(seed) for seed in range(4)]
    known.update(structures, masks=[atoms.symbols == "Cu" for atoms in structures])
    known.save("copper.safetensors")
    result = ideal_run("calibrate", "gold.extxyz", "-m", "model", "-u", "copper.safetensors")
    assert result.exit_code == 0, result.output
    assert "u is infinite, no bound" in result.stdout

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (work / "gold-calibration" / "calibration.json").read_text()
    assert json.loads(text, parse_constant=refuse)["scale"] is None


def test_an_element_that_nothing_knows(ideal_run: Run, work: Path) -> None:
    frames = []
    for seed in range(N_STRUCTURES):
        atoms = labelled(seed)
        results = dict(atoms.calc.results)
        atoms.symbols[1] = "Ag"
        atoms.calc = None
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms.calc = SinglePointCalculator(atoms, energy=results["energy"], forces=results["forces"])
        frames.append(atoms)
    write("silver.extxyz", frames)
    result = ideal_run("calibrate", "silver.extxyz", "-m", "model", "-u", "uncertainty.safetensors")
    assert result.exit_code in (3, 6), result.output
    assert "Ag" in result.stderr
