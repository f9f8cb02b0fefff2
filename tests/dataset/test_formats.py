"""The three formats of labels, and what they keep."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.db import connect

from ideal.dataset import read_labels, write_labels
from ideal.dataset.files import is_label_store
from ideal.errors import ConfigError
from ideal.labelling.store import LabelStore
from ideal.records import Label, structure_key

RNG = np.random.default_rng(5)
FORMATS = ["labels.extxyz", "labels.h5", "labels.db"]


def labels() -> list[Label]:
    crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    crystal.positions += RNG.normal(0, 0.1, crystal.positions.shape)
    crystal.set_array("core", RNG.random(8) > 0.5)
    crystal.set_momenta(RNG.normal(size=(8, 3)))
    water = molecule("H2O")
    water.positions += RNG.normal(0, 0.1, (3, 3))
    water.set_initial_magnetic_moments([0.5, 0, 0])
    kinds = [(crystal, RNG.normal(size=6), "free_energy"), (water, None, "total_energy")]
    return [
        Label(
            key=structure_key(atoms, {"n": n}),
            atoms=atoms,
            energy=-1 / 3 - n,
            forces=RNG.normal(size=(len(atoms), 3)) * 10.0 ** RNG.integers(-9, 3, (len(atoms), 3)),
            stress=stress,
            code="gpaw 26.7.0",
            energy_kind=kind,
            seconds=12.5,
            info={"trajectory": "melt", "core": [1, 2], "u": 0.1, "retries": [{"changes": {"mixing": 0.1}}]},
        )
        for n, (atoms, stress, kind) in enumerate(kinds)
    ]


def assert_same(found: Label, given: Label) -> None:
    assert (found.energy, found.energy_kind, found.code, found.seconds) == (
        given.energy,
        given.energy_kind,
        given.code,
        given.seconds,
    )
    assert found.info == given.info
    assert found.forces.tobytes() == given.forces.tobytes()
    assert (found.stress is None) == (given.stress is None)
    if given.stress is not None:
        assert np.array_equal(found.stress, given.stress)
    assert found.atoms.pbc.tolist() == given.atoms.pbc.tolist()
    assert np.array_equal(found.atoms.cell.array, given.atoms.cell.array)
    for name, array in given.atoms.arrays.items():
        assert np.array_equal(found.atoms.arrays[name], array), name
    assert np.isfinite(found.forces).all()


@pytest.mark.parametrize("name", FORMATS)
def test_round_trip_is_exact(tmp_path, name):
    given = labels()
    write_labels(tmp_path / name, given)
    for found, expected in zip(read_labels(tmp_path / name, keep_keys=True), given, strict=True):
        assert_same(found, expected)
        assert found.key == expected.key
    assert [found.key for found in read_labels(tmp_path / name)] != [expected.key for expected in given]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_from_format_to_format(tmp_path):
    given = labels()
    write_labels(tmp_path / "a.db", given)
    write_labels(tmp_path / "b.h5", read_labels(tmp_path / "a.db", keep_keys=True))
    write_labels(tmp_path / "c.extxyz", read_labels(tmp_path / "b.h5", keep_keys=True))
    for found, expected in zip(read_labels(tmp_path / "c.extxyz", keep_keys=True), given, strict=True):
        assert_same(found, expected)
        assert found.key == expected.key


def test_layout_of_mace(tmp_path):
    given = labels()
    write_labels(tmp_path / "labels.h5", given)
    with h5py.File(tmp_path / "labels.h5") as file:
        config = file["config_batch_0"]["config_0"]
        assert config["atomic_numbers"][()].tolist() == given[0].atoms.numbers.tolist()
        assert config["properties"]["energy"][()] == given[0].energy
        assert config["properties"]["forces"].shape == (8, 3) and config["properties"]["stress"].shape == (6,)
        assert file["config_batch_0/config_1/property_weights/stress"][()] == 0.0
        assert "stress" not in file["config_batch_0/config_1/properties"]
    with h5py.File(tmp_path / "mace.h5", "w") as file:  # as MACE writes it, in an order that is not alphabetical
        for number in range(12):
            group = file.create_group(f"config_batch_0/config_{number}")
            group["atomic_numbers"] = [1, 1]
            group["positions"] = [[0, 0, 0], [0, 0, 0.7 + 0.01 * number]]
            group["cell"], group["pbc"], group["weight"] = "None", "None", 1.0
            group["properties/energy"] = -float(number)
            group["properties/forces"] = np.zeros((2, 3))
            group["properties/stress"] = "None"
    found = read_labels(tmp_path / "mace.h5")
    assert [label.energy for label in found] == [-float(number) for number in range(12)]
    assert found[0].code == "file" and found[0].stress is None and not found[0].atoms.pbc.any()


def test_ase_db_reads_a_store_and_an_export(tmp_path):
    given = labels()
    with LabelStore(tmp_path / "labels.db") as store:
        for label in given:
            store.put(label)
    write_labels(tmp_path / "export.db", given)
    for name in ("labels.db", "export.db"):
        done = subprocess.run(
            [Path(sys.executable).parent / "ase", "db", tmp_path / name, "-c", "formula,energy,code"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Na4Cl4" in done.stdout.replace("Cl4Na4", "Na4Cl4") and "gpaw 26.7.0" in done.stdout
        assert connect(tmp_path / name).get(natoms=3).energy == given[1].energy
    for found, expected in zip(read_labels(tmp_path / "labels.db", keep_keys=True), given, strict=True):
        assert_same(found, expected)


def test_store_is_never_replaced(tmp_path):
    path = tmp_path / "labels.db"
    with LabelStore(path) as store:
        store.put(labels()[0])
    assert is_label_store(path) and not is_label_store(tmp_path / "none.db")
    with pytest.raises(ConfigError, match="never replaced"):
        write_labels(path, labels())


def test_bad_files(tmp_path):
    (tmp_path / "a.h5").write_text("no such thing")
    with pytest.raises(ConfigError, match=r"a\.h5: cannot be read as HDF5"):
        read_labels(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ConfigError, match="holds no group config_batch_0"):
        read_labels(tmp_path / "b.h5")
    (tmp_path / "c.db").write_text("no such thing" * 100)
    with pytest.raises(ConfigError, match=r"c\.db: cannot be read"):
        read_labels(tmp_path / "c.db")
