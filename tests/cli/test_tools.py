"""``score``, ``embed``, ``label`` and ``train`` on tiny inputs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.io import read, write
from typer.testing import Result

from ideal import SoapMahalanobis
from ideal.cli.picture import draw_substructure
from ideal.dataset.files import read_labels
from ideal.records import Substructure

from .conftest import EMT_CODE

Run = Callable[..., Result]


def test_score(ideal_run: Run, folder: Path, distribution: Path, copper: Atoms) -> None:
    moved = copper.copy()
    moved.positions[7] += 1.0
    moved.info["step"] = 40
    write("traj.extxyz", [copper, copper, moved])
    result = ideal_run(
        "score", "traj.extxyz", "-u", distribution, "--every", 2, "--csv", "u.csv", "-o", "out/scored.extxyz"
    )
    assert result.exit_code == 0, result.output
    frames = read("out/scored.extxyz", index=":")
    expected = SoapMahalanobis.load(distribution).atomic(read("traj.extxyz", index=2))
    np.testing.assert_allclose(frames[1].arrays["u"], expected, rtol=1e-10)
    assert frames[1].info["step"] == 40
    with Path("u.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64
    assert rows[32 + 7]["frame"] == "2"
    assert float(rows[32 + 7]["u"]) == pytest.approx(expected[7], rel=1e-5)
    last = result.stdout.splitlines()[2].split()
    assert last[0] == "2"
    assert float(last[3]) == pytest.approx(expected.max(), abs=1e-3)
    assert int(last[5]) == (expected > 2).sum()


def test_score_refuses_an_unknown_element(ideal_run: Run, folder: Path, distribution: Path) -> None:
    write("gold.extxyz", bulk("Au", cubic=True))
    result = ideal_run("score", "gold.extxyz", "-u", distribution)
    assert result.exit_code == 3, result.output
    assert "Au" in result.stderr


def test_embed(ideal_run: Run, folder: Path, distribution: Path) -> None:
    frame = bulk("Cu", cubic=True).repeat(5)
    frame.rattle(0.08, seed=4)
    write("big.extxyz", [frame, frame])
    arguments = ["big.extxyz", "--atom", 17, "-u", distribution, "--threshold", 3, "--frame", 1]
    result = ideal_run("embed", *arguments, "--picture", "cell.png", "--seed", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("accepted: ")
    cell = read("big-atom17.extxyz")
    assert f"{len(cell)} atoms, {cell.arrays['core'].sum()} of them core" in result.stdout
    assert cell.info["accepted"] and cell.info["step"] == 1
    assert {"u", "u_before", "provenance"} <= set(cell.arrays)
    assert f"max u of the filler: {cell.info['max_u']:.3f}" in result.stdout
    assert (folder / "cell.png").read_bytes().startswith(b"\x89PNG")

    refused = ideal_run("embed", *arguments, "-o", "refused.extxyz", "--set", "embedding.max_atoms=30")
    assert refused.exit_code == 4
    assert refused.stdout.startswith("refused: ")
    assert "no acceptable cell" in refused.stderr
    assert not read("refused.extxyz").info["accepted"]


def test_embed_with_known_structures_alone(ideal_run: Run, folder: Path) -> None:
    """Distribution, threshold and distances come from the structures; the picture is drawn unasked."""
    known = [bulk("Cu", cubic=True).repeat(3) for _ in range(3)]
    for seed, atoms in enumerate(known):
        atoms.rattle(0.08, seed=seed)
    write("known.extxyz", known)
    frame = bulk("Cu", cubic=True).repeat(5)
    frame.rattle(0.08, seed=4)
    write("big.extxyz", frame)
    small = ["--set", "uncertainty.soap.n_max=3", "--set", "uncertainty.soap.l_max=2", "--set", "embedding.n_crops=6"]
    result = ideal_run("embed", "big.extxyz", "--atom", 17, "--atom", 18, "--known", "known.extxyz", *small)
    assert result.exit_code == 0, result.output
    assert "threshold" in result.stdout and "held-out quantile of the known structures" in result.stdout
    cell = read("big-atom17-18.extxyz")
    core = cell.arrays["parent_index"][cell.arrays["core"]]
    assert {17, 18} <= set(core.tolist()) and cell.info["atom"] == 17
    assert Path("big-atom17-18.png").read_bytes().startswith(b"\x89PNG")
    nothing = ideal_run("embed", "big.extxyz", "--atom", 17)
    assert nothing.exit_code == 2 and "--uncertainty FILE" in nothing.stderr and "--known FILE" in nothing.stderr
    missing = ideal_run("embed", "big.extxyz", "--atom", 17, "-k", "none.extxyz", "--no-picture")
    assert missing.exit_code == 2 and "--known none.extxyz: no such file" in missing.stderr
    write("gold.extxyz", bulk("Au", cubic=True).repeat(4))
    unknown = ideal_run("embed", "gold.extxyz", "--atom", 1, "-k", "known.extxyz", *small)
    assert unknown.exit_code == 4 and "knows no environment of Au" in unknown.stderr


def test_embed_judges_a_part_of_a_box_by_what_its_atoms_had_there(
    ideal_run: Run, folder: Path, distribution: Path
) -> None:
    """Atoms at the faces of the cut, of which there are many, do not raise the threshold."""
    box = bulk("Cu", cubic=True).repeat(7)
    box.rattle(0.08, seed=4)
    box.set_array("u", SoapMahalanobis.load(distribution).atomic(box))
    middle = np.abs(box.positions - box.cell.sum(axis=0) / 2).max(axis=1)
    part = box[np.argsort(middle)[: np.sum(middle < 9.0)]]
    part.positions += 9.5 - box.cell.sum(axis=0) / 2
    part.cell = [19.0, 19.0, 19.0]
    write("part.extxyz", part)
    arguments = ["part.extxyz", "--atom", 0, "-u", distribution, "--no-picture"]
    ordinary = max(2.0, np.quantile(part.arrays["u"], 0.75))
    assert f"threshold {ordinary:.3f}: " in ideal_run("embed", *arguments).stdout
    part.arrays["u"] *= 1.5  # of another distribution
    write("part.extxyz", part)
    assert f"threshold {ordinary:.3f}: " not in ideal_run("embed", *arguments).stdout


@pytest.mark.parametrize(
    ("atoms", "pbc"),
    [
        (molecule("CH3CH2OH", vacuum=4.0), False),
        (bulk("Cu").repeat(3), True),  # a triclinic cell
        (fcc111("Cu", (2, 2, 3), vacuum=6.0), True),
        (molecule("H2O", cell=[6.0, 6.0, 6.0]), True),  # across the boundary
    ],
)
def test_every_kind_of_cell_is_drawn(tmp_path: Path, atoms: Atoms, pbc: bool) -> None:
    atoms.pbc = pbc
    atoms.wrap()
    n = len(atoms)
    u = np.linspace(0.1, 9.0, n)
    u[-1] = np.nan
    provenance = np.array([k % 5 for k in range(n)])
    cell = Substructure(
        atoms, provenance == 0, 0, np.arange(n), provenance, u, u[::-1].copy(), 9.0, 2.0, False, "too uncertain", pbc
    )
    draw_substructure(cell, tmp_path / "cell.png")
    assert (tmp_path / "cell.png").stat().st_size > 10_000


def test_label_folder_resume_and_failure(ideal_run: Run, folder: Path, copper: Atoms) -> None:
    (folder / "cells").mkdir()
    write("cells/a.extxyz", [copper, bulk("Cu", cubic=True)])
    write("cells/b.vasp", bulk("Cu", cubic=True).repeat((2, 1, 1)))
    (folder / "cells" / "notes.txt").write_text("not a structure")
    arguments = [
        "label",
        "cells",
        "--code",
        EMT_CODE,
        "-o",
        "out/labelled.extxyz",
        "--workers",
        1,
        "--timeout",
        "1 min",
    ]
    result = ideal_run(*arguments)
    assert result.exit_code == 0, result.output
    assert "left out" in result.stderr and "notes.txt" in result.stderr
    labels = read_labels("out/labelled.extxyz")
    assert [len(label.atoms) for label in labels] == [32, 4, 8]
    copper.calc = EMT()
    assert labels[0].energy == pytest.approx(copper.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(labels[0].forces, copper.get_forces(), atol=1e-6)
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["labelled-store.db", "labelled.extxyz"]

    bad = copper.copy()
    bad.positions[0] = bad.positions[1] + 0.1
    write("cells/c.extxyz", bad)
    again = ideal_run(*arguments)
    assert again.exit_code == 5
    assert "structure 3:" in again.stderr and "1 of 4 failed" in again.stderr
    repeated = read_labels("out/labelled.extxyz")
    assert [label.seconds for label in repeated] == [label.seconds for label in labels], "labels were calculated again"


def test_label_takes_its_settings_from_a_configuration(ideal_run: Run, folder: Path) -> None:
    result = ideal_run("label", "copper.extxyz", "-c", "config.yaml", "--set", "labelling.gate.max_net_force=1e-30")
    assert result.exit_code == 5
    assert "labelling.gate.max_net_force" in result.stderr


def test_train_and_fine_tune(ideal_run: Run, folder: Path, labelled: Path) -> None:
    small = ["--set", "model.n_blocks=1", "--set", "model.units=8", "--set", "model.cutoff=4.0"]
    small += ["--set", "model.threebody_cutoff=3.0"]
    result = ideal_run("train", labelled, "-o", "model", "--epochs", 2, *small)
    assert result.exit_code == 0, result.output
    assert "4 structures to learn, 1 to validate, elements Cu" in result.stdout
    assert result.stdout.count("eV/Å") == 4
    tuned = ideal_run("train", labelled, "-o", "tuned", "--from", "model", "--epochs", 1, "--validation", labelled)
    assert tuned.exit_code == 0, tuned.output
    assert "5 structures to learn, 5 to validate" in tuned.stdout

    from ideal import IdealCalculator

    atoms = read(labelled, index=0)
    atoms.calc = IdealCalculator(folder / "tuned")
    assert np.isfinite(atoms.get_forces()).all()
