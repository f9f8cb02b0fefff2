import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms

from ideal.errors import LabelError
from ideal.labelling.store import LabelStore
from ideal.records import FailedLabel, Label

RNG = np.random.default_rng(3)


def structure():
    atoms = bulk("LiH", "rocksalt", a=4.0, cubic=True)
    atoms.positions += RNG.normal(0, 0.1, atoms.positions.shape)
    atoms.set_initial_magnetic_moments(RNG.normal(size=8))
    atoms.set_momenta(RNG.normal(size=(8, 3)))
    atoms.set_array("core", RNG.random(8) > 0.5)
    return atoms


def label(key="a", **changes):
    values = {
        "key": key,
        "atoms": structure(),
        "energy": -1 / 3,
        "forces": RNG.normal(size=(8, 3)) * 10.0 ** RNG.integers(-300, 300, (8, 3)),
        "stress": RNG.normal(size=6),
        "code": "gpaw 26.7.0",
        "energy_kind": "free_energy",
        "seconds": 12.5,
        "info": {"trajectory": "melt", "step": 40, "u": 0.1},
    }
    return Label(**(values | changes))


def same(one, other):
    assert (one.key, one.energy, one.code, one.energy_kind, one.seconds, one.info) == (
        other.key,
        other.energy,
        other.code,
        other.energy_kind,
        other.seconds,
        other.info,
    )
    assert one.forces.tobytes() == other.forces.tobytes()
    assert (one.stress is None) == (other.stress is None)
    if one.stress is not None:
        assert one.stress.tobytes() == other.stress.tobytes()
    assert one.atoms.cell.array.tobytes() == other.atoms.cell.array.tobytes()
    assert one.atoms.pbc.tolist() == other.atoms.pbc.tolist()
    assert one.atoms.arrays.keys() == other.atoms.arrays.keys()
    for name, array in one.atoms.arrays.items():
        assert array.dtype == other.atoms.arrays[name].dtype
        assert array.tobytes() == other.atoms.arrays[name].tobytes()


@pytest.mark.parametrize("changes", [{}, {"stress": None}, {"info": {}}, {"energy": -0.0}])
def test_label_comes_back_bit_for_bit(tmp_path, changes):
    path = tmp_path / "labels.sqlite"
    given = label(**changes)
    with LabelStore(path) as store:
        assert store.put(given)
        same(store.get("a"), given)
    with LabelStore(path) as store:
        same(store.get("a"), given)
        assert store.get("b") is None


def test_orders(store):
    for key in "cab":
        store.request(key, structure())
    for key in "bca":
        store.put(label(key))
    assert [found.key for found in store.labels()] == ["b", "c", "a"]
    assert [found.key for found in store.labels(order="asked")] == ["c", "a", "b"]


def test_pending_survives(tmp_path):
    path = tmp_path / "labels.sqlite"
    atoms = structure()
    with LabelStore(path) as store:
        store.request("a", atoms, {"step": np.int64(3), "file": Path("x")})
        store.request("a", atoms, {"step": 4})
        store.request("b", atoms)
        store.put(label("b"))
    with LabelStore(path) as store:
        (request,) = store.pending()
        assert request.key == "a" and request.info == {"step": 3, "file": "x"}
        assert request.atoms == atoms and (request.atoms.arrays["core"] == atoms.arrays["core"]).all()
        assert store.counts() == {"done": 1, "failed": 0, "pending": 1}


def test_failure_then_success(store):
    atoms = structure()
    store.request("a", atoms)
    failed = FailedLabel("a", atoms, "SCF did not converge", "iteration 150", 3.5, {"step": 1})
    assert store.put(failed)
    found = store.get("a")
    assert (found.cause, found.log_tail, found.seconds) == (failed.cause, failed.log_tail, failed.seconds)
    assert [f.key for f in store.failures()] == ["a"] and store.pending() == []
    store.request("a", atoms)
    assert store.get("a") is None and store.failures() == [] and len(store.pending()) == 1
    store.put(FailedLabel("a", atoms, "time limit"))
    assert store.get("a").cause == "time limit" and len(store.failures()) == 1
    store.request("a", atoms)
    store.put(label("a"))
    assert isinstance(store.get("a"), Label) and store.failures() == [] and store.pending() == []


