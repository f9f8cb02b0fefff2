"""A trajectory falls into a hole of the model: it goes back, and the run learns what lies on the way in."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ideal.embedding.distances import ShortestDistances, contact_in, minimum_distances
from ideal.engine.engine import Engine
from ideal.engine.summary import RunSummary, TrajectorySummary
from ideal.engine.way import KEPT, Way
from ideal.labelling.store import LabelStore

from .falling import EDGE, falling_config, open_hole
from .runs import in_child, named, outcome
from .test_restarting import moving, restarter
from .test_resume import kill_at


def one(summary: RunSummary, name: str) -> TrajectorySummary:
    return next(trajectory for trajectory in summary.trajectories if trajectory.name == name)


def assert_no_contact_was_labelled(path: Path) -> None:
    """Cells of the way in come closer and closer, but no label has atoms in contact for those before it."""
    with LabelStore(path / "labels.db", read_only=True) as store:
        labels = {label.key: label.atoms for label in store.labels()}
    asked = [event["key"] for event in named(path, "label_submitted") if event["trajectory"]]
    known = minimum_distances([atoms for key, atoms in labels.items() if key not in asked])
    for key in asked:
        assert not contact_in(labels[key], ShortestDistances(known))
        pair = (29, 29)
        known[pair] = min(known[pair], minimum_distances(labels[key])[pair])
    assert known[29, 29] < EDGE, "something of the hole was learned"


@pytest.mark.parametrize("mode", ["serial", "lockstep", pytest.param("concurrent", marks=pytest.mark.slow)])
def test_goes_back_and_the_way_in_is_learned(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_hole(monkeypatch, heals=True)
    path = tmp_path / "run"
    summary = Engine.create(falling_config(tmp_path, mode), path).run()
    hot = one(summary, "hot")
    assert [trajectory.status for trajectory in summary.trajectories] == ["finished", "finished"]
    assert hot.restarts >= 1 and "in contact below" in hot.reason and one(summary, "cold").restarts == 0
    went_back = named(path, "trajectory_restarted")[0]
    assert went_back["good_step"] < went_back["step"] and "the frame is not physical there" in went_back["reason"]
    steps = [event["step"] for event in named(path, "label_submitted") if event["trajectory"] == "hot"]
    assert went_back["good_step"] < steps[0] < went_back["step"], "the first label is of the way in"
    assert_no_contact_was_labelled(path)


def test_falls_again_and_again_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_hole(monkeypatch, heals=False)
    path = tmp_path / "run"
    summary = Engine.create(falling_config(tmp_path, engine__restarts=1), path).run()
    hot, cold = one(summary, "hot"), one(summary, "cold")
    assert (hot.status, hot.restarts, cold.status) == ("failed", 1, "finished")
    assert "in contact below" in hot.reason and "after going back 1 times in a row" in hot.reason
    assert [event["reason"] for event in named(path, "trajectory_failed")] == [hot.reason]
    assert summary.labels.done == 2, "one on each way in"


def test_one_that_cannot_go_back_asks_for_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_hole(monkeypatch, heals=False)
    path = tmp_path / "run"
    config = falling_config(tmp_path, engine__restarts=0, engine__write_every=10)
    config = config.model_copy(update={"selection": config.selection.model_copy(update={"max_refused_checks": 2})})
    summary = Engine.create(config, path).run()
    hot = one(summary, "hot")
    assert hot.status == "failed" and hot.step == 20 and "at 2 checks in a row" in hot.reason
    assert "cannot go back to a good state (sampler molecular_dynamics, engine.restarts 0)" in hot.reason
    assert "in contact below" in hot.reason and summary.labels.asked == 0


@pytest.mark.slow
@pytest.mark.parametrize(("event", "mode"), [("label_submitted", "serial"), ("label_finished", "lockstep")])
def test_killed_while_the_way_in_is_labelled(
    event: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_hole(monkeypatch, heals=True)
    config, whole, killed = falling_config(tmp_path, mode), tmp_path / "whole", tmp_path / "killed"
    Engine.create(config, whole).run()
    assert in_child(lambda: Engine.create(config, killed, kill_at(event, 5)).run()) == -signal.SIGKILL
    assert not named(killed, "trajectory_restarted")
    Engine.resume(killed).run()
    assert outcome(killed) == outcome(whole)
    for kind in ("check", "embedded", "trajectory_restarted", "trajectory_finished"):
        assert named(killed, kind) == named(whole, kind)


def chain(shortest: float) -> Atoms:
    return Atoms("Cu3", positions=[[0, 0, 0], [2.5, 0, 0], [2.5 + shortest, 0, 0]])


def test_of_a_long_way_frames_at_equal_distances_are_kept() -> None:
    way = Way("md")
    for step in range(1, 8 * KEPT + 1):
        way.note(step, [chain(2.5)])
        kept = [frames[0].step for frames in way.frames]
        assert len(kept) <= KEPT and len(kept) >= min(step, KEPT // 2)
        assert all(later - earlier == way.stride for earlier, later in itertools.pairwise(kept))
        assert step - kept[-1] < way.stride
    assert Way.from_state("md", way.state()).state().keys() == way.state().keys()


def test_the_last_frame_without_a_contact_is_taken() -> None:
    way = Way("md")
    distances = [2.5, 2.3, 2.1, 1.9, 1.7]
    for step, distance in enumerate(distances):
        way.note(step, [chain(2.5), chain(distance)])
    again = Way.from_state("md", way.state())
    for known, step in ((2.5, 2), (2.3, 3), (2.0, 4)):
        frame = again.last_physical(chain(1.5), {(29, 29): known})
        assert frame is not None and (frame.step, frame.trajectory) == (step, "md")
        assert np.allclose(frame.atoms.positions, chain(distances[step]).positions)
    assert way.last_physical(chain(1.5), {(29, 29): 3.2}) is None


def test_a_state_with_a_contact_is_no_place_to_go_back_to() -> None:
    trajectory, told = moving(), []
    back = restarter(told)
    back.note_good(trajectory)
    trajectory.sampler.advance(3)
    back.note_step(trajectory)
    assert len(trajectory.way.frames) == 1
    trajectory.sampler.atoms.positions[1] = trajectory.sampler.atoms.positions[0] + [1.2, 0, 0]
    back.note_good(trajectory)
    assert trajectory.good.last is not None and trajectory.good.last.step == 0 and trajectory.way.frames
    assert back.go_back(trajectory, "in contact")
    assert trajectory.step == 0 and not trajectory.way.frames


def test_samplers_that_cannot_go_back_keep_no_way() -> None:
    trajectory = moving()
    trajectory.sampler = SimpleNamespace(step=1, atoms=bulk("Cu"))  # type: ignore[assignment]
    back = restarter([])
    back.note_step(trajectory)
    back.note_good(trajectory)
    assert not trajectory.way.frames and trajectory.good.last is None and not back.can_go_back(trajectory)
