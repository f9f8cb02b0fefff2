import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from ideal.config import AseConfig, GpawConfig, LabelGateConfig, TbliteConfig
from ideal.errors import LabelError
from ideal.labelling.codes import make_code
from ideal.labelling.executors import worker_process
from ideal.labelling.executors.local import LocalExecutor
from ideal.labelling.labeller import LabelCounts, Labeller, check_workers
from ideal.labelling.store import LabelStore
from ideal.records import FailedLabel, Label, structure_key

from .conftest import cluster


def collect(labeller, count, seconds=200):
    finished = []
    deadline = time.monotonic() + seconds
    while len(finished) < count:
        assert time.monotonic() < deadline, f"only {len(finished)} of {count} labels in {seconds} s"
        finished += labeller.wait(timeout=5)
    assert len(finished) == count
    return finished


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_of(marks):
    return [int(path.suffix[1:]) for path in sorted(marks.iterdir()) if path.suffix[1:].isdigit()]


def test_labels_are_committed_and_right(fake, marks, store, tmp_path):
    structures = [cluster(n) for n in range(5)]
    with Labeller(fake("Marked"), store, tmp_path / "labels", workers=1) as labeller:
        keys = [labeller.submit(atoms, {"n": n}) for n, atoms in enumerate(structures)]
        finished = []
        while len(finished) < 5:
            for label in labeller.wait():
                committed = LabelStore(store.path, read_only=True).get(label.key)
                assert committed.forces.tobytes() == label.forces.tobytes()
                finished.append(label)
        assert labeller.wait() == [] and labeller.poll() == []
        assert labeller.counts() == LabelCounts(0, 0, 5, 0)
    assert [label.key for label in finished] == keys  # one worker: the order of asking
    for label, atoms in zip(finished, structures, strict=True):
        shift = atoms.positions - atoms.positions.mean(axis=0)
        assert label.energy == 0.5 * float((shift**2).sum())
        assert label.forces.tobytes() == (-shift).tobytes()
        assert label.atoms.positions.tobytes() == atoms.positions.tobytes()
        assert label.stress is None and label.energy_kind == "free_energy" and label.code.startswith("ase ")
    assert [label.info["n"] for label in store.labels()] == list(range(5))
    assert len(set(processes_of(marks))) == 1  # the worker lives on between labels
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["worker-0.log"]


def test_two_workers_run_at_once(fake, store, tmp_path):
    with Labeller(fake("Meets"), store, tmp_path, workers=2) as labeller:
        for n in range(2):
            labeller.submit(cluster(n))
        eventually(lambda: labeller.counts().running == 2 or labeller.counts().done)
        assert all(isinstance(label, Label) for label in collect(labeller, 2))


def test_same_structure_is_calculated_once(fake, marks, store, tmp_path):
    with Labeller(fake("Marked"), store, tmp_path / "labels", workers=2) as labeller:
        assert labeller.submit(cluster()) == labeller.submit(cluster())
        (label,) = collect(labeller, 1)
        assert labeller.submit(cluster()) == label.key
        (again,) = labeller.poll()
        assert again.forces.tobytes() == label.forces.tobytes()
    with Labeller(fake("Marked"), store, tmp_path / "labels") as labeller:
        labeller.submit(cluster())
        assert len(labeller.poll()) == 1
    assert len(list(marks.iterdir())) == 1


def test_other_settings_are_another_key(fake, store, tmp_path):
    with (
        Labeller(fake("Marked"), store, tmp_path) as one,
        Labeller(fake("Marked", label="x"), store, tmp_path) as other,
    ):
        assert one.submit(cluster()) != other.submit(cluster())
        collect(one, 1)
        collect(other, 1)
    assert len(store.labels()) == 2


def test_time_limit_ends_the_whole_group(fake, marks, store, tmp_path, monkeypatch):
    """By a clock that leaps ahead once the code hangs: how fast the machine is must not decide."""
    hangs = (marks / "child.pid").exists
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + (1000 if hangs() else 0), sleep=time.sleep)
    monkeypatch.setattr(worker_process, "time", clock)
    with Labeller(fake("Hangs"), store, tmp_path / "labels", workers=1, timeout=250) as labeller:
        key = labeller.submit(cluster(), {"n": 1})
        labeller.submit(cluster(1, "HLi3"))
        failed, label = collect(labeller, 2)
    assert isinstance(label, Label)  # a new worker took over
    assert isinstance(failed, FailedLabel) and failed.key == key and failed.info == {"n": 1}
    assert "exceeded the time limit of 250 s" in failed.cause and 1000 <= failed.seconds < 1250
    for pid in (marks / "child.pid").read_text().split():
        eventually(lambda pid=pid: not alive(pid))
    assert store.get(key).cause == failed.cause
    assert len(list((tmp_path / "labels").glob(f"{key[:16]}-*"))) == 1  # the folder of a failure is kept


