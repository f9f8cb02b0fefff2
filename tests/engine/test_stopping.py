"""The rules that end the dynamics, and a run that goes on when they are raised."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ideal.config import StopConfig, dump_config, load_config
from ideal.engine.counters import LabelCounters
from ideal.engine.engine import Engine
from ideal.engine.events import Event
from ideal.engine.stopping import StopRules
from ideal.engine.trajectory import TrajectoryStatus

from .runs import copper_config, named, trajectory


def rules(told: list[Event], done: int = 0, wall: float = 0.0, **limits: Any) -> StopRules:
    journal = SimpleNamespace(counters=LabelCounters(done=done), times=SimpleNamespace(wall=wall), tell=told.append)
    return StopRules(StopConfig(**limits), journal)  # type: ignore[arg-type]


def moving(step: int, certain_since: int = 0, status: TrajectoryStatus = TrajectoryStatus.RUNNING) -> Any:
    is_over = status in (TrajectoryStatus.FINISHED, TrajectoryStatus.FAILED)
    return SimpleNamespace(step=step, certain_since=certain_since, is_over=is_over)


@pytest.mark.parametrize(
    ("limits", "state", "trajectories", "reason"),
    [
        ({"labels": 5}, {"done": 5}, [moving(0)], "stop.labels: 5 labels of 5 have arrived"),
        ({"labels": 6}, {"done": 5}, [moving(0)], ""),
        ({"steps": 30}, {}, [moving(10), moving(20)], "stop.steps: 30 steps of 30 are taken"),
        ({"steps": 31}, {}, [moving(10), moving(20)], ""),
        ({"wall_time": "1 min"}, {"wall": 61.0}, [moving(0)], "stop.wall_time: 61 s of 60 are over"),
        ({"wall_time": "1 min"}, {"wall": 59.0}, [moving(0)], ""),
        (
            {"certain_steps": 10},
            {},
            [moving(30, 20), moving(15, 5)],
            "no atom was uncertain for 10 steps on any of the 2",
        ),
        ({"certain_steps": 10}, {}, [moving(30, 21), moving(15, 5)], ""),
        ({"certain_steps": 10}, {}, [moving(30, 30, TrajectoryStatus.FAILED), moving(15, 5)], "of the 1"),
        ({"certain_steps": 10}, {}, [moving(30, 0, TrajectoryStatus.FINISHED)], ""),
        ({}, {"done": 9, "wall": 9e9}, [moving(10**9)], ""),
    ],
)
def test_a_rule_holds_from_its_limit_on(
    limits: dict[str, Any], state: dict[str, Any], trajectories: list[Any], reason: str
) -> None:
    told: list[Event] = []
    stop = rules(told, **state, **limits)
    assert stop.hold(trajectories) == bool(reason)
    assert reason in stop.reason
    stop.hold(trajectories)
    assert len(told) == bool(reason), "told once"


def test_validation_error_counts_once_an_update_was_judged_and_is_kept() -> None:
    told: list[Event] = []
    stop = rules(told, force_mae=0.1)
    assert not stop.hold([moving(0)])
    stop.note_validation(0.11)
    assert not stop.hold([moving(0)])
    stop.note_validation(0.09)
    again = rules(told, force_mae=0.1)
    again.restore(stop.state())
    assert again.hold([moving(0)]) and "0.09 eV/Å" in again.reason


def test_stopped_run_goes_on_when_the_limit_is_raised(tmp_path: Path) -> None:
    config = copper_config(
        tmp_path, trajectories=[trajectory("a"), trajectory("b")], stop__steps=12, engine__max_labels=1
    )
    path = tmp_path / "run"
    summary = Engine.create(config, path).run()
    assert summary.status == "finished" and summary.steps == 12
    assert summary.ended_by == "stop.steps: 12 steps of 12 are taken"
    assert [event["rule"] for event in named(path, "dynamics_stopped")] == ["steps"]
    assert Engine.resume(path).run().steps == 12, "nothing has changed"
    assert len(named(path, "dynamics_stopped")) == 1
    raised = load_config(path / "config.yaml")
    raised = raised.model_copy(update={"stop": StopConfig()})
    (path / "config.yaml").write_text(dump_config(raised))
    summary = Engine.resume(path).run()
    assert summary.steps == 32 and summary.ended_by == ""
    assert {item.status for item in summary.trajectories} == {"finished"}
