"""Creating, locking and rewinding a run directory; its checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ideal.engine import checkpoint
from ideal.engine.checkpoint import Checkpoints
from ideal.engine.events import TrainingEpoch, TrajectoryFinished
from ideal.engine.run_directory import RunDirectory, lock_holder
from ideal.errors import ConfigError, IdealError

HOLD = """
import sys
from ideal.engine.run_directory import RunDirectory
directory = RunDirectory.open(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
"""


def test_new_folder_has_configuration_and_lock(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "deep" / "run", "seed: 1\n") as directory:
        assert (directory.path / "config.yaml").read_text() == "seed: 1\n"
        assert int((directory.path / "run.lock").read_text()) == os.getpid()
        assert lock_holder(directory.path) == os.getpid()
    assert lock_holder(tmp_path / "deep" / "run") is None


def test_existing_run_is_refused_untouched(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", "seed: 1\n").close()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    with pytest.raises(ConfigError, match=r"ideal-run resume .*/run`, or choose another name, such as .*/run-2"):
        RunDirectory.create(tmp_path / "run", "seed: 2\n")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_folder_with_other_files_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match=r"not empty \(thesis.tex\); nothing in it was touched"):
        RunDirectory.create(tmp_path / "run", "")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_empty_folder_and_one_left_by_a_crash_before_the_start_are_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").write_text("123\n")
    RunDirectory.create(tmp_path / "run", "").close()


def test_name_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        RunDirectory.create(tmp_path / "run", "")


@pytest.mark.parametrize("exists", [True, False])
def test_resuming_what_is_no_run_is_refused(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match="no config.yaml" if exists else "no such folder"):
        RunDirectory.open(tmp_path / "run")
    assert not (tmp_path / "run" / "run.lock").exists()


def test_second_process_is_refused_with_the_process_id_of_the_first(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", "").close()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert lock_holder(tmp_path / "run") == other.pid
        with pytest.raises(IdealError, match=rf"process {other.pid}\); wait for it.*ideal-run resume"):
            RunDirectory.open(tmp_path / "run")
        other.kill()
    assert lock_holder(tmp_path / "run") is None
    RunDirectory.open(tmp_path / "run").close()


def test_second_use_in_the_same_process_is_refused_and_keeps_the_lock(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", ""):
        with pytest.raises(IdealError, match=f"process {os.getpid()}"):
            RunDirectory.open(tmp_path / "run")
        code = f"from ideal.engine.run_directory import lock_holder; print(lock_holder({str(tmp_path / 'run')!r}))"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert int(told.stdout) == os.getpid(), "the refused attempt must not have released the lock"


def test_growing_files_are_rewound_to_the_recorded_lengths(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", "") as directory:
        directory.write_event(TrajectoryFinished("a", 1, time=0.0))
        directory.log("trajectories/a.extxyz").append("frame 1\n")
        offsets = directory.offsets()
        directory.write_event(TrajectoryFinished("b", 2, time=0.0))
        directory.write_event(TrainingEpoch("update", 1, 1, 0.1, 0.1, 0.1, None))
        directory.log("trajectories/a.extxyz").append("fra")
        directory.log("trajectories/b.extxyz").append("frame 1\n")
    with RunDirectory.open(tmp_path / "run") as directory:
        directory.rewind(offsets)
        (event,) = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
        expected = {"time": 0.0, "event": "trajectory_finished", "trajectory": "a", "step": 1, "conclusion": ""}
        assert json.loads(event) == expected
        assert (tmp_path / "run" / "trajectories" / "a.extxyz").read_text() == "frame 1\n"
        for name in ("trajectories/b.extxyz", "training.jsonl"):
            assert (tmp_path / "run" / name).read_bytes() == b""


def test_file_that_lost_bytes_is_noticed(tmp_path: Path) -> None:
    message = r"events\.jsonl: has 0 bytes but the last checkpoint saw 10"
    with RunDirectory.create(tmp_path / "run", "") as directory, pytest.raises(IdealError, match=message):
        directory.rewind({"events.jsonl": 10})


# --- checkpoints ------------------------------------------------------------------------------------------------------


def write(checkpoints: Checkpoints, text: str) -> None:
    with checkpoints.writing() as folder:
        (folder / "state").write_text(text)


def latest(checkpoints: Checkpoints) -> str:
    folder = checkpoints.latest()
    assert folder is not None
    return (folder / "state").read_text()


def test_last_three_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    for number in range(1, 6):
        write(checkpoints, f"state {number}")
        assert latest(checkpoints) == f"state {number}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000003", "000004", "000005", "LATEST"]


@pytest.mark.parametrize("moment", ["in the middle", "before the rename", "before LATEST"])
def test_crash_while_writing_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    checkpoints = Checkpoints(tmp_path)
    write(checkpoints, "good")

    def crash(*_: object, **__: object) -> None:
        os._exit(9)

    child = os.fork()
    if child == 0:
        if moment == "before the rename":
            monkeypatch.setattr(os, "rename", crash)
        if moment == "before LATEST":
            monkeypatch.setattr(checkpoint, "write_atomically", crash)
        with checkpoints.writing() as folder:
            (folder / "state").write_text("new")
            if moment == "in the middle":
                crash()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert latest(checkpoints) == "good"
    write(checkpoints, "after")
    assert latest(checkpoints) == "after"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000001", "000002", "LATEST"]


def test_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    write(checkpoints, "good")
    with pytest.raises(RuntimeError, match="broken"), checkpoints.writing():
        raise RuntimeError("broken")
    assert latest(checkpoints) == "good"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000001", "LATEST"]


def test_missing_checkpoint_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "LATEST").write_text("000007\n")
    with pytest.raises(IdealError, match=r"000007: is missing although .*LATEST names it"):
        Checkpoints(tmp_path).latest()
    (tmp_path / "LATEST").write_text("seven\n")
    with pytest.raises(IdealError, match="write the number of a folder"):
        Checkpoints(tmp_path).latest()
