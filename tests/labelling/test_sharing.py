"""Several processes, several runs, one store: each label is calculated once, and none waits for the dead."""

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from threading import Timer
from types import SimpleNamespace

import numpy as np
import pytest

from ideal.config import LabelGateConfig
from ideal.errors import LabelError
from ideal.labelling import claims
from ideal.labelling.executors import WorkerError
from ideal.labelling.labeller import Labeller
from ideal.labelling.store import LabelStore, on_network
from ideal.labelling.task import perform
from ideal.records import FailedLabel, Label, structure_key

from .conftest import cluster
from .test_labeller import collect, eventually

HERE = Path(__file__).parent
PROGRAM = f"""
import sys
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parents[1])!r}]
from ideal.config import AseConfig
from ideal.labelling.codes import make_code
from ideal.labelling.labeller import Labeller
from ideal.labelling.store import LabelStore
from tests.labelling.conftest import cluster

store, folder, marks, name = sys.argv[1:]
code = make_code(AseConfig(calculator=f"fake_calculators:{{name}}", arguments={{"marks": marks}}))
with LabelStore(store) as store, Labeller(code, store, folder, workers=1, timeout=200) as labeller:
    keys = {{labeller.submit(cluster(n), {{"n": n}}) for n in range(6)}}
    print("submitted", flush=True)
    while keys:
        keys -= {{label.key for label in labeller.wait(5)}}
print("done", flush=True)
"""


def start(store: Path, folder: Path, marks: Path, name: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    arguments = [sys.executable, "-c", PROGRAM, str(store), str(folder), str(marks), name]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path, marks):
    path = tmp_path / "shared.db"
    both = [start(path, tmp_path / name, marks, "Slow") for name in ("one", "two")]
    assert [process.communicate(timeout=250)[0].split()[-1] for process in both] == ["done", "done"]
    with LabelStore(path) as store:
        assert store.counts() == {"done": 6, "failed": 0, "pending": 0}
        assert store._read("SELECT COUNT(*) FROM claims")[0][0] == 0
    assert len(list(marks.iterdir())) == 6, "a label was calculated twice"


def test_a_new_store_opens_while_another_process_makes_its_tables(tmp_path):
    path = tmp_path / "shared.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # SQLite refuses another's change of the journal mode now, without waiting
    release = Timer(0.5, other.rollback)
    release.start()
    with LabelStore(path) as store:
        assert store.counts() == {"done": 0, "failed": 0, "pending": 0}
        assert store._value("journal_mode") == "wal"
    release.join()
    other.close()


@pytest.mark.slow
def test_what_a_killed_process_had_claimed_is_taken_over(tmp_path, marks, fake):
    path = tmp_path / "shared.db"
    process = start(path, tmp_path / "one", marks, "Hangs")
    eventually((marks / "child.pid").exists)
    code = fake("Hangs")
    with LabelStore(path) as store, Labeller(code, store, tmp_path / "two", workers=1, timeout=60) as labeller:
        key = labeller.submit(cluster(5))
        assert labeller.counts().running == 0 and labeller.counts().queued == 1  # left to the other process
        assert labeller.wait(0.1) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
        eventually(lambda: labeller.poll() == [] and key in labeller._futures)
    process.stdout.close()


