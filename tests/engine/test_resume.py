"""Killing, interrupting and resuming a run: the outcome is that of the uninterrupted run, bit for bit."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ideal.config import Config
from ideal.engine import checkpoint
from ideal.engine.engine import Engine
from ideal.engine.events import Event
from ideal.engine.storage import DiskFullError
from ideal.errors import ConfigError

from .conftest import Finished
from .runs import calculated, committed, copper_config, events, in_child, named, outcome, run_killed_after, trajectory


def kill_at(name: str, occurrence: int = 1) -> Any:
    """A listener that kills its own process at an event."""
    seen = 0

    def listener(event: Event) -> None:
        nonlocal seen
        seen += event.name == name
        if event.name == name and seen == occurrence:
            os.kill(os.getpid(), signal.SIGKILL)

    return listener


def assert_same_run(path: Path, reference: Finished, finished_before: Iterable[str] = ()) -> None:
    """The resumed run ends as the uninterrupted one.

    Args:
        path: the resumed run.
        reference: the uninterrupted one.
        finished_before: structures whose label was in the store when the run ended early; they were not calculated
            again. (One that was under way then may be.)
    """
    assert outcome(path) == outcome(reference.path)
    done = Counter(calculated(path))
    assert set(done) == set(calculated(reference.path))
    assert all(done[structure] == 1 for structure in finished_before)
    ignored = ("resumed", "checkpoint", "run_finished")
    assert unique(events(path), ignored) == unique(events(reference.path), ignored)


def unique(rows: list[dict[str, Any]], ignored: tuple[str, ...]) -> list[dict[str, Any]]:
    """Events without those that tell of an interruption, each once (labels that ran are told again on resuming)."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if row["event"] not in ignored and not (row["event"] == "label_submitted" and row in found):
            found.append(row)
    return found


def test_killed_between_arrival_and_learning(reference: Finished, tmp_path: Path) -> None:
    """The label is in the store, the event in the file, the model knows nothing of it yet."""
    path = tmp_path / "run"
    status = in_child(lambda: Engine.create(reference.config, path, kill_at("label_finished", 5)).run())
    assert status == -signal.SIGKILL
    before = committed(path)
    assert len(before) >= 5
    summary = Engine.resume(path).run()
    assert summary.status == "finished" and summary.labels == reference.summary.labels
    assert len(named(path, "resumed")) == 1
    assert_same_run(path, reference, before)


def test_killed_before_the_first_checkpoint(reference: Finished, tmp_path: Path) -> None:
    path = tmp_path / "run"
    status = in_child(lambda: Engine.create(reference.config, path, kill_at("pretrained")).run())
    assert status == -signal.SIGKILL and not (path / "checkpoints" / "LATEST").exists()
    before = committed(path)
    assert len(before) == 4
    Engine.resume(path).run()
    assert_same_run(path, reference, before)


def test_killed_between_the_rename_of_a_checkpoint_and_latest(
    reference: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    real = checkpoint.write_atomically

    def kill_at_third(file: Path, text: str) -> None:
        if text.startswith("000003"):
            os.kill(os.getpid(), signal.SIGKILL)
        real(file, text)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", kill_at_third)
        assert in_child(lambda: Engine.create(reference.config, path).run()) == -signal.SIGKILL
    assert (path / "checkpoints" / "000003").is_dir()
    assert (path / "checkpoints" / "LATEST").read_text() == "000002\n"
    before = committed(path)
    Engine.resume(path).run()
    assert_same_run(path, reference, before)
    again = Engine.resume(path).run()  # a finished run has nothing left to do
    assert again.status == "finished" and again.labels == reference.summary.labels
    assert_same_run(path, reference, before)


def test_interrupted_amid_the_final_training(reference: Finished, tmp_path: Path) -> None:
    """The model of the checkpoint is the one before it; resuming trains again from there, to the same end."""
    path = tmp_path / "run"

    def interrupt(event: Event) -> None:
        if event.name == "training_epoch" and event.phase == "final":  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGINT)

    assert Engine.create(reference.config, path, interrupt).run().status == "interrupted"
    assert not named(path, "converged")
    before = committed(path)
    Engine.resume(path).run()
    assert_same_run(path, reference, before)


@pytest.mark.slow
def test_killed_at_ten_random_moments(reference: Finished, tmp_path: Path) -> None:
    """SIGKILL after random times, ten in all; after each the run is resumed and ends as if nothing had happened.

    A label that was under way at a kill may be calculated again, so once for every start until it is in the store.
    """
    rng = np.random.default_rng(7)
    whole = reference.summary.wall_seconds
    kills = runs = 0
    while kills < 10:
        path = tmp_path / f"run-{runs}"
        runs += 1
        starts = 0
        starts_until_committed: dict[str, int] = {}
        status = -signal.SIGKILL
        while status != 0:
            start = begin_or_resume(path, reference.config)
            seconds = float(rng.uniform(0.05, 0.8)) * whole if kills < 10 else 1000 * whole
            status = run_killed_after(start, seconds)
            starts += 1
            assert status in (0, -signal.SIGKILL)
            kills += status != 0
            for structure in committed(path):
                starts_until_committed.setdefault(structure, starts)
        assert_same_run(path, reference)
        done = Counter(calculated(path))
        assert all(done[structure] <= most for structure, most in starts_until_committed.items())


