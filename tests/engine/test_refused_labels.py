"""A label whose forces are too large is replaced by one of the way there, and the trajectory goes back."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ideal.engine.engine import Engine
from ideal.engine.requesting import Requests
from ideal.engine.trajectory import LabelRequest, TrajectoryStatus
from ideal.engine.way import KEPT, Way
from ideal.labelling.store import LabelStore

from .falling import open_hole, steep_config
from .runs import in_child, named, outcome
from .test_falling import chain, one
from .test_resume import kill_at

PULL = 12.0


def asked(path: Path, purpose: str = "selected") -> list[dict[str, Any]]:
    """What the hot trajectory asked for until it went back first: steps, and whether it failed."""
    rows = []
    for event in named(path, "label_submitted", "label_failed", "trajectory_restarted"):
        if event["event"] == "trajectory_restarted":
            break
        if event["trajectory"] == "hot" and event.get("purpose", purpose) == purpose:
            rows.append(event)
    failed = {event["key"] for event in rows if event["event"] == "label_failed"}
    return [{**event, "failed": event["key"] in failed} for event in rows if event["event"] == "label_submitted"]


@pytest.mark.parametrize(
    ("mode", "rule"),
    [
        ("serial", "max_force"),
        ("lockstep", "max_learned_force"),
        pytest.param("concurrent", "max_force", marks=pytest.mark.slow),
    ],
)
def test_is_replaced_by_one_of_the_way(mode: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_hole(monkeypatch, heals=True, pull=PULL)
    path = tmp_path / "run"
    summary = Engine.create(steep_config(tmp_path, mode, rule), path).run()
    assert [trajectory.status for trajectory in summary.trajectories] == ["finished", "finished"]
    went_back = named(path, "trajectory_restarted")[0]
    assert (went_back["step"], went_back["good_step"], went_back["setbacks"]) == (7, 0, 1)
    assert f"above labelling.gate.{rule} 6 eV/Å" in went_back["reason"]
    assert "asked for smaller forces at step 4, on the way there" in went_back["reason"]
    *of_the_frame, of_the_way = asked(path)
    assert {event["step"] for event in of_the_frame} == {7} and any(event["failed"] for event in of_the_frame)
    assert of_the_way["step"] == 4 and not of_the_way["failed"]
    assert of_the_way["atom"] == next(event["atom"] for event in of_the_frame if event["failed"]), "the same atom"
    with LabelStore(path / "labels.db", read_only=True) as store:
        learned = [label for label in store.labels() if label.key == of_the_way["key"]]
    assert np.linalg.norm(learned[0].forces, axis=1).max() < 6.0


def test_again_until_one_is_learned_or_the_budget_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time the frame's labels are refused; the second time it has a contact, and those of the way are."""
    open_hole(monkeypatch, heals=False, pull=PULL)
    path = tmp_path / "run"
    summary = Engine.create(steep_config(tmp_path, limit=2.0, engine__restarts=1, engine__max_labels=8), path).run()
    assert [(event["step"], event["failed"]) for event in asked(path)] == [*3 * [(7, True)], (4, True), (2, False)]
    steps = [event["step"] for event in named(path, "label_submitted") if event["trajectory"]]
    assert steps[5:] == [6, 3, 2], "and nothing at step 1"
    hot = one(summary, "hot")
    assert (hot.status, hot.restarts, summary.labels.asked, summary.labels.done) == ("failed", 1, 8, 1)
    assert "in contact below" in hot.reason and "asked for smaller forces at step 3" in hot.reason


@pytest.mark.slow
def test_audits_are_neither_replaced_nor_go_with_what_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_hole(monkeypatch, heals=True, pull=PULL)
    path = tmp_path / "run"
    config = steep_config(tmp_path)
    config = config.model_copy(update={"selection": config.selection.model_copy(update={"audit": 0.5})})
    Engine.create(config, path).run()
    purposes = []
    for event in named(path, "label_submitted", "trajectory_restarted"):
        if event["event"] == "trajectory_restarted":
            break
        purposes.append((event["purpose"], event["step"]))
    selected, audit = ("selected", 7), ("audit", 0)
    assert [one for one in purposes if one[0] != "initial"] == [*3 * [selected], *3 * [audit], ("selected", 4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "occurrence", "mode", "rule"),
    [
        ("label_failed", 1, "serial", "max_force"),
        ("label_submitted", 8, "serial", "max_learned_force"),
        ("label_submitted", 8, "lockstep", "max_force"),
        ("label_finished", 7, "lockstep", "max_learned_force"),
        ("trajectory_restarted", 1, "serial", "max_force"),
    ],
)
def test_killed_while_it_is_replaced(
    event: str, occurrence: int, mode: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_hole(monkeypatch, heals=True, pull=PULL)
    config, whole, killed = steep_config(tmp_path, mode, rule), tmp_path / "whole", tmp_path / "killed"
    Engine.create(config, whole).run()
    assert in_child(lambda: Engine.create(config, killed, kill_at(event, occurrence)).run()) == -signal.SIGKILL
    Engine.resume(killed).run()
    assert outcome(killed) == outcome(whole)
    for kind in ("check", "embedded", "label_failed", "trajectory_restarted", "trajectory_finished"):
        assert named(killed, kind) == named(whole, kind)


def test_who_waits_for_labels_of_others_does_not_wait_for_its_own_again() -> None:
    """Another trajectory may still hold one that was refused: whoever asked for it went back for that already."""

    def request(asked_by: str) -> LabelRequest:
        return LabelRequest(f"of {asked_by}", chain(2.5), {"purpose": "selected", "trajectory": asked_by, "step": 7})

    def waits_for(*asked_by: str) -> list[str]:
        moving = SimpleNamespace(name="hot", requests=[], announced=set(), status=TrajectoryStatus.RUNNING)
        waiting = SimpleNamespace(requests=[request(name) for name in asked_by])
        asker = SimpleNamespace(open=lambda *_: [], may_ask=lambda _: True)
        config = SimpleNamespace(engine=SimpleNamespace(mode="concurrent"))
        requests = Requests(config, asker, *4 * [None], save=list)  # type: ignore[arg-type, list-item]
        requests.ask_together([(moving, np.array([3.0]))], 2.0, [waiting])  # type: ignore[list-item]
        assert (moving.status is TrajectoryStatus.WAITING) == bool(moving.requests)
        return sorted(moving.announced)

    assert waits_for("hot", "cold") == ["of cold"]
    assert waits_for("hot") == []


def halves(way: Way, step: int) -> list[int]:
    """Steps of the frames that are taken one after another when each is refused."""
    steps: list[int] = []
    while frame := way.last_physical(chain(2.5), {(29, 29): 2.5}, halfway_to=step):
        steps.append(frame.step)
        step = frame.step
        way.end_before(step)
    return steps


@pytest.mark.parametrize(
    ("taken", "steps"),
    [(0, []), (1, []), (2, [1]), (3, [2, 1]), (5, [3, 2, 1]), (KEPT, [4, 2, 1]), (10, [6, 4, 2]), (40, [24, 16, 8])],
)
def test_the_way_is_halved_until_nothing_is_left(taken: int, steps: Sequence[int]) -> None:
    way = Way("md")
    for step in range(1, taken + 1):
        way.note(step, [chain(2.5)])
    assert halves(way, taken) == list(steps)


def test_a_frame_in_contact_is_not_halfway() -> None:
    way = Way("md")
    for step, distance in enumerate([2.5, 2.4, 1.9, 1.9, 2.4, 2.4], start=1):
        way.note(step, [chain(distance)])
    assert halves(way, 7) == [2, 1]
