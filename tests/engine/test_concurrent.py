"""Concurrent mode: trajectories move while others wait, and nothing is lost or asked twice."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

from ideal.config import Config
from ideal.engine.engine import Engine
from ideal.engine.events import Event, LabelSubmitted
from ideal.labelling.store import LabelStore

from .runs import calculated, committed, copper_config, events, in_child, named, trajectory
from .test_resume import kill_at


def slow_config(folder: Path, **code: Any) -> Config:
    """Two trajectories, one hot that asks often, one cold that asks seldom or never; ``code``: what delays a label."""
    return copper_config(
        folder,
        trajectories=[
            trajectory("hot", sampler={"steps": 12}),
            trajectory("cold", sampler={"steps": 60, "temperature": 20.0}),
        ],
        labelling__code__arguments=code,
        labelling__workers=2,
        engine__mode="concurrent",
    )


def test_one_trajectory_moves_while_the_other_waits(tmp_path: Path) -> None:
    """The first label comes only when the other trajectory has moved; if it never does, the test's time is over."""
    path, gate = tmp_path / "run", tmp_path / "gate"
    asked: list[Event] = []

    def listener(event: Event) -> None:
        if event.name == "check":
            gate.unlink(missing_ok=True)
        elif isinstance(event, LabelSubmitted) and event.purpose == "selected":
            asked.append(event)
            if len(asked) == 1:
                gate.touch()

    summary = Engine.create(slow_config(tmp_path, gate=str(gate)), path, listener).run()
    assert summary.status == "finished" and summary.labels.done == summary.labels.asked > 0
    waiting: dict[str, str] = {}
    moved_while_waiting = 0
    for event in events(path):
        if event["event"] == "label_submitted" and event["purpose"] == "selected":
            waiting[event["key"]] = event["trajectory"]
        elif event["event"] in ("label_finished", "label_failed"):
            waiting.pop(event["key"], None)
        elif event["event"] == "check" and waiting:
            assert event["trajectory"] not in waiting.values(), "who waits stays where it is"
            moved_while_waiting += 1
    assert "hot" in {event["trajectory"] for event in named(path, "label_submitted")}
    assert moved_while_waiting > 0


def test_killed_concurrent_run_loses_no_label_and_asks_none_twice(tmp_path: Path) -> None:
    path = tmp_path / "run"
    config = slow_config(tmp_path, seconds=0.2)
    assert in_child(lambda: Engine.create(config, path, kill_at("label_finished", 6)).run()) == -signal.SIGKILL
    finished_before = committed(path)
    with LabelStore(path / "labels.db", read_only=True) as store:
        before = {label.key for label in store.labels()}
    summary = Engine.resume(path).run()
    assert summary.status == "finished"
    done = Counter(calculated(path))
    assert all(done[structure] == 1 for structure in finished_before)
    with LabelStore(path / "labels.db", read_only=True) as store:
        after = {label.key for label in store.labels()}
    submitted = {event["key"] for event in named(path, "label_submitted")}
    assert before <= after == submitted, "every label that was calculated belongs to a request of the resumed run"
    learned = [event["labels"] for event in named(path, "updated")]
    assert sum(learned) == summary.labels.done == len(after) - summary.labels.initial


def test_two_trajectories_that_need_the_same_cell_share_its_label(tmp_path: Path) -> None:
    """Whole frames of equal trajectories have equal keys: asked once, learned once, both go on."""
    config = copper_config(
        tmp_path,
        trajectories=[trajectory(name, sampler={"steps": 4, "ensemble": "nve"}) for name in ("a", "b")],
        embedding__max_atoms=200,
        embedding__r_core=20.0,
        uncertainty__threshold={"type": "fixed", "value": 0.5},
        selection__strategy="uncertainty",  # which asks without a look at what the other waits for
        labelling__code__arguments={"seconds": 0.3},
        engine__mode="concurrent",
    )
    path = tmp_path / "run"
    summary = Engine.create(config, path).run()
    assert summary.status == "finished"
    asked = [event["key"] for event in named(path, "label_submitted") if event["trajectory"] and event["step"] == 0]
    assert len(asked) == 2 and len(set(asked)) == 1
    assert len(calculated(path)) == len(set(calculated(path)))
