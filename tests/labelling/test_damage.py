"""A store whose bytes were changed on the disk: noticed, and what can be read saved."""

import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from ase.db import connect

from ideal.errors import LabelError
from ideal.labelling.rescue import open_or_rescue, rescue
from ideal.labelling.store import DamagedStoreError, LabelStore
from ideal.records import FailedLabel, Label

from .test_store import label, same, structure

COUNT = 40


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, dict[str, Label]]:
    """A store of forty labels, one failure and one open request, with everything in the one file."""
    path = tmp_path_factory.mktemp("sound") / "labels.db"
    labels = {f"key-{n}": label(f"key-{n}", forces=np.random.default_rng(n).normal(size=(8, 3))) for n in range(COUNT)}
    with LabelStore(path) as store:
        for item in labels.values():
            store.put(item)
        store.put(FailedLabel("bad", structure(), "no convergence", "iteration 9", 2.0, {}, "gpaw 1", "/x"))
        store.request("open", structure())
        store.checkpoint()
    return path, labels


def copy_of(sound, tmp_path) -> Path:
    return Path(shutil.copy(sound[0], tmp_path / "labels.db"))


def test_ase_reads_the_store(sound):
    path, labels = sound
    rows = list(connect(path).select())
    assert len(rows) == COUNT
    for row, expected in zip(rows, labels.values(), strict=True):
        assert row.energy == row.free_energy == expected.energy
        assert row.forces.tobytes() == expected.forces.tobytes()
        assert row.stress.tobytes() == expected.stress.tobytes()
        atoms = row.toatoms()
        assert atoms.positions.tobytes() == expected.atoms.positions.tobytes()
        assert row.code == expected.code and row.data["label_key"] == expected.key
    assert connect(path).count("Li>0,energy<0,code=gpaw 26.7.0") == COUNT


def flip(path: Path, place: int, count: int = 64) -> None:
    data = bytearray(path.read_bytes())
    noise = random.Random(place)
    data[place : place + count] = bytes(noise.randrange(256) for _ in range(count))
    path.write_bytes(bytes(data))


def test_one_flipped_bit_in_the_forces_is_noticed(sound, tmp_path):
    pattern, noticed = sound[1]["key-7"].forces.tobytes()[:64], 0
    place = sound[0].read_bytes().find(pattern)
    while place > 0:  # once in the store's own table, once in ASE's
        path = copy_of(sound, tmp_path)
        data = bytearray(path.read_bytes())
        data[place + 5] ^= 1
        path.write_bytes(bytes(data))
        with LabelStore(path) as store:  # every page is well-formed
            try:
                same(store.get("key-7"), sound[1]["key-7"])
            except DamagedStoreError as error:
                assert "checksum of label key-7" in str(error) and f"ideal-run rescue {path}" in str(error)
                noticed += 1
            assert isinstance(store.get("key-8"), Label)
        store, rescued = open_or_rescue(path)
        with store:
            assert rescued is None or (rescued.lost == () and rescued.damaged.is_file())
            same(store.get("key-7"), sound[1]["key-7"])
        place = sound[0].read_bytes().find(pattern, place + 1)
    assert noticed == 1


def test_one_flipped_bit_in_a_structure_is_mended_from_the_copy(tmp_path):
    path, atoms = tmp_path / "labels.db", structure()
    atoms.positions += 0.125
    expected = label("key", atoms=atoms)
    with LabelStore(path) as store:
        store.put(expected)
        store.checkpoint()
    before, pattern, mended = path.read_bytes(), atoms.positions.tobytes()[:64], 0
    place = before.find(pattern)
    while place > 0:  # once in the store's own table, once in ASE's
        data = bytearray(before)
        data[place + 5] ^= 1
        path.write_bytes(bytes(data))
        store, rescued = open_or_rescue(path)
        with store:
            same(store.get("key"), expected)
            store.verify()
        mended += rescued is not None
        place = before.find(pattern, place + 1)
    assert mended == 1


def test_a_store_that_another_process_has_open_is_not_rescued(sound, tmp_path):
    path = copy_of(sound, tmp_path)
    program = (
        "import sys; from ideal.labelling.store import LabelStore\n"
        "store = LabelStore(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(path)], stdin=PIPE, stdout=PIPE)
    other.stdout.readline()
    with pytest.raises(LabelError, match="another process has the store open; end the runs"):
        rescue(path)
    other.communicate()
    assert rescue(path).labels == COUNT


def test_a_file_of_nothing_that_can_be_read_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("bread, milk\n" * 2000)
    with pytest.raises(LabelError, match="nothing of a label store can be read in it"):
        open_or_rescue(path)
    assert path.read_text().startswith("bread") and [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("part", range(12))
def test_damaged_page(sound, tmp_path, part):
    path = copy_of(sound, tmp_path)
    pages = path.stat().st_size // 4096
    page = 1 + part * (pages - 2) // 11
    before = path.read_bytes()
    flip(path, 4096 * page, 4096)
    broken = path.read_bytes()
    assert broken != before
    store, rescued = open_or_rescue(path)
    with store:
        store.verify()
        if rescued is None:  # the page held nothing but free space or an index entry that nobody reads
            pytest.fail(f"damage of page {page} of {pages} was not noticed")
        assert rescued.damaged.read_bytes()[: len(broken)] == broken
        kept = {item.key: item for item in store.labels()}
        for key, item in kept.items():
            assert item.forces.tobytes() == sound[1][key].forces.tobytes() and item.energy == sound[1][key].energy
        waiting = {request.key for request in store.pending()}
        assert set(kept) | set(rescued.lost) == set(sound[1]), "a label vanished without a word"
        assert set(rescued.lost) <= waiting
        assert len(kept) == COUNT, f"{rescued} (page {page})"
        assert not store.put(next(iter(sound[1].values())))  # nothing is taken twice


def test_first_page(sound, tmp_path):
    path = copy_of(sound, tmp_path)
    flip(path, 0, 4096)
    with pytest.raises(DamagedStoreError, match=r"not a database.*damaged: restore a copy"):
        LabelStore(path)
    store, rescued = open_or_rescue(path)
    with store:
        assert rescued is not None and rescued.lost == () and len(store.labels()) == COUNT


def test_sound_store_is_left_alone(sound, tmp_path):
    path = copy_of(sound, tmp_path)
    store, rescued = open_or_rescue(path)
    store.close()
    assert rescued is None and not list(tmp_path.glob("*damaged*"))
    with pytest.raises(LabelError, match="no such file"):
        rescue(tmp_path / "none.db")


def test_older_file_is_brought_up_to_date(tmp_path):
    path, given = tmp_path / "labels.db", label("a")
    with LabelStore(path) as store:
        store.put(given)
        store.put(FailedLabel("b", structure(), "cause"))
    with sqlite3.connect(path) as connection:  # what version 1 had
        for table in ("owners", "claims", "codes", "systems", "species", "keys", "text_key_values"):
            connection.execute(f"DROP TABLE {table}")
        for table in ("number_key_values", "information"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("ALTER TABLE labels DROP COLUMN digest")
        for column in ("code", "folder", "circumstances"):
            connection.execute(f"ALTER TABLE failures DROP COLUMN {column}")
        connection.execute("PRAGMA user_version = 1")
    with pytest.raises(LabelError, match="older version"):
        LabelStore(path, read_only=True)
    with LabelStore(path) as store:
        same(store.get("a"), given)
        assert store.get("b").cause == "cause"
        store.verify()
    assert connect(path).get(id=1).energy == given.energy
