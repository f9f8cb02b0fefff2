"""Going back farther each time: which good states are kept, and which of them a trajectory goes back to."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ideal.engine.good_states import KEPT, LARGEST_STRIDE, GoodStates
from ideal.engine.restarting import Restarter
from ideal.engine.state_files import read_state, write_state
from ideal.engine.trajectory import Trajectory

from .test_restarting import moving, restarter


def noted(steps: Sequence[int]) -> GoodStates:
    good = GoodStates()
    for step in steps:
        good.note(step, {"positions": np.full((2, 3), float(step))}, last_learned_step=None)
    return good


def kept(good: GoodStates) -> list[int]:
    return [state.step for state in good.states]


def walk(back: Restarter, one: Trajectory, steps: Sequence[int]) -> None:
    """Let a trajectory move to each of some steps, which are good."""
    for step in steps:
        one.sampler.advance(step - one.step)
        back.note_good(one)


def setback(back: Restarter, one: Trajectory, step: int) -> int:
    """Let a trajectory move to where it goes wrong; returns the step it goes back to."""
    one.sampler.advance(step - one.step)
    assert back.go_back(one, "it exploded")
    return one.step


def test_those_kept_lie_equally_far_apart_and_reach_back() -> None:
    good = noted([])
    assert good.last is None
    for number in range(20 * LARGEST_STRIDE):
        good.note(10 * number, {}, None)
        steps = kept(good)
        assert len(steps) <= KEPT and steps[-1] == 10 * number, "the last one is always among them"
        apart = [later - earlier for earlier, later in itertools.pairwise(steps[:-1])]
        assert all(distance == 10 * good.stride for distance in apart)
        reach = min(number, (KEPT - 2) * LARGEST_STRIDE)
        assert steps[-1] - steps[0] >= 10 * reach or steps[0] == 0
        assert steps[-1] - steps[0] <= 10 * (KEPT - 1) * LARGEST_STRIDE, "nobody goes back to the start of a long run"


def test_a_state_noted_twice_at_a_step_counts_once() -> None:
    good = noted([0, 0, 5])
    good.note(5, {}, last_learned_step=5)
    assert kept(good) == [0, 5] and good.last is not None and good.last.last_learned_step == 5


def test_each_setback_in_a_row_goes_back_farther() -> None:
    one, back = moving(), restarter([], limit=5)
    walk(back, one, [0, 3, 6, 9])
    assert [setback(back, one, 11) for _ in range(5)] == [9, 6, 3, 0, 0]


def test_good_states_on_the_new_way_do_not_bring_it_nearer_the_trouble() -> None:
    one, back = moving(), restarter([], limit=5)
    walk(back, one, [0, 3, 6, 9])
    assert (setback(back, one, 11), setback(back, one, 12)) == (9, 6)
    walk(back, one, [10])
    assert kept(one.good)[-1] == 10 and setback(back, one, 11) == 3
    walk(back, one, [13])  # past the trouble
    assert one.setbacks == 0 and setback(back, one, 15) == 13


def test_goes_back_from_a_checkpoint_as_without_one(tmp_path: Path) -> None:
    ways = []
    for resumed in (False, True):
        one, back = moving(), restarter([], limit=5)
        walk(back, one, [0, 2, 4, 6])
        setback(back, one, 7)
        if resumed:
            write_state(tmp_path / "state", one.state())
            one = moving()
            one.restore(read_state(tmp_path / "state"))
        steps = [setback(back, one, 8), setback(back, one, 8)]
        one.sampler.advance(2)
        ways.append((steps, one.sampler.atoms.get_positions()))
    assert ways[0][0] == ways[1][0] == [4, 2]
    assert np.allclose(ways[0][1], ways[1][1], atol=1e-9), "the same random numbers"


@pytest.mark.parametrize("had_one", [True, False])
def test_a_checkpoint_of_before_holds_one_good_state_or_none(had_one: bool) -> None:
    one, back = moving(), restarter([], limit=5)
    back.note_good(one)
    state: dict[str, Any] = one.state()
    sampler = state["good"]["states"][0]["sampler"]
    state["good"] = {"sampler": sampler, "last_learned_step": None} if had_one else None
    state["setbacks"], state["trouble_step"] = 1, 9
    del state["good_step"]
    again = moving()
    again.restore(state)
    assert (again.good.last is not None) == had_one == back.can_go_back(again)
    if had_one:
        walk(back, again, [3])
        assert setback(back, again, 5) == 0
