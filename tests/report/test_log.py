"""Reading logs and frames: interruptions, repetitions, half lines, half frames."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk

from ideal.dataset.extxyz import format_frame
from ideal.report.drawing import TimeAxis, duration
from ideal.report.frames import index_frames, read_sample, read_trajectory
from ideal.report.log import read_log
from ideal.report.summary import factor


def write_events(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check(time: float, step: int, **values: Any) -> dict[str, Any]:
    return {"time": time, "event": "check", "trajectory": "md", "step": step, "time_fs": 2.0 * step, **values}


class TestLog:
    def test_a_search_takes_steps_and_no_time(self, tmp_path: Path) -> None:
        end = {"time": 3.0, "event": "trajectory_finished", "trajectory": "md", "step": 7, "conclusion": "converged"}
        rows = (check(1.0, 0), check(2.0, 7, time_fs=0.0), end)
        log = read_log(write_events(tmp_path / "events.jsonl", *rows))
        assert log.traces["md"].timeless and log.traces["md"].times.tolist() == [0.0, 7.0]
        assert log.conclusions == {"md": "converged"}
        assert TimeAxis.steps().say(7.0) == "7 steps"

    def test_what_is_repeated_counts_once(self, tmp_path: Path) -> None:
        place = {"trajectory": "md", "step": 10}
        embedded = {"event": "embedded", **place, "atom": 3, "accepted": True, "key": "a", "n_atoms": 50}
        log = read_log(
            write_events(
                tmp_path / "events.jsonl",
                check(1.0, 0, max_u=1.0),
                check(2.0, 10, max_u=4.0, threshold=2.0),
                {"time": 3.0, **embedded},
                {"time": 3.5, "event": "label_submitted", "key": "a", **place, "n_atoms": 50},
                {"time": 100.0, "event": "resumed", "checkpoint": 1, "steps": {"md": 0}},
                check(102.0, 10, max_u=5.0, threshold=2.0),
                {"time": 103.0, **embedded, "max_u": 1.5},
                {"time": 103.5, "event": "label_submitted", "key": "a", **place, "n_atoms": 50},
                {"time": 110.0, "event": "label_finished", "key": "a", "trajectory": "md", "seconds": 6.0},
                {"time": 112.0, "event": "updated", **place, "labels": 1, "before": {"force_mae": 0.2}, "seconds": 2.0},
                {"time": 113.0, "event": "label_failed", "key": "b", "trajectory": "", "cause": "no"},
            )
        )
        assert log.resumed == 1
        assert log.traces["md"].steps.tolist() == [0, 10]
        assert log.traces["md"].max_u.tolist() == [1.0, 5.0]
        assert log.traces["md"].asked.tolist() == [False, True]
        assert [cell.max_u for cell in log.cells] == [1.5]
        assert [(label.key, label.state, label.step) for label in log.labels] == [("a", "done", 10), ("b", "failed", 0)]
        assert (log.count("done"), log.count("failed"), log.count("failed", initial=True)) == (1, 0, 1)
        assert log.updates[0].before.force == 0.2
        assert math.isnan(log.updates[0].before.energy)
        assert math.isnan(log.updates[0].after.force)

    def test_what_is_asked_at_a_step_again_after_going_back_counts_again(self, tmp_path: Path) -> None:
        place = {"trajectory": "md", "step": 10}
        embedded = {"event": "embedded", **place, "atom": 3, "accepted": True, "n_atoms": 50}
        log = read_log(
            write_events(
                tmp_path / "events.jsonl",
                {"time": 1.0, **embedded, "key": "a"},
                {"time": 2.0, "event": "updated", **place, "labels": 2},
                {"time": 3.0, "event": "calibrated", **place, "n_pairs": 5},
                {"time": 4.0, "event": "trajectory_restarted", **place, "good_step": 5},
                {"time": 5.0, **embedded, "key": "b"},
                {"time": 6.0, "event": "updated", **place, "labels": 1},
                {"time": 7.0, "event": "calibrated", **place, "n_pairs": 6},
            )
        )
        assert [cell.key for cell in log.cells] == ["a", "b"]
        assert [update.labels for update in log.updates] == [2, 1]
        assert [event["n_pairs"] for event in log.calibrated] == [5, 6]

    def test_wall_time_is_what_the_run_was_active_and_adds_up(self, tmp_path: Path) -> None:
        log = read_log(
            write_events(
                tmp_path / "events.jsonl",
                {"time": 0.0, "event": "run_started"},
                {"time": 1.0, "event": "stage_started", "stage": "initial_labels"},
                {"time": 5.0, "event": "label_finished", "key": "i", "trajectory": "", "seconds": 4.0},
                {"time": 6.0, "event": "stage_finished", "stage": "initial_labels", "seconds": 5.0},
                {"time": 6.0, "event": "stage_started", "stage": "pretrain"},
                {"time": 16.0, "event": "pretrained"},
                {"time": 16.5, "event": "stage_finished", "stage": "pretrain", "seconds": 10.0},
                check(20.0, 0),
                {"time": 1000.0, "event": "resumed"},
                check(1003.0, 10),
                {"time": 1004.0, "event": "embedded", "trajectory": "md", "step": 10, "atom": 0},
                {"time": 1024.0, "event": "label_finished", "key": "a", "trajectory": "md"},
                {"time": 1030.0, "event": "updated", "trajectory": "md", "step": 10},
                {"time": 1031.0, "event": "run_finished"},
            )
        )
        assert log.finished
        assert log.stage_seconds == pytest.approx(
            {
                "dynamics": 3.5 + 3.0,
                "embedding": 1.0,
                "labelling_wait": 5.0 + 20.0,
                "training": 10.5 + 6.0,
                "other": 1.0 + 1.0,
            }
        )
        assert log.wall_seconds == pytest.approx(1031 - 980)

    def test_half_lines_and_foreign_lines_are_counted(self, tmp_path: Path) -> None:
        path = write_events(tmp_path / "events.jsonl", check(1.0, 0, max_u=math.inf), {"no": "event"})
        with path.open("a") as file:
            file.write('[1]\n\n{"time": 2.0, "event": "che')
        log = read_log(path)
        assert log.n_unreadable == 3
        assert log.traces["md"].max_u.tolist() == [math.inf]
        assert not log.finished

    def test_an_empty_log_is_empty(self, tmp_path: Path) -> None:
        log = read_log(write_events(tmp_path / "events.jsonl"))
        assert (log.traces, log.labels, log.wall_seconds) == ({}, (), 0)


class TestFrames:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "md.extxyz"
        atoms = bulk("Li", cubic=True)
        frames = []
        for step in (*range(0, 100, 10), 90):
            atoms.positions[0, 0] = 0.01 * step + (0.5 if len(frames) == 10 else 0.0)
            frames.append(format_frame(atoms, {"step": step, "time_fs": 2.0 * step}))
        path.write_text("".join(frames))
        return path

    def test_frames_are_thinned_evenly_with_both_ends(self, file: Path) -> None:
        result = read_trajectory(file, 1.0, max_frames=5)
        assert result.n_written == 11
        assert result.steps[0] == 0
        assert result.steps[-1] == 90
        assert len(result.atoms) == 5
        assert result.times.tolist() == (2.0 * result.steps).tolist()

    def test_a_step_that_was_written_twice_counts_once(self, file: Path) -> None:
        result = read_trajectory(file, 1.0)
        assert result.steps.tolist() == list(range(0, 100, 10))
        assert result.atoms[-1].positions[0, 0] == pytest.approx(1.4)

    @pytest.mark.parametrize("cut", [1, 2, 30, 80, 150])
    def test_a_half_frame_is_left_out(self, file: Path, cut: int) -> None:
        file.write_bytes(file.read_bytes()[:-cut])
        index = index_frames(file)
        assert not index.complete
        assert len(index.n_atoms) == 10
        assert len(read_trajectory(file, 1.0).atoms) == 10

    def test_a_frame_that_does_not_parse_is_counted(self, file: Path) -> None:
        text = file.read_text().replace("Li ", "Q9 ", 1)
        file.write_text(text)
        result = read_trajectory(file, 1.0)
        assert result.n_unreadable == 1
        assert len(result.atoms) == 9

    def test_a_sample_keeps_the_order(self, file: Path) -> None:
        steps = [atoms.info["step"] for atoms in read_sample(file, 6)]
        assert len(steps) == 6
        assert steps == sorted(steps)

    def test_an_empty_file_has_no_frames(self, tmp_path: Path) -> None:
        (tmp_path / "md.extxyz").touch()
        assert read_trajectory(tmp_path / "md.extxyz", 1.0).atoms == []
        assert read_sample(tmp_path / "md.extxyz", 5) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "0.5 s"),
        (59.96, "60 s"),
        (61, "1 min 1 s"),
        (3599.9, "1 h 0 min"),
        (7300, "2 h 1 min"),
        (math.nan, "unknown"),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_factors_and_time_units_in_words() -> None:
    assert factor(0.04, 0.02) == "2.00 times lower"
    assert factor(0.02, 0.03) == "1.50 times higher"
    assert factor(0.0, 0.03) == "no factor"
    assert TimeAxis.fitting([np.array([0.0, 300.0])]).unit == "fs"
    assert TimeAxis.fitting([np.array([0.0, 2400.0])]).say(2400.0) == "2.4 ps"
    assert TimeAxis.fitting([np.array([np.nan, 5e6])]).unit == "ns"
    assert TimeAxis.fitting([]).unit == "fs"
