"""Labels and structures through files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from ideal.dataset import read_labels, read_labels_and_structures, read_structures, write_labels
from ideal.dataset.extxyz import format_frame
from ideal.errors import ConfigError
from ideal.records import Label, structure_key


def make_label(seed: int = 0, **changes: Any) -> Label:
    rng = np.random.default_rng(seed)
    atoms = bulk("Li", cubic=True).repeat((2, 1, 1))
    atoms.positions += rng.normal(scale=0.1, size=(4, 3))
    atoms.set_cell(atoms.cell.array + rng.normal(scale=0.1, size=(3, 3)))
    values: dict[str, Any] = {
        "key": structure_key(atoms, {"source": "gpaw 26.7"}),
        "atoms": atoms,
        "energy": float(rng.normal() * 100),
        "forces": rng.normal(size=(4, 3)) * 10.0 ** rng.integers(-9, 2, size=(4, 3)),
        "stress": rng.normal(size=6) * 1e-3,
        "code": "gpaw 26.7",
        "energy_kind": "free_energy",
        "seconds": 12.25,
        "info": {"trajectory": "md", "step": 40, "note": 'a "quoted" \\ text', "list": [1, 2.5], "nested": {"a": None}},
    }
    return Label(**{**values, **changes})


def assert_equal(a: Label, b: Label) -> None:
    assert (a.key, a.energy, a.code, a.energy_kind, a.seconds) == (b.key, b.energy, b.code, b.energy_kind, b.seconds)
    assert np.array_equal(a.forces, b.forces)
    assert (a.stress is None) == (b.stress is None)
    if a.stress is not None and b.stress is not None:
        assert np.array_equal(a.stress, b.stress)
    assert np.array_equal(a.atoms.positions, b.atoms.positions)
    assert np.array_equal(a.atoms.cell.array, b.atoms.cell.array)
    assert np.array_equal(a.atoms.numbers, b.atoms.numbers)
    assert np.array_equal(a.atoms.pbc, b.atoms.pbc)
    assert dict(a.info) == dict(b.info)


def test_labels_survive_a_file_to_the_last_bit(tmp_path: Path) -> None:
    mixed = bulk("Li", cubic=True).repeat((2, 1, 1))
    mixed.pbc = (True, False, True)
    labels = [
        make_label(0),
        make_label(1, stress=None, info={}),
        make_label(2, energy_kind="total_energy"),
        make_label(3, atoms=mixed, key=structure_key(mixed, {"source": "gpaw 26.7"})),
    ]
    write_labels(tmp_path / "labels.extxyz", labels)
    again = read_labels(tmp_path / "labels.extxyz")
    assert len(again) == 4
    for one, other in zip(labels, again, strict=True):
        assert_equal(one, other)
        assert other.atoms.calc is None
    write_labels(tmp_path / "twice.extxyz", again)
    assert (tmp_path / "twice.extxyz").read_text() == (tmp_path / "labels.extxyz").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.extxyz", "twice.extxyz"]


def test_ase_reads_what_is_written(tmp_path: Path) -> None:
    label = make_label()
    write_labels(tmp_path / "labels.extxyz", [label])
    atoms = ase.io.read(tmp_path / "labels.extxyz")
    assert atoms.get_potential_energy() == label.energy
    assert atoms.get_potential_energy(force_consistent=True) == label.energy
    assert np.array_equal(atoms.get_forces(), label.forces)
    assert np.array_equal(atoms.get_stress(), label.stress)


def test_a_molecule_without_cell(tmp_path: Path) -> None:
    atoms = molecule("CH3CH2OH")
    label = make_label(
        atoms=atoms, forces=np.ones((9, 3)), stress=None, key=structure_key(atoms, {"source": "x"}), code="x"
    )
    write_labels(tmp_path / "m.extxyz", [label])
    assert_equal(read_labels(tmp_path / "m.extxyz")[0], label)


def test_an_old_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "labels.extxyz"
    write_labels(path, [make_label()])
    before = path.read_text()
    with pytest.raises(ValueError, match="forces"):
        write_labels(path, [make_label(), make_label(forces=np.zeros((3, 3)))])
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.extxyz"]


def labelled(**results: Any) -> Atoms:
    atoms = bulk("Al", cubic=True)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def test_free_and_other_energies_do_not_mix(tmp_path: Path) -> None:
    path, forces = tmp_path / "mixed.extxyz", np.zeros((4, 3))
    free = labelled(energy=-1.0, free_energy=-1.5, forces=forces)
    ase.io.write(path, [free, labelled(energy=-1.0, forces=forces)])
    for read in (read_labels, read_labels_and_structures):
        with pytest.raises(ConfigError, match=r"label 0 is a free_energy, that of label 1 a total_energy.*every frame"):
            read(path)
    ase.io.write(path, [free, labelled(energy=-1.0, free_energy=-1.0, forces=forces)])
    assert [label.energy for label in read_labels(path)] == [-1.5, -1.0]


def test_the_free_energy_is_preferred(tmp_path: Path) -> None:
    frame = labelled(energy=-1.0, free_energy=-1.5, forces=np.zeros((4, 3)), stress=np.arange(6.0))
    ase.io.write(tmp_path / "a.extxyz", [frame])
    label = read_labels(tmp_path / "a.extxyz")[0]
    assert (label.energy, label.energy_kind, label.code) == (-1.5, "free_energy", "file")
    assert label.stress is not None
    assert label.stress.tolist() == [0, 1, 2, 3, 4, 5]
    assert label.key == structure_key(frame, {"source": "file"})


def test_forces_on_constrained_atoms_are_the_codes(tmp_path: Path) -> None:
    frame = labelled(energy=-1.0, forces=np.ones((4, 3)))
    frame.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "a.traj", [frame])
    label = read_labels(tmp_path / "a.traj")[0]
    assert np.all(label.forces == 1)
    assert label.energy_kind == "total_energy"


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({}, r"frame 1 has no energy \(it has .*\); write `energy=`"),
        ({"forces": np.zeros((4, 3))}, r"frame 1 has no energy \(it has forces"),
        ({"energy": -1.0}, r"frame 1 has an energy but no forces; add a `forces` column"),
        ({"energy": np.nan, "forces": np.zeros((4, 3))}, r"frame 1: energy or forces are not finite"),
        ({"energy": -1.0, "forces": np.full((4, 3), np.inf)}, r"frame 1: energy or forces are not finite"),
    ],
)
def test_frames_that_are_no_labels_are_named(tmp_path: Path, results: dict[str, Any], message: str) -> None:
    good = labelled(energy=-1.0, forces=np.zeros((4, 3)))
    ase.io.write(tmp_path / "a.extxyz", [good, labelled(**results)])
    with pytest.raises(ConfigError, match=message) as caught:
        read_labels(tmp_path / "a.extxyz")
    assert "a.extxyz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_partly_labelled_files(tmp_path: Path) -> None:
    good, bare = labelled(energy=-1.0, forces=np.zeros((4, 3))), bulk("Cu")
    ase.io.write(tmp_path / "a.extxyz", [good, bare, good])
    labels, structures = read_labels_and_structures(tmp_path / "a.extxyz")
    assert len(labels) == 2
    assert [str(atoms.symbols) for atoms in structures] == ["Cu"]
    ase.io.write(tmp_path / "b.extxyz", [bare, labelled(energy=-1.0)])
    with pytest.raises(ConfigError, match="frame 1 has an energy but no forces"):
        read_labels_and_structures(tmp_path / "b.extxyz")


def test_structures_keep_momenta_and_constraints(tmp_path: Path) -> None:
    atoms = bulk("Al", cubic=True)
    atoms.set_momenta(np.ones((4, 3)))
    atoms.set_constraint(FixAtoms([1]))
    ase.io.write(tmp_path / "a.traj", atoms)
    read = read_structures(tmp_path / "a.traj")[0]
    assert np.array_equal(read.get_momenta(), np.ones((4, 3)))
    assert len(read.constraints) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.xyz", None, "no such file"),
        ("empty.extxyz", "", "the file is empty"),
        ("words.extxyz", "hello\nworld\n", "cannot be read as a structure file"),
        ("short.extxyz", "3\nProperties=species:S:1:pos:R:3\nH 0 0 0\n", "cannot be read as a structure file"),
        ("odd.unknown", "1\n2\n3\n", "cannot be read as a structure file"),
        (
            "nan.extxyz",
            "1\nProperties=species:S:1:pos:R:3\nH 0 nan 0\n",
            "frame 0: the position of atom 0 is not finite",
        ),
    ],
)
def test_files_that_are_no_structures(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_structures(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_frames_carry_any_column_and_entry(tmp_path: Path) -> None:
    atoms = bulk("Al", cubic=True)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(4, 3)))
    atoms.set_initial_magnetic_moments([1.0, -1.0, 0.1, 1 / 3])
    info = {"step": 7, "flag": True, "pi": np.float64(np.pi), "vector": np.array([1.5, 2.5]), "text": "two words"}
    arrays = {"u": np.array([1.0, np.inf, 1e-300, 1 / 3]), "core": np.array([True, False, True, True])}
    path = tmp_path / "f.extxyz"
    path.write_text(format_frame(atoms, info, arrays) + format_frame(atoms))
    first, second = ase.io.read(path, index=":")
    assert np.array_equal(first.get_momenta(), atoms.get_momenta())
    assert np.array_equal(first.get_initial_magnetic_moments(), atoms.get_initial_magnetic_moments())
    assert np.array_equal(first.arrays["u"], arrays["u"])
    assert np.array_equal(first.arrays["core"], arrays["core"])
    assert (first.info["step"], first.info["flag"], first.info["pi"], first.info["text"]) == (
        7,
        True,
        np.pi,
        "two words",
    )
    assert np.array_equal(first.info["vector"], info["vector"])
    assert np.array_equal(second.positions, atoms.positions)
    with pytest.raises(ValueError, match="'bad key'"):
        format_frame(atoms, {"bad key": 1})
    with pytest.raises(ValueError, match="column 'u'"):
        format_frame(atoms, arrays={"u": np.zeros(3)})
    with pytest.raises(ValueError, match="spaces"):
        format_frame(atoms, arrays={"name": np.array(["a", "b", "c d", "e"])})
