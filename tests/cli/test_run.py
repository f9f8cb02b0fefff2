"""A whole run through the commands: run, status, interruption, resume, report, and the ways it fails."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from ideal.cli.progress import read_events
from ideal.engine.events import Event, RunStarted, TrajectoryRestarted

from .conftest import tiny_config, write_config

Run = Callable[..., Result]
AtCheck = Callable[[int, Callable[[], None]], None]


def events(directory: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in read_events(directory / "events.jsonl") if event["event"] == name]


def test_run_status_report(ideal_run: Run, folder: Path) -> None:
    result = ideal_run("run", ".", "--seed", 3, "--set", "title=Small")
    assert result.exit_code == 0, result.output
    run = folder / "run"
    lines = result.stdout.splitlines()
    assert lines[0] == f"Run directory: {run}"
    assert any("labelling the initial structures" in line for line in lines)
    assert any("cu: step 0/20" in line and "max u/threshold" in line for line in lines)
    assert any(line.startswith("Finished: 20 steps") for line in lines)
    assert lines[-1] == f"Report: {run / 'report.html'}"
    assert (run / "report.html").is_file()
    assert "seed: 3" in (run / "config.yaml").read_text()
    assert not (run / "error.log").exists()

    status = ideal_run("status", "run")
    assert status.exit_code == 0, status.output
    assert status.stdout.startswith("run: finished")
    assert "20/20" in status.stdout
    finished = len(events(run, "label_finished"))
    assert f"Labels in all: {finished} done, 0 running, 0 failed" in status.stdout

    (run / "report.html").unlink()
    assert ideal_run("report", "run").exit_code == 0
    assert (run / "report.html").is_file()

    again = ideal_run("run", ".")
    assert again.exit_code == 2
    assert "ideal-run resume" in again.stderr and "--output" in again.stderr
    assert (run / "report.html").is_file()


def test_status_shows_every_trajectory_and_its_name_in_one_piece(ideal_run: Run, tmp_path: Path) -> None:
    names = [f"malonaldehyde-500K-{number}" for number in range(1, 9)]
    told: list[Event] = [RunStarted(str(tmp_path), 0, "serial", "emt", dict.fromkeys(names, 100))]
    told += [TrajectoryRestarted(name, 40, 20, 1, 3, f"the atoms of {name} are in contact") for name in names]
    (tmp_path / "events.jsonl").write_text("".join(event.to_json() + "\n" for event in told))
    for arguments in ((), ("--all",)):
        shown = ideal_run("status", tmp_path, *arguments, columns=80).stdout
        for name in names:
            assert any(line.split()[:1] == [name] for line in shown.splitlines())
            assert f"{name} went back to a good state once, last: the atoms of {name} are in contact" in shown


def test_interrupt_and_resume(ideal_run: Run, folder: Path, at_check: AtCheck) -> None:
    run = folder / "run"
    at_check(2, lambda: signal.raise_signal(signal.SIGINT))
    result = ideal_run("run", ".", "--set", "trajectories.0.sampler.steps=40")
    assert result.exit_code == 130, result.output
    assert f"continue with: ideal-run resume {run}" in result.stderr
    status = ideal_run("status", "run")
    assert "stopped; continue with: ideal-run resume run" in status.stdout
    labels = {event["key"] for event in events(run, "label_finished")}

    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 1", "seed: 2"))
    refused = ideal_run("resume", "run")
    assert refused.exit_code == 2
    assert "seed was 1 and is now 2" in refused.stderr
    config.write_text(config.read_text().replace("seed: 2", "seed: 1").replace("max_labels: null", "max_labels: 0"))
    resumed = ideal_run("resume", "run")
    assert resumed.exit_code == 0, resumed.output
    assert "resumed from checkpoint" in resumed.stdout
    assert "40/40" in ideal_run("status", "run").stdout
    assert labels <= {event["key"] for event in events(run, "label_finished")}


def test_status_during_a_run(ideal_run: Run, folder: Path, at_check: AtCheck) -> None:
    seen: list[str] = []
    run = folder / "run"

    def look() -> None:
        import subprocess
        import sys

        command = [sys.executable, "-m", "ideal.cli.app", "status", str(run)]
        seen.append(subprocess.run(command, capture_output=True, text=True).stdout)
        signal.raise_signal(signal.SIGTERM)

    at_check(1, look)
    result = ideal_run("run", ".", "--set", "engine.max_labels=0")
    assert result.exit_code == 143, result.output
    assert f"running (process {os.getpid()})" in seen[0]


def test_exploding_dynamics(ideal_run: Run, folder: Path) -> None:
    values = tiny_config()
    values["trajectories"][0]["max_temperature"] = 950
    values["trajectories"][0]["sampler"] |= {"temperature": 3000, "initial_temperature": 900, "friction": 0.5}
    write_config(folder / "config.yaml", values)
    result = ideal_run("run", ".")
    assert result.exit_code == 7, result.output
    assert "Traceback" not in result.output
    assert any("950" in line and "max_temperature" in line for line in result.stderr.splitlines()), result.stderr
    assert f"Report: {folder / 'run' / 'report.html'}" in result.stdout
    status = ideal_run("status", "run")
    assert "failed" in status.stdout and "950" in status.stdout


def test_one_failed_trajectory_does_not_stop_the_other(ideal_run: Run, folder: Path) -> None:
    values = tiny_config()
    hot = json.loads(json.dumps(values["trajectories"][0]))
    hot |= {"name": "hot", "max_temperature": 950}
    hot["sampler"] |= {"temperature": 3000, "initial_temperature": 900, "friction": 0.5}
    values["trajectories"].append(hot)
    values["engine"]["max_labels"] = 0
    write_config(folder / "config.yaml", values)
    result = ideal_run("run", ".")
    assert result.exit_code == 7, result.output
    assert any(line.startswith("error: hot: stopped at step") for line in result.stderr.splitlines())
    assert "finished, with failed trajectories" in ideal_run("status", "run").stdout


def test_every_initial_label_fails(ideal_run: Run, folder: Path) -> None:
    result = ideal_run("run", ".", "--set", "labelling.gate.max_net_force=1e-30")
    assert result.exit_code == 5, result.output
    assert "all 4 labels of the initial data failed" in result.stderr
    assert "max_net_force" in ideal_run("status", "run").stdout
    assert (folder / "run" / "error.log").read_text().count("Traceback") >= 1


@pytest.mark.slow
def test_killed_process_resumes(ideal_run: Run, folder: Path) -> None:
    """kill -9 in the middle of the dynamics; every label that was finished is still there afterwards."""
    import subprocess
    import sys

    run = folder / "run"
    command = [sys.executable, "-m", "ideal.cli.app", "run", ".", "--set", "trajectories.0.sampler.steps=40"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(events(run, "check")) < 2 and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    keys = {event["key"] for event in events(run, "label_finished")}
    assert keys
    resumed = ideal_run("resume", "run")
    assert resumed.exit_code == 0, resumed.output
    assert keys <= {event["key"] for event in events(run, "label_finished")}
    assert "40/40" in ideal_run("status", "run").stdout