def test_owner_on_another_machine_is_judged_by_its_counter(store, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(claims, "time", clock)
    with LabelStore(store.path) as other:
        with monkeypatch.context() as patch:
            patch.setattr(claims, "host", lambda: "far away")
            assert other.claim("a", cluster()) == "mine"
        assert store.claim("a", cluster()) == "elsewhere"
        for _ in range(4):  # its counter moves: alive, whatever any calendar clock says
            clock.now += 0.9 * claims.STALE_SECONDS
            with other._transaction() as connection:
                other._claims.beat(connection)
            assert store.claim("a", cluster()) == "elsewhere"
        clock.now += 0.9 * claims.STALE_SECONDS
        assert store.claim("a", cluster()) == "elsewhere"
        clock.now += 0.2 * claims.STALE_SECONDS
        assert store.claim("a", cluster()) == "mine"
        assert other.claim("a", cluster()) == "elsewhere"
        store.release(["a"])
        assert other.claim("a", cluster()) == "mine"


def test_stricter_gate_refuses_a_label_of_the_store(fake, marks, store, tmp_path):
    code = fake("Marked", net_force=0.1)
    with Labeller(code, store, tmp_path / "a", workers=1, gate=LabelGateConfig(max_net_force=1.0)) as labeller:
        key = labeller.submit(cluster(), {"run": 1})
        assert isinstance(collect(labeller, 1)[0], Label)
    with Labeller(code, store, tmp_path / "b", workers=1) as labeller:
        labeller.submit(cluster(), {"run": 2})
        (refused,) = labeller.poll()
    assert isinstance(refused, FailedLabel) and "net force is 0.400" in refused.cause
    assert "the label stays in the store" in refused.cause and refused.info["run"] == 2
    assert isinstance(store.get(key), Label) and len(list(marks.iterdir())) == 1


@pytest.mark.slow
def test_failures_stand_only_while_their_circumstances_do(fake, marks, store, tmp_path):
    with Labeller(fake("Hangs"), store, tmp_path / "a", workers=1, timeout=1.5) as labeller:
        labeller.submit(cluster())
        assert collect(labeller, 1)[0].circumstances["kind"] == "time"
    for timeout, again in ((1.0, False), (2.0, True)):
        with Labeller(fake("Hangs"), store, tmp_path / "b", workers=1, timeout=timeout) as labeller:
            labeller.submit(cluster())
            assert bool(labeller.counts().running + labeller.counts().queued) is again
    with Labeller(fake("Dies"), store, tmp_path / "a", workers=1) as labeller:
        labeller.submit(cluster(0, "HLi3"))
        failure = collect(labeller, 1)[0]
        assert failure.circumstances["kind"] == "died" and failure.code.startswith("ase ")
        assert Path(failure.folder).is_dir()
    for folder, again in (("a", False), ("b", True)):
        with Labeller(fake("Dies"), store, tmp_path / folder, workers=1) as labeller:
            labeller.submit(cluster(0, "HLi3"))
            assert bool(labeller.counts().running + labeller.counts().queued) is again, folder


def test_what_was_committed_since_one_looked_is_not_claimed(store):
    with LabelStore(store.path) as other:
        assert store.claim("a", cluster()) == "mine"
        store.put(Label("a", cluster(), -1.0, np.zeros((4, 3)), None, "code"))
        assert other.claim("a", cluster()) == "elsewhere" and other.get("a").energy == -1.0


def test_an_owner_whose_entry_was_rolled_back_enters_again(store, monkeypatch):
    with monkeypatch.context() as patch:
        claim = store._claims.claim

        def interrupted(*arguments):
            claim(*arguments)
            raise sqlite3.OperationalError("database or disk is full")

        patch.setattr(store._claims, "claim", interrupted)
        with pytest.raises(LabelError, match="full"):
            store.claim("a", cluster())
    assert store.claim("a", cluster()) == "mine"
    with LabelStore(store.path) as other:
        assert other.claim("a", cluster()) == "elsewhere"


def test_the_label_of_a_faster_process_is_the_one_that_counts(fake, store, tmp_path):
    with Labeller(fake("Marked"), store, tmp_path / "work", executor=(executor := Kept())) as labeller:
        key = labeller.submit(cluster(), {"n": 1})
        store.put(Label(key, cluster(), -1.0, np.zeros((4, 3)), None, "code"))
        executor.future.set_exception(WorkerError("used 3 GB", limit="memory"))
        (label,) = labeller.wait(10)
    assert isinstance(label, Label) and label.energy == -1.0 and label.info["n"] == 1
    assert store.failures() == [] and not list((tmp_path / "work").iterdir())


def test_a_calculation_that_the_executor_canceled_has_not_failed(fake, store, tmp_path):
    with Labeller(fake("Marked"), store, tmp_path / "work", executor=(executor := Kept())) as labeller:
        labeller.submit(cluster())
        executor.future.cancel()
        with pytest.raises(LabelError, match=r"canceled a calculation; .*resume"):
            labeller.wait(10)
    assert store.counts() == {"done": 0, "failed": 0, "pending": 1}


def test_more_memory_asks_again(fake, store, tmp_path):
    for memory, again in ((1.0, True), (1.0, False), (0.5, False), (2.0, True), (None, True)):
        executor = Kept()
        with Labeller(fake("Marked"), store, tmp_path / "work", executor=executor, memory=memory) as labeller:
            labeller.submit(cluster())
            assert (executor.future is not None) is again, memory
            if executor.future:
                executor.future.set_exception(WorkerError("used 3 GB of memory", limit="memory"))
            (failure,) = labeller.wait(10)
            assert failure.circumstances["kind"] == "memory"


class Kept:
    """An executor whose only future the test settles."""

    future = None

    def submit(self, function, folder):
        self.future = Future()
        return self.future


def left_by_a_worker(labeller_folder: Path, code, key: str) -> None:
    """What a worker of a batch system does that outlives the engine: it finishes the calculation that it was given."""
    (folder,) = [path for path in labeller_folder.glob(f"{key[:16]}-*") if not (path / "result.json").exists()]
    perform(str(folder))


class Nowhere:
    """An executor whose workers are not heard of again."""

    def submit(self, function, folder):
        return Future()


def test_results_that_arrive_after_a_restart_are_taken_in(fake, marks, store, tmp_path):
    code = fake("Marked")
    keys = []
    with Labeller(code, store, tmp_path / "work", executor=Nowhere()) as labeller:
        keys = [labeller.submit(cluster(n), {"n": n}) for n in range(2)]
    assert len(store.pending()) == 2
    left_by_a_worker(tmp_path / "work", code, keys[0])
    with Labeller(code, store, tmp_path / "work", executor=Nowhere()) as labeller:
        assert store.counts() == {"done": 1, "failed": 0, "pending": 1}  # before anybody asks
        assert store.get(keys[0]).info["n"] == 0
        (old,) = (tmp_path / "work").glob(f"{keys[1][:16]}-*")
        labeller.submit(cluster(1), {"n": 1})
        perform(str(old))  # the old worker finishes while its successor has not
        (label,) = labeller.wait(10)
        assert isinstance(label, Label) and label.key == keys[1]
    assert len(list(marks.iterdir())) == 2 and store.counts()["done"] == 2
    assert [path for path in (tmp_path / "work").iterdir() if path.is_dir()] == []


def test_settings_of_every_code_are_kept(fake, store, tmp_path):
    code = fake("Marked")
    with Labeller(code, store, tmp_path, workers=1) as labeller:
        labeller.submit(cluster())
        label = collect(labeller, 1)[0]
    name, settings = store.codes()[label.info["settings"]]
    assert name == label.code and structure_key(cluster(), settings) == label.key


def test_network_file_systems_are_known(tmp_path, monkeypatch):
    assert not on_network(tmp_path / "labels.db")
    mounts = f"/dev/x / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self: mounts)
    assert on_network(tmp_path / "labels.db") and not on_network(Path("/elsewhere/labels.db"))
    mounts = f"/dev/x / ext4 rw 0 0\nserver:/scratch {tmp_path / 'far'} lustre rw 0 0\n"
    (tmp_path / "far").mkdir()
    (tmp_path / "scratch").symlink_to(tmp_path / "far")
    assert on_network(tmp_path / "scratch" / "labels.db") and not on_network(tmp_path / "labels.db")


@pytest.mark.parametrize("size", [6_000_000])
def test_large_files_of_a_failure_are_not_kept(fake, store, tmp_path, size):
    with Labeller(fake("LeavesMuch", size=size), store, tmp_path / "work", workers=1) as labeller:
        labeller.submit(cluster())
        failure = collect(labeller, 1)[0]
    folder = Path(failure.folder)
    assert not (folder / "wave.dat").exists() and (folder / "much.out").stat().st_size == 1_000_000
    assert "wave.dat: 6000000 bytes" in (folder / "left_out.txt").read_text()
    assert "the end of it" in failure.log_tail