def test_killed_worker_fails_one_label_only(fake, marks, store, tmp_path):
    with Labeller(fake("Dies"), store, tmp_path, workers=1) as labeller:
        bad = labeller.submit(cluster(0, "HLi3"))
        good = labeller.submit(cluster(1, "Li4"))
        failed, label = collect(labeller, 2)
    assert failed.key == bad and failed.cause.startswith("worker killed by signal 9 (SIGKILL): out of memory?")
    assert label.key == good and isinstance(label, Label)
    assert len(set(processes_of(marks))) == 2  # a new worker took over


def test_worker_killed_from_outside(fake, marks, store, tmp_path):
    with Labeller(fake("Hangs"), store, tmp_path, workers=1) as labeller:
        labeller.submit(cluster())
        eventually((marks / "child.pid").exists)
        grandchild, worker = (int(pid) for pid in (marks / "child.pid").read_text().split())
        os.kill(worker, signal.SIGKILL)
        (failed,) = collect(labeller, 1)
        assert "killed by signal 9" in failed.cause
        eventually(lambda: not alive(grandchild))


def test_code_that_exits_leaves_its_last_words(fake, store, tmp_path):
    with Labeller(fake("Exits"), store, tmp_path, workers=1) as labeller:
        labeller.submit(cluster())
        (failed,) = collect(labeller, 1)
    assert failed.cause == "ase raised SystemExit: 3"
    assert "last words of the code" in failed.log_tail and "SystemExit: 3" in failed.log_tail


def hasty(*retries: dict) -> TbliteConfig:
    """tblite that does not converge at once."""
    return TbliteConfig(max_iterations=1, retries=list(retries))


def test_unconverged_scf_fails(store, tmp_path):
    with Labeller(make_code(hasty()), store, tmp_path, workers=1) as labeller:
        labeller.submit(molecule("H2O"))
        (failed,) = collect(labeller, 1)
    assert "tblite GFN1-xTB failed within 1 iterations" in failed.cause
    assert "NotConvergedError" in failed.log_tail


def test_retries_reach_the_label_that_was_asked_for(store, tmp_path):
    ladder = ({"max_iterations": 2}, {"max_iterations": 100, "mixing": 0.3})
    with Labeller(make_code(hasty(*ladder)), store, tmp_path, workers=1) as labeller:
        key = labeller.submit(molecule("H2O"), {"step": 3})
        (label,) = collect(labeller, 1)
    straight = make_code(TbliteConfig())
    assert label.key == key == structure_key(molecule("H2O"), straight.settings)
    assert label.energy == pytest.approx(straight.compute(molecule("H2O"), tmp_path).energy, abs=1e-4)
    assert [attempt["changes"] for attempt in label.info["retries"]] == [{}, ladder[0]]
    assert "within 2 iterations" in label.info["retries"][1]["cause"] and label.info["step"] == 3


def test_failed_retries_are_counted_and_tried_again_under_other_numerics(store, tmp_path):
    for number, config in enumerate([hasty({"max_iterations": 2}), hasty({"max_iterations": 2}), TbliteConfig()]):
        with Labeller(make_code(config), store, tmp_path / str(number), workers=1) as labeller:
            labeller.submit(molecule("H2O"))
            (answer,) = collect(labeller, 1)
        if number < 2:
            assert answer.cause.endswith("(2 tries with different numerical settings)")
    assert isinstance(answer, Label)
    assert store.counts() == {"done": 1, "failed": 0, "pending": 0}
    assert not (tmp_path / "1" / answer.key[:16]).exists()  # the second run took the failure from the store


def test_failure_is_handed_back_unless_retried(fake, marks, store, tmp_path):
    with Labeller(fake("NotANumber"), store, tmp_path / "labels") as labeller:
        labeller.submit(cluster())
        (failed,) = collect(labeller, 1)
        assert failed.cause.startswith("refused: the force on atom 0 is not finite")
        labeller.submit(cluster())
        assert labeller.poll()[0].cause == failed.cause
        assert len(list(marks.iterdir())) == 1
        labeller.submit(cluster(), retry=True)
        collect(labeller, 1)
        assert len(list(marks.iterdir())) == 2


