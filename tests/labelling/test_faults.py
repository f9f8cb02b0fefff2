"""What goes wrong in long runs, done on purpose: no label lost, none twice, each cause in words."""

import contextlib
import random
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ase.build import bulk

from ideal.config import EspressoConfig, TbliteConfig
from ideal.errors import LabelError
from ideal.labelling.codes import make_code
from ideal.labelling.labeller import Labeller
from ideal.labelling.store import LabelStore
from ideal.records import FailedLabel, Label

from .conftest import cluster
from .test_labeller import collect

DATA = Path(__file__).parent / "data"


def test_garbage_printed_by_the_code_is_no_answer(fake, store, tmp_path):
    """Bytes that are no text, and lines that look like answers of the worker."""
    with Labeller(fake("Garbage"), store, tmp_path / "work", workers=1) as labeller:
        labeller.submit(cluster())
        failure = collect(labeller, 1)[0]
        assert isinstance(failure, FailedLabel) and failure.circumstances["kind"] == "code"
        assert "could not convert string to float" in failure.cause and "ValueError" in failure.log_tail
        assert failure.log_tail.isprintable() or "\n" in failure.log_tail
    with LabelStore(store.path) as again:
        assert again.failures()[0].cause == failure.cause


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_program_that_prints_noise(store, tmp_path):
    """A pw.x whose output is cut off in the middle of binary noise: a cause, never a number."""
    version = 'echo "     Program PWSCF v.6.7MaX starts"; [ -f espresso.pwi ] || exit 0'
    noise = f"{version}; head -c 20000 /dev/urandom; echo '!    total energy = -1e400 Ry'; exit 0"
    config = EspressoConfig(
        command=program(tmp_path / "pw", noise),
        pseudo_dir=DATA,
        pseudopotentials={"Si": "Si.pbe.gth"},
        retries=[],
    )
    with Labeller(make_code(config), store, tmp_path / "work", workers=1) as labeller:
        labeller.submit(bulk("Si"))
        failure = collect(labeller, 1)[0]
    assert isinstance(failure, FailedLabel) and failure.code == "espresso 6.7MaX"
    assert "pw.x" in failure.cause or "espresso" in failure.cause
    assert store.counts() == {"done": 0, "failed": 1, "pending": 0}


def test_unconverged_scf_is_a_failure_with_its_tries(store, tmp_path):
    atoms = bulk("Si") * (1, 1, 2)
    atoms.rattle(0.1, seed=1)
    hasty = TbliteConfig(max_iterations=2, retries=[{"mixing": 0.1, "max_iterations": 3}])
    with Labeller(make_code(hasty), store, tmp_path / "work", workers=1) as labeller:
        key = labeller.submit(atoms)
        failure = collect(labeller, 1)[0]
        assert isinstance(failure, FailedLabel) and "2 tries" in failure.cause
        assert [item["changes"] for item in failure.info["retries"]] == [{}, {"mixing": 0.1, "max_iterations": 3}]
    with Labeller(make_code(TbliteConfig()), store, tmp_path / "work", workers=1) as labeller:
        assert labeller.submit(atoms) == key  # the same label, now asked again
        assert isinstance(collect(labeller, 1)[0], Label)
    assert store.counts() == {"done": 1, "failed": 0, "pending": 0}


@contextlib.contextmanager
def tiny_disk(path: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own."""
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", path], capture_output=True)
    if done.returncode:
        pytest.skip("a file system of its own takes root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_full_disk(fake, marks, tmp_path):
    """The disk fills up amid a run: it stops with the remedy, goes on when there is room, and has lost nothing."""
    with tiny_disk(tmp_path / "disk", 700) as disk, contextlib.ExitStack() as stack:
        store = stack.enter_context(LabelStore(disk / "labels.db"))
        with Labeller(fake("Marked"), store, tmp_path / "work", workers=1) as labeller:
            labeller.submit(cluster(0), {"n": 0})
            collect(labeller, 1)
            ballast = disk / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb") as file:
                while True:
                    file.write(bytes(1000))
                    file.flush()
            with pytest.raises(LabelError, match=r"free space.*ideal-run resume"):
                for n in range(1, 200):
                    labeller.submit(cluster(n), {"n": n})
                    labeller.wait(10)
        asked = n
        assert store.get(next(label.key for label in store.labels())) is not None
        ballast.unlink()
        with Labeller(fake("Marked"), store, tmp_path / "work", workers=1) as labeller:
            wanted = {labeller.submit(cluster(n), {"n": n}) for n in range(asked + 1)}
            while wanted:
                wanted -= {label.key for label in labeller.wait(20)}
        store.verify()
        assert store.counts() == {"done": asked + 1, "failed": 0, "pending": 0}
    assert len(list(marks.iterdir())) <= asked + 2, "finished work was repeated"


def test_jumps_of_the_clock(fake, store, tmp_path, monkeypatch):
    """The calendar clock leaps days back and forth at every look; limits, waits and claims follow the steady one."""
    real, noise = time.time, random.Random(1)
    monkeypatch.setattr(time, "time", lambda: real() + noise.uniform(-1, 1) * 86400 * 365)
    with Labeller(fake("Slow"), store, tmp_path / "work", workers=2, timeout=200) as labeller:
        keys = [labeller.submit(cluster(n), {"n": n}) for n in range(4)]
        labels = collect(labeller, 4)
    assert sorted(label.key for label in labels) == sorted(keys)
    assert all(isinstance(label, Label) and 0.2 < label.seconds < 200 for label in labels)
    assert store.counts() == {"done": 4, "failed": 0, "pending": 0}
    assert store.claim("x", cluster()) == "mine"
    with LabelStore(store.path) as other:
        assert other.claim("x", cluster()) == "elsewhere"


def test_clocks_in_use():
    """Nothing that waits, limits or judges reads the calendar clock; it only dates what is written."""
    for path in sorted((Path(__file__).parents[2] / "ideal" / "labelling").rglob("*.py")):
        calls = path.read_text().count("time.time()")
        assert calls == 0 or path.name == "store.py", path


def test_out_of_memory_names_the_signal(fake, store, tmp_path):
    """SIGKILL, as the kernel sends it."""
    with Labeller(fake("Dies"), store, tmp_path / "work", workers=1) as labeller:
        labeller.submit(cluster(0, "HLi3"))
        failure = collect(labeller, 1)[0]
    assert "signal 9 (SIGKILL)" in failure.cause and failure.circumstances["kind"] == "died"
    assert Path(failure.folder, "request.json").is_file()


def test_store_on_a_file_system_that_turns_read_only(fake, tmp_path):
    with tiny_disk(tmp_path / "disk", 1000) as disk:
        store = LabelStore(disk / "labels.db")
        with store, Labeller(fake("Marked"), store, tmp_path / "work", workers=1) as labeller:
            labeller.submit(cluster(0))
            collect(labeller, 1)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True, capture_output=True)
        with LabelStore(disk / "labels.db", read_only=True) as store:
            assert len(store.labels()) == 1
        with pytest.raises(LabelError, match=r"labels\.db"):
            LabelStore(disk / "labels.db").put(FailedLabel("x", cluster(), "late"))
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True, capture_output=True)