def test_label_is_never_overwritten(store):
    first = label("a")
    assert store.put(first)
    assert not store.put(label("a", energy=7.0))
    assert not store.put(FailedLabel("a", first.atoms, "late failure"))
    store.request("a", first.atoms)
    assert store.pending() == [] and store.failures() == []
    same(store.get("a"), first)


def test_reader_beside_writer(tmp_path):
    path = tmp_path / "labels.sqlite"
    program = (
        "import sys; from ideal.labelling.store import LabelStore\n"
        "with LabelStore(sys.argv[1], read_only=True) as s: print(len(s.labels()), s.counts()['pending'])"
    )
    with LabelStore(path) as store, store._transaction():  # an open write transaction does not stop readers
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
        assert done.stdout.split() == ["0", "0"], done.stderr
    with LabelStore(path) as store, LabelStore(path, read_only=True) as reader:
        for n in range(3):
            store.put(label(str(n)))
            assert len(reader.labels()) == n + 1
        with pytest.raises(LabelError, match="folder exists and may be written"):
            reader.put(label("x"))


def test_readable_in_a_folder_that_may_not_be_written(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with LabelStore(folder / "labels.sqlite") as store:
        store.put(label())
    folder.chmod(0o500)
    try:
        with LabelStore(folder / "labels.sqlite", read_only=True) as reader:
            assert len(reader.labels()) == 1
    finally:
        folder.chmod(0o700)


def test_threads_share_a_store(store):
    threads = [threading.Thread(target=lambda n=n: [store.put(label(f"{n}-{i}")) for i in range(10)]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.counts()["done"] == 40


def test_what_put_returned_survives_kill(tmp_path):
    path = tmp_path / "labels.sqlite"
    program = f"""
import sys
from ase.build import bulk
import numpy as np
from ideal.labelling.store import LabelStore
from ideal.records import Label
store = LabelStore({str(path)!r})
for n in range(100000):
    store.put(Label(str(n), bulk("Li"), float(n), np.zeros((1, 3)), None, "x"))
    print(n, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    for _ in range(20):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    printed = 20 + len(process.stdout.read().split())
    process.wait()
    with LabelStore(path) as store:
        energies = [found.energy for found in store.labels()]
    assert energies[:printed] == [float(n) for n in range(printed)] and len(energies) <= printed + 1


def test_full_disk(tmp_path):
    path = tmp_path / "labels.sqlite"
    with LabelStore(path) as store:
        store.put(label("first"))
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LabelError, match=r"labels\.sqlite: database or disk is full; free space"):
            for n in range(50):
                store.put(label(str(n)))
        store._connection.execute("PRAGMA max_page_count = 1000000")
        assert store.put(label("after"))
        assert isinstance(store.get("first"), Label) and isinstance(store.get("after"), Label)


def test_damaged_files(tmp_path):
    path = tmp_path / "labels.sqlite"
    path.write_bytes(b"this is not a database, but long enough" * 100)
    with pytest.raises(LabelError, match="damaged: restore a copy"):
        LabelStore(path)
    path.unlink()
    with LabelStore(path) as store:
        for n in range(30):
            store.put(label(str(n)))
    data = bytearray(path.read_bytes())
    data[8192:-4096] = bytes(len(data) - 4096 - 8192)
    path.write_bytes(bytes(data))
    with pytest.raises(LabelError, match="damaged: restore a copy"):
        LabelStore(path)


def test_foreign_and_newer_files(tmp_path):
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE t (x)")
    with pytest.raises(LabelError, match="another program"):
        LabelStore(foreign)
    newer = tmp_path / "newer.sqlite"
    LabelStore(newer).close()
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LabelError, match="schema version 99"):
        LabelStore(newer)
    with pytest.raises(LabelError, match="no label database"):
        LabelStore(tmp_path / "none.sqlite", read_only=True)
    with pytest.raises(LabelError, match="folder exists and may be written"):
        LabelStore(tmp_path / "none" / "labels.sqlite")


def test_refuses_what_it_cannot_keep(store):
    with pytest.raises(LabelError, match="JSON-able"):
        store.request("a", structure(), {"x": object()})
    atoms = structure()
    atoms.set_array("things", np.array([object()] * 8))
    with pytest.raises(LabelError, match="things"):
        store.request("a", atoms)
    assert store.pending() == []


def test_constraints_and_info_stay_behind(store):
    atoms = structure()
    atoms.set_constraint(FixAtoms([0]))
    atoms.info["a"] = object()
    store.request("a", atoms)
    assert store.pending()[0].atoms.constraints == []