def begin_or_resume(path: Path, config: Config) -> Callable[[], Engine]:
    if (path / "config.yaml").is_file():
        return lambda: Engine.resume(path)
    return lambda: Engine.create(config, path)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "check"), (signal.SIGTERM, "label_submitted")])
def test_signal_stops_at_a_safe_place_and_names_the_command(
    reference: Finished, tmp_path: Path, number: signal.Signals, name: str
) -> None:
    path = tmp_path / "run"
    seen = 0

    def listener(event: Event) -> None:
        nonlocal seen
        seen += event.name == name
        if event.name == name and seen == (2 if name == "check" else 6):
            os.kill(os.getpid(), number)

    summary = Engine.create(reference.config, path, listener).run()
    assert summary.status == "interrupted" and summary.stopped_by == number.name
    assert summary.resume_command == f"ideal-run resume {path}"
    status = json.loads((path / "status.json").read_text())
    assert status["state"] == "interrupted" and status["message"] == summary.resume_command
    before = committed(path)
    resumed = Engine.resume(path).run()
    assert resumed.wall_seconds > summary.wall_seconds
    assert len(json.loads((path / "provenance.json").read_text())["sessions"]) == 2
    assert_same_run(path, reference, before)


def test_signal_during_pretraining_ends_it(reference: Finished, tmp_path: Path) -> None:
    path = tmp_path / "run"

    def listener(event: Event) -> None:
        if event.name == "training_epoch":
            os.kill(os.getpid(), signal.SIGINT)

    summary = Engine.create(reference.config, path, listener).run()
    assert summary.status == "interrupted" and summary.trajectories == ()
    assert len(named(path, "pretrained")) == 0
    Engine.resume(path).run()
    assert_same_run(path, reference)


def test_turns_survive_an_interruption(tmp_path: Path) -> None:
    """With two trajectories, the one whose turn it was goes on first."""
    config = copper_config(
        tmp_path, trajectories=[trajectory("a", sampler={"steps": 8}), trajectory("b", sampler={"steps": 8})]
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    summary = Engine.create(config, whole).run()
    Engine.create(config, cut, interrupt_at_checks({2, 3})).run()
    while Engine.resume(cut, interrupt_at_checks({1})).run().status == "interrupted":
        pass
    reference = Finished(tmp_path, whole, config, summary)
    assert_same_run(cut, reference)


def interrupt_at_checks(numbers: set[int]) -> Any:
    seen = 0

    def listener(event: Event) -> None:
        nonlocal seen
        seen += event.name == "check"
        if event.name == "check" and seen in numbers:
            signal.raise_signal(signal.SIGINT)
            numbers.discard(seen)

    return listener


def test_full_disk_ends_with_one_line_and_loses_nothing(
    reference: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    full = False
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    def listener(event: Event) -> None:
        nonlocal full
        full = full or event.name == "updated"

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(
            DiskFullError, match=r"No space left.*ideal-run resume.*everything written before is intact"
        ):
            Engine.create(reference.config, path, listener).run()
    before = committed(path)
    assert len(before) >= 5
    Engine.resume(path).run()
    assert_same_run(path, reference, before)


def test_more_steps_and_labels_continue_a_finished_run(tmp_path: Path) -> None:
    trajectories = [trajectory("md", sampler={"timestep": 2.0})]
    config = copper_config(tmp_path, trajectories=trajectories, engine__max_labels=1)
    path = tmp_path / "run"
    first = Engine.create(config, path).run()
    change(path, trajectories__0__sampler__steps=24, engine__max_labels=3, labelling__workers=2)
    second = Engine.resume(path).run()
    assert first.labels.asked == 1 and second.labels.asked == 3
    assert (first.steps, second.steps) == (16, 24)
    assert [event["step"] for event in named(path, "check")] == [0, 4, 8, 12, 16, 20, 24]
    assert len(named(path, "run_finished")) == 1


def test_changed_configuration_is_refused_and_the_lock_released(reference: Finished, tmp_path: Path) -> None:
    path = tmp_path / "run"
    config = copper_config(tmp_path, engine__max_labels=0)
    Engine.create(config, path).run()
    change(path, uncertainty__soap__r_cut=4.5)
    with pytest.raises(ConfigError, match=r"config\.yaml: uncertainty\.soap\.r_cut was 3\.5 and is now 4\.5"):
        Engine.resume(path)
    change(path, uncertainty__soap__r_cut=3.5)
    assert Engine.resume(path).run().status == "finished"


def change(path: Path, **changes: Any) -> None:
    """Edit ``config.yaml`` as a user would; ``__`` stands for the dot."""
    data = yaml.safe_load((path / "config.yaml").read_text())
    for key, value in changes.items():
        *names, last = key.split("__")
        section = data
        for name in names:
            section = section[int(name) if name.isdigit() else name]
        section[last] = value
    Config.model_validate(data)
    (path / "config.yaml").write_text(yaml.safe_dump(data))
