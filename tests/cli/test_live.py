"""The live view: what stands on the screen, and the plain lines where there is no terminal."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from ideal.cli import live
from ideal.cli.conclusion import summary_lines
from ideal.cli.live import LiveView
from ideal.cli.progress import RunProgress, read_progress
from ideal.engine.events import (
    Calibrated,
    Check,
    DynamicsStopped,
    Embedded,
    Event,
    LabelBudgetSpent,
    LabelFailed,
    LabelFinished,
    LabelSubmitted,
    Resumed,
    RunFinished,
    RunStarted,
    StageStarted,
    TrainingEpoch,
    TrajectoryFailed,
    TrajectoryFinished,
    TrajectoryRestarted,
    Updated,
)

ERRORS = {"energy_mae": 0.01, "force_mae": 0.2, "stress_mae": None}
START = RunStarted("run", 0, "serial", "emt", {"a": 100, "b": 50}, time=100.0)


def check(trajectory: str = "a", step: int = 10, max_u: float = 1.0) -> Check:
    return Check(trajectory, step, step * 1.0, 301.0, -5.0, 1.0, max_u, 2.0, int(max_u > 2), 100.0)


def progress_after(*events: Event) -> RunProgress:
    progress = RunProgress()
    for event in events:
        progress.apply(event.as_dict())
    return progress


def test_states_follow_the_events() -> None:
    asked = [START, check(max_u=2.5), LabelSubmitted("k1", "a", 10, 3, 50), LabelSubmitted("k2", "a", 10, 7, 50)]
    assert progress_after(START).trajectories["b"].state == "not started"
    progress = progress_after(*asked)
    assert progress.trajectories["a"].state == "labelling"
    assert progress.label_counts("a") == {"done": 0, "running": 2, "failed": 0}
    answered = [*asked, LabelFinished("k1", "a", 1.0, -3.0), LabelFailed("k2", "a", "no convergence")]
    assert progress_after(*answered).label_counts() == {"done": 1, "running": 0, "failed": 1}
    trained = [*answered, TrainingEpoch("update", 1, 5, 0.1, 0.01, 0.2, None, "a", 10)]
    assert progress_after(*trained).trajectories["a"].state == "training"
    done = [*trained, Updated("a", 10, 1, ERRORS, ERRORS, 1.0, False, "abc"), TrajectoryFailed("b", 3, "too hot")]
    progress = progress_after(*done)
    assert progress.trajectories["a"].state == "running"
    assert progress.trajectories["b"].reason == "too hot"
    assert progress.training is not None and not progress.training.running


def test_resume_forgets_what_was_running() -> None:
    progress = progress_after(
        START, check(step=20), LabelSubmitted("k1", "a", 20, 3, 50), Resumed(4, {"a": 15, "b": 0})
    )
    assert progress.label_counts()["running"] == 0
    assert progress.trajectories["a"].step == 15


def test_bar_counts_the_present_batch() -> None:
    first = [LabelSubmitted("k1", "", 0, 0, 4), LabelFinished("k1", "", 1.0, 0.0)]
    progress = progress_after(START, *first, LabelSubmitted("k2", "a", 1, 1, 4), LabelSubmitted("k3", "a", 1, 2, 4))
    assert progress.batch_counts() == {"done": 0, "running": 2, "failed": 0}


def test_events_of_a_file(tmp_path: Path) -> None:
    """A line that is being written is left out, and the planned steps come from the configuration."""
    (tmp_path / "config.yaml").write_text("trajectories: [{name: a, sampler: {steps: 70}}]")
    lines = [Resumed(0, {"a": 0}).to_json(), check().to_json()]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + '\n{"time": 1, "eve')
    progress = read_progress(tmp_path)
    assert progress.trajectories["a"].steps == 70
    assert progress.trajectories["a"].step == 10


def test_plain_lines_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal: changes at once, steps at most every ten seconds."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(live, "time", clock)
    output = io.StringIO()
    with LiveView(Console(file=output, width=80)) as view:
        view(START)
        view(StageStarted("pretrain"))
        for step in range(10, 90, 10):
            view(check(step=step))
            clock.now += 1.2
        clock.now += 1.0
        view(check(step=90))
        view(check(step=100, max_u=2.5))
        view(LabelFailed("0123456789", "a", "SCF did not converge; raise max_iterations"))
        view(Embedded("a", 100, 4, False, "too crowded", 0, 3.0, 0.1, ""))
        view(TrajectoryFailed("b", 7, "temperature 9000 K"))
    lines = output.getvalue().splitlines()
    assert len(lines) == 7, lines
    assert "training on the initial data" in lines[0]
    assert "a: step 10/100, 10 fs, 301 K, max u/threshold 1.00/2.00, labels 0 done, 0 running, 0 failed" in lines[1]
    assert "step 90/100" in lines[2]
    assert "step 100/100" in lines[3] and "2.50/2.00" in lines[3]
    assert "label 01234567 failed: SCF did not converge" in lines[4]
    assert "atom 4: no acceptable cell: too crowded" in lines[5]
    assert "b: stopped at step 7: temperature 9000 K" in lines[6]
    assert "\x1b" not in output.getvalue()


def rendered(view: LiveView, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(view._render())
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_screen_has_a_line_per_trajectory_and_bars() -> None:
    output = io.StringIO()
    view = LiveView(Console(file=output, width=80, force_terminal=True))
    with view:
        view(START)
        view(check("a", 90, 2.5))
        view(check("b", 20))
        view(LabelSubmitted("k1", "a", 90, 3, 50))
        view(LabelSubmitted("k2", "a", 90, 5, 50))
        view(LabelFinished("k1", "a", 1.0, -3.0))
        view(TrainingEpoch("update", 2, 5, 0.1, 0.01, 0.2, None, "b", 20))
        for width in (80, 120):
            text = rendered(view, width)
            rows = [line.split() for line in text.splitlines() if line.strip()]
            assert ["a", "labelling", "90/100", "90", "fs", "301", "K", "2.50/2.00", "1/1/0"] in rows
            assert ["b", "training", "20/50", "20", "fs", "301", "K", "1.00/2.00", "0/0/0"] in rows
            assert "labels" in text and "1/2" in text and "2/5" in text
            assert max(len(line) for line in text.splitlines()) <= width
            assert len(text.splitlines()) <= 10
    assert "\x1b" in output.getvalue()


def calibrated(ready: bool = True) -> Calibrated:
    """A comparison after which the threshold 2.2 bounds the error by 0.15 eV/Å, or not yet."""
    return Calibrated(
        trajectory="a",
        step=90,
        ready=ready,
        threshold=2.2,
        threshold_source="calibrated" if ready else "quantile",
        in_distribution=2.4,
        scale=0.06,
        threshold_bound=0.15 if ready else None,
        n_pairs=456,
        coverage=0.91,
        auc=0.8,
        missed_error_rate=0.0,
        missed_error_rate_low=0.0,
        missed_error_rate_high=0.63,
        force_error=0.05,
        force_error_low=0.02,
        force_error_high=0.09,
    )


def test_calibration_and_budget_are_shown() -> None:
    view = LiveView(Console(file=io.StringIO(), width=80, force_terminal=True))
    for event in (START, check("a", 90, 2.5), calibrated(ready=False)):
        view(event)
    assert "threshold u 2.20 (quantile); not calibrated yet (456 atoms compared)" in rendered(view, 80)
    view(calibrated())
    view(LabelBudgetSpent("a", 90, 18))
    for width in (80, 120):
        text = rendered(view, width)
        assert "threshold u 2.20: force error up to 0.150 eV/Å" in text
        assert "audit: missed errors 0 to 63 %, mean force error 0.020 to 0.090 eV/Å" in text
        assert "label budget spent (18)" in text


def test_calibration_and_budget_in_plain_lines() -> None:
    output = io.StringIO()
    with LiveView(Console(file=output, width=80)) as view:
        for event in (START, calibrated(), LabelBudgetSpent("a", 90, 18)):
            view(event)
    lines = output.getvalue().splitlines()
    assert any(
        "threshold u 2.20: force error up to 0.150 eV/Å; audit: missed errors 0 to 63 %" in line for line in lines
    )
    assert any("engine.max_labels: 18" in line and "step 90 of a" in line for line in lines)


def test_run_finished_ends_the_view() -> None:
    view = LiveView(Console(file=io.StringIO(), width=80))
    view(START)
    view(RunFinished({"status": "finished"}))
    assert "finished" in rendered(view, 80)


def test_texts() -> None:
    assert live.duration_fs(None) == "-"
    assert live.duration_fs(12.5) == "12.5 fs"
    assert live.duration_fs(2.5e6) == "2.5 ns"
    assert live.elapsed(3700) == "1:01:40"
    assert live.errors_text({"force_mae": None}) == "no errors known"


def test_summary_lines() -> None:
    lines = summary_lines(
        {
            "status": "finished",
            "steps": 100,
            "wall_seconds": 100.0,
            "updates": 3,
            "labels": {"initial": 5, "done": 4, "failed": 1, "refused": 0, "initial_failed": 0},
            "stage_seconds": {"md": 20.0, "labelling_wait": 70.0, "io": 0.1},
            "held_out_before": {"energy_mae": 0.01, "force_mae": 0.2, "stress_mae": None},
            "held_out_after": {"energy_mae": 0.002, "force_mae": 0.05, "stress_mae": None},
            "calibration": {"ready": True, "threshold": 2.2, "threshold_bound": 0.15, "audit": None},
        }
    )
    assert lines == [
        "Finished: 100 steps in 01:40, 3 updates of the model.",
        "Labels: 5 at the start, 4 learned on the fly, 1 failed.",
        "Held-out MAE before -> after: force 0.2000 -> 0.0500 eV/Å, energy 10.00 -> 2.00 meV/atom.",
        "Threshold u 2.20: force error up to 0.150 eV/Å.",
        "Time: waiting for labels 70%, dynamics 20%, other 10%.",
    ]


def test_restarts_and_stop_rules_are_shown() -> None:
    back = TrajectoryRestarted("a", 57, 40, 1, 3, "the temperature is 9e+05 K")
    progress = progress_after(START, check(step=50), check("b", 20), back)
    console = Console(file=io.StringIO(), width=100)
    console.print(live.trajectory_table(progress))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "40/100" in text and "starts" in text
    stopped = [DynamicsStopped("labels", "stop.labels: 3 labels of 3 have arrived"), RunFinished({})]
    progress = progress_after(START, check(step=50), check("b", 20), TrajectoryFinished("b", 50), *stopped)
    assert [t.state for t in progress.trajectories.values()] == ["stopped", "finished"]
    assert progress.stopped.startswith("stop.labels")
    resumed = progress_after(START, check(step=50), *stopped, Resumed(3, {"a": 50, "b": 50}))
    assert resumed.trajectories["a"].state == "running" and not resumed.stopped


def test_update_of_several_trajectories_lets_all_go_on() -> None:
    asked = [LabelSubmitted("k1", "a", 10, 3, 50), LabelSubmitted("k2", "b", 10, 3, 50)]
    learned = Updated("a", 10, 2, ERRORS, ERRORS, 1.0, False, "abc", others={"b": 10})
    progress = progress_after(START, *asked, learned)
    assert [t.state for t in progress.trajectories.values()] == ["running", "running"]


def test_summary_says_what_ended_the_run_and_who_went_back() -> None:
    summary = {
        "status": "finished", "steps": 10, "wall_seconds": 61.0, "updates": 0, "labels": {},
        "ended_by": "stop.steps: 10 steps of 10 are taken",
        "trajectories": [{"name": "a", "restarts": 2}, {"name": "b", "restarts": 0}],
    }  # fmt: skip
    lines = summary_lines(summary)
    assert "Ended before the last step by stop.steps: 10 steps of 10 are taken." in lines[1]
    assert lines[2] == "Went back to a good state: 2 times (a)."
