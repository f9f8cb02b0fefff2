"""Replay: statistics of the draws, scores, state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ideal.errors import TrainingError
from ideal.training.loss import SampleErrors
from ideal.training.replay import Replay, draw, scores


def test_draws_are_proportional_to_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    p = np.array([0.02, 0.08, 0.3, 0.1, 0.5])
    rounds, k = 4000, 3
    counts = np.zeros(5)
    for _ in range(rounds):
        drawn = np.bincount(draw(p, k, rng), minlength=5)
        assert (np.abs(drawn - k * p) < 1).all()  # floor or ceil of the expectation, never further
        counts += drawn
    np.testing.assert_allclose(counts / rounds, k * p, atol=4 * np.sqrt(0.25 / rounds))


def test_order_of_draws_carries_no_meaning() -> None:
    rng = np.random.default_rng(1)
    p = np.full(6, 1 / 6)
    first = np.bincount([draw(p, 3, rng)[0] for _ in range(6000)], minlength=6) / 6000
    np.testing.assert_allclose(first, 1 / 6, atol=0.02)


def test_scores_weigh_energy_forces_and_stress() -> None:
    errors = SampleErrors(
        energy=torch.tensor([0.01, 0.02]),
        force=torch.tensor([0.1, 0.3]),
        stress=torch.tensor([2.0, 0.0]),
        n_atoms=torch.tensor([2, 2]),
        stress_mask=torch.tensor([True, False]),
    )
    np.testing.assert_allclose(scores(errors), [0.01 + 0.1 + 0.2, 0.02 + 0.3], rtol=1e-6)


def test_probabilities() -> None:
    replay = Replay()
    assert replay.probabilities(["a", "b"]).tolist() == [0.5, 0.5]
    replay.record(["a", "b"], [1.0, 3.0])
    np.testing.assert_allclose(replay.probabilities(["a", "b", "new"]), [1 / 6, 3 / 6, 2 / 6])
    replay.record(["a", "b"], [0.0, 0.0])
    assert replay.probabilities(["a", "b"]).tolist() == [0.5, 0.5]


def test_stalest_first() -> None:
    replay = Replay()
    replay.record(["a", "b"], [1.0, 1.0])
    replay.record(["c"], [1.0])
    assert replay.stalest(["c", "b", "x", "a"], 3) == [1, 2, 3]
    replay.record(["x", "b"], [1.0, 1.0])
    assert replay.stalest(["c", "b", "x", "a"], 2) == [0, 3]


def test_nothing_to_draw() -> None:
    rng = np.random.default_rng(0)
    assert len(Replay().draw([], 5, rng)) == 0
    assert len(Replay().draw(["a"], 0, rng)) == 0


def test_state_round_trip() -> None:
    replay = Replay()
    replay.record(["a" * 64, "b\u00e9"], [1.5, 3.25])
    replay.record(["c"], [0.1])
    other = Replay()
    other.restore(replay.state())
    keys = ["c", "a" * 64, "b\u00e9", "d"]
    assert (other.probabilities(keys) == replay.probabilities(keys)).all()
    assert other.stalest(keys, 2) == replay.stalest(keys, 2)
    empty = Replay()
    empty.restore(Replay().state())
    assert empty.state()["keys"].size == 0


def test_damaged_state() -> None:
    replay = Replay()
    replay.record(["a"], [1.0])
    state = {**replay.state(), "scores": np.zeros(3)}
    with pytest.raises(TrainingError, match="1 keys, 3 scores"):
        Replay().restore(state)