def test_gate_refuses_before_and_after(fake, marks, store, tmp_path):
    close = cluster()
    close.positions[1] = close.positions[0] + [0, 0, 0.3]
    gone = cluster()
    gone.positions[2] = np.nan
    gate = LabelGateConfig(min_distance=0.5, max_net_force=0.02)
    with Labeller(fake("Marked", net_force=0.01), store, tmp_path, gate=gate) as labeller:
        labeller.submit(close)
        labeller.submit(gone)
        labeller.submit(cluster())
        finished = collect(labeller, 3)
        assert labeller.counts() == LabelCounts(0, 0, 0, 3)
    causes = sorted(failed.cause for failed in finished)
    assert causes[0].startswith("not calculated: atoms 0 (Li) and 1 (Li) are 0.300 Å apart")
    assert causes[1].startswith("not calculated: the position of atom 2 (Li)")
    assert causes[2].startswith("refused: the net force is 0.040 eV/Å")
    assert len(list(marks.iterdir())) == 1


def test_closed_labeller_leaves_requests_pending(fake, marks, store, tmp_path):
    labeller = Labeller(fake("Hangs"), store, tmp_path, workers=1)
    keys = [labeller.submit(cluster(n), {"n": n}) for n in range(3)]
    eventually((marks / "child.pid").exists)
    labeller.close()
    labeller.close()
    for pid in (marks / "child.pid").read_text().split():
        eventually(lambda pid=pid: not alive(pid))
    assert [request.key for request in store.pending()] == keys and store.failures() == []
    with pytest.raises(LabelError, match="closed"):
        labeller.submit(cluster(9))
    with Labeller(fake("Marked"), store, tmp_path / "again") as labeller:
        for request in store.pending():
            labeller.submit(request.atoms, request.info)
        assert sorted(label.info["n"] for label in collect(labeller, 3)) == [0, 1, 2]


