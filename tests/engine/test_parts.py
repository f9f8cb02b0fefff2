"""Seeds, times, events, rules of resuming, stop requests."""

from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
import pytest

from ideal.cli.progress import RunProgress
from ideal.engine import timing
from ideal.engine.comparing import Comparison
from ideal.engine.events import Check, Embedded
from ideal.engine.interruption import StopRequest
from ideal.engine.resume_rules import check_unchanged
from ideal.engine.seeds import derive_seed
from ideal.engine.timing import StageTimes
from ideal.errors import ConfigError
from ideal.report.calibration import parse_pairs


def test_seeds_differ_in_every_part_and_repeat() -> None:
    parts = [
        (0, "a", "md", 1, 2),
        (1, "a", "md", 1, 2),
        (0, "b", "md", 1, 2),
        (0, "a", "x", 1, 2),
        (0, "a", "md", 2, 2),
    ]
    parts.append((0, "a", "md", 1, 3))
    seeds = [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [derive_seed(*part) for part in parts]
    assert all(0 <= seed < 2**63 for seed in seeds)


class Clock:
    """A clock that goes on only when it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the stages' times."""
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_nested_stages_are_not_counted_twice(clock: Clock) -> None:
    times = StageTimes()
    with times.stage("training"):
        clock.now += 2.0
        with times.stage("io"):
            clock.now += 3.0
        clock.now += 0.5
    clock.now += 1.0
    assert {name: seconds for name, seconds in times.seconds.items() if seconds} == {"training": 2.5, "io": 3.0}
    assert times.wall == 6.5


def test_times_add_up_over_sessions(clock: Clock) -> None:
    first = StageTimes()
    with first.stage("md"):
        clock.now += 2.0
    state = first.state()
    clock.now += 100.0
    second = StageTimes()
    second.restore(state)
    clock.now += 1.0
    with second.stage("md"):
        clock.now += 4.0
    assert second.seconds["md"] == 6.0
    assert second.wall == 7.0


def test_an_infinite_u_is_null_in_every_file_and_infinite_when_read_back() -> None:
    """Infinity is no number of JSON: other readers than Python's refuse the whole line."""
    u = np.array([0.5, np.inf])
    comparison = Comparison("k", "audit", "md", 4, 1, u, np.array([0.1, 0.2]), np.ones(2, bool), 1, 0.0, None, 1.0, 2.0)
    line = json.loads(comparison.to_json(), parse_constant=refuse)
    assert line["u"] == [0.5, None] and line["error"] == [0.1, 0.2]
    pairs, unreadable = parse_pairs([line])
    assert pairs is not None and not unreadable and pairs.u.tolist() == u.tolist()
    check = Check("md", 4, 8.0, 300.0, -1.0, 1.0, np.float64(np.inf), 2.0, 3, None)
    written = json.loads(check.to_json(), parse_constant=refuse)
    assert written["max_u"] is None
    progress = RunProgress()
    progress.apply(written)
    assert progress.trajectory("md").max_u == np.inf


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_event_is_one_line_of_json_with_plain_types() -> None:
    event = Check("md", 1, np.float64(2.0), 300.0, -1.0, 0.1, np.float32(1.5), 2.0, np.int64(0), None, time=5.0)
    line = event.to_json()
    assert "\n" not in line
    assert json.loads(line) == {
        "time": 5.0, "event": "check", "trajectory": "md", "step": 1, "time_fs": 2.0, "temperature": 300.0,
        "potential_energy": -1.0, "kinetic_energy": 0.1, "max_u": 1.5, "threshold": 2.0, "n_uncertain": 0,
        "volume": None, "observables": {},
    }  # fmt: skip


def test_event_carries_the_time_it_was_made() -> None:
    event = Embedded("md", 1, 2, False, "no", 0, 1.0, 0.1, "")
    assert abs(event.time - time.time()) < 600, "but for jumps of the calendar clock"
    with pytest.raises(AttributeError):
        event.step = 3  # type: ignore[misc]


OLD = {
    "seed": 0,
    "engine": {"max_labels": 10, "mode": "serial"},
    "labelling": {"workers": 2, "timeout": 60.0, "code": {"type": "ase"}},
    "trajectories": [{"name": "md", "sampler": {"steps": 100, "timestep": 1.0}}],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("engine", "max_labels"), None),
        (("engine", "max_labels"), 20),
        (("labelling", "workers"), 8),
        (("labelling", "timeout"), 10.0),
        (("trajectories", 0, "sampler", "steps"), 200),
    ],
)
def test_change_that_only_lets_a_run_go_on_is_allowed(path: tuple[str | int, ...], value: object) -> None:
    check_unchanged(OLD, changed(path, value), "config.yaml")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("seed",), 1, "config.yaml: seed was 0 and is now 1"),
        (("engine", "mode"), "concurrent", "engine.mode was 'serial' and is now 'concurrent'"),
        (("labelling", "code"), {"type": "gpaw"}, "labelling.code.type was 'ase' and is now 'gpaw'"),
        (("trajectories", 0, "sampler", "steps"), 50, r"trajectories\.0\.sampler\.steps was 100 and is now 50"),
        (("trajectories", 0, "sampler", "timestep"), 2.0, r"trajectories\.0\.sampler\.timestep was 1.0 and is now 2.0"),
        (("trajectories",), [], "trajectories was"),
    ],
)
def test_change_that_decides_results_is_refused_by_name(
    path: tuple[str | int, ...], value: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_unchanged(OLD, changed(path, value), "config.yaml")


def changed(path: tuple[str | int, ...], value: object) -> dict[str, object]:
    copy = json.loads(json.dumps(OLD))
    section = copy
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    return copy


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_noted_and_the_second_stops_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), number)
        assert stop.signal_name == number.name
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(1)
    assert signal.getsignal(number) == before