def test_nothing_outlives_a_killed_run(fake, marks, tmp_path):
    config = fake("Hangs").config.model_dump_json()
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from ase.build import bulk, molecule
from ideal.config import AseConfig
from ideal.labelling import LabelStore, Labeller, make_code
code = make_code(AseConfig.model_validate_json({config!r}))
labeller = Labeller(code, LabelStore({str(tmp_path / "l.sqlite")!r}), {str(tmp_path / "labels")!r}, workers=1)
labeller.submit(molecule("CH4"))
labeller.wait()
"""
    run = subprocess.Popen([sys.executable, "-c", program])
    eventually((marks / "child.pid").exists)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    for pid in (marks / "child.pid").read_text().split():
        eventually(lambda pid=pid: not alive(pid))
    with LabelStore(tmp_path / "l.sqlite") as store:
        assert len(store.pending()) == 1


def test_full_disk_stops_and_loses_nothing(fake, marks, store, tmp_path):
    code = fake("Marked")
    with Labeller(code, store, tmp_path / "labels", workers=1) as labeller:
        labeller.submit(cluster(0))
        collect(labeller, 1)
        for n in range(1, 4):  # the database has its usual size
            labeller.submit(cluster(n))
            pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        big = cluster(9)
        big.set_array("ballast", np.zeros((4, 5000)))
        store._connection.execute(f"PRAGMA max_page_count = {pages + 60}")
        with pytest.raises(LabelError, match=r"disk is full; free space on that disk, then `ideal-run resume`"):
            for _ in range(300):
                big.positions += 0.01
                labeller.submit(big)
                labeller.poll()
    store._connection.execute("PRAGMA max_page_count = 1000000")
    assert isinstance(store.labels()[0], Label)
    counts = store.counts()
    assert counts["failed"] == 0
    with Labeller(code, store, tmp_path / "labels", workers=1) as labeller:
        pending = store.pending()
        for request in pending:
            labeller.submit(request.atoms, request.info)
        collect(labeller, len(pending))
    assert store.counts() == {"done": counts["done"] + counts["pending"], "failed": 0, "pending": 0}


def test_result_that_could_not_be_committed_is_not_calculated_again(fake, marks, store, tmp_path, monkeypatch):
    def full(label):
        raise LabelError("label database: database or disk is full")

    code = fake("Marked")
    monkeypatch.setattr(store, "put", full)
    with Labeller(code, store, tmp_path / "labels", workers=1) as labeller:
        key = labeller.submit(cluster())
        with pytest.raises(LabelError, match="disk is full"):
            labeller.wait()
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert [request.key for request in store.pending()] == [key]
    with Labeller(code, store, tmp_path / "labels", workers=1) as labeller:
        labeller.submit(cluster())
        assert isinstance(labeller.poll()[0], Label)
    assert len(list(marks.iterdir())) == 1


def test_full_disk_in_a_worker_is_no_failed_label(fake, store, tmp_path):
    with Labeller(fake("DiskFull"), store, tmp_path, workers=1) as labeller:
        key = labeller.submit(cluster())
        with pytest.raises(LabelError, match=r"no space left for .*free space, then `ideal-run resume`"):
            labeller.wait()
    assert [request.key for request in store.pending()] == [key] and store.failures() == []


def test_any_executor_serves(fake, store, tmp_path):
    with ProcessPoolExecutor(1) as executor, Labeller(fake("Marked"), store, tmp_path, executor=executor) as labeller:
        labeller.submit(cluster())
        assert isinstance(collect(labeller, 1)[0], Label)


def test_local_executor_alone(tmp_path):
    with LocalExecutor(2, tmp_path, timeout=200) as executor:
        values = [executor.submit(os.path.basename, f"a/{n}") for n in range(4)]
        assert [value.result() for value in values] == ["0", "1", "2", "3"]
        with pytest.raises(LabelError, match="FileNotFoundError"):
            executor.submit(os.stat, "/no/such/file").result()
        with pytest.raises(LabelError, match="positional"):
            executor.submit(os.getpid, x=1)
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(os.getpid)
    with pytest.raises(LabelError, match="at least 1"):
        LocalExecutor(0, tmp_path)


def test_workers_have_one_thread_and_no_torch(tmp_path):
    with LocalExecutor(1, tmp_path, timeout=200) as executor:
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
    program = "import ideal.labelling.task, ideal.labelling.labeller, sys; print({'torch', 'matgl'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_check_workers(tmp_path):
    lines = check_workers(make_code(TbliteConfig()), ["Li", "H"], tmp_path)
    assert lines[0].startswith("tblite ") and lines[1:] == ["Li: parametrized", "H: parametrized"]
    code = make_code(AseConfig(calculator="ase.calculators.emt:EMT"))
    with pytest.raises(LabelError, match=r"in a worker process: .*EMT does not answer for 'Li'"):
        check_workers(code, ["Cu", "Li"], tmp_path)


def test_folder_that_cannot_be_made(fake, store, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LabelError, match="cannot make the folder"):
        Labeller(fake("Marked"), store, tmp_path / "file" / "labels")


def test_empty_structure(fake, store, tmp_path):
    with Labeller(fake("Marked"), store, tmp_path) as labeller:
        labeller.submit(Atoms())
        assert labeller.poll()[0].cause.startswith("not calculated: the structure has no atoms")


@pytest.mark.dft
def test_gpaw_through_workers(store, tmp_path):
    pytest.importorskip("gpaw")
    config = GpawConfig(cutoff=200, kpoint_length=7, density_tolerance=1e-3, eigenstates_tolerance=1e-5)
    structures = [bulk("Li", "bcc", a=a, cubic=True) for a in (3.4, 3.5)]
    with Labeller(make_code(config), store, tmp_path / "labels", workers=2, timeout=600) as labeller:
        for atoms in structures:
            atoms.rattle(0.1)
            labeller.submit(atoms)
        labels = collect(labeller, 2, 600)
    assert all(isinstance(label, Label) and label.stress.shape == (6,) for label in labels)
    assert all(label.code.startswith("gpaw 2") and np.abs(label.forces).max() > 0.01 for label in labels)
    hasty = make_code(config.model_copy(update={"max_iterations": 2, "retries": []}))
    with Labeller(hasty, store, tmp_path / "labels", workers=1, timeout=600) as labeller:
        labeller.submit(structures[0] * (2, 1, 1))
        (failed,) = collect(labeller, 1, 600)
    assert "GPAW did not converge in 2 SCF iterations" in failed.cause
    assert "--- gpaw.txt" in failed.log_tail and "iter:" in failed.log_tail
