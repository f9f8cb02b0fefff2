"""Importance-sampled replay: old labels that the present model does badly on are shown again more often.

    p_i proportional to MAE_E + MAE_F + 0.1 MAE_S        (eV/atom, eV/Å, GPa; of label i under the present model)

Scores are refreshed on a budget, the stalest first, and for free whenever a label takes part in a training step. Draws
are systematic: label i is drawn floor(k p_i) or ceil(k p_i) times, k p_i on average, which scatters less than
independent draws.

Kong et al. (2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ideal.errors import TrainingError
from ideal.records import FloatArray, IntArray
from ideal.training.loss import SampleErrors

STRESS_WEIGHT = 0.1
"""Weight of the stress error (GPa) beside those of energy (eV/atom) and forces (eV/Å)."""


def scores(errors: SampleErrors) -> FloatArray:
    """(n_structures,) score of each structure of a batch."""
    return (errors.energy + errors.force + STRESS_WEIGHT * errors.stress).double().cpu().numpy()


def draw(probabilities: FloatArray, count: int, rng: np.random.Generator) -> IntArray:
    """Systematic sampling.

    Args:
        probabilities: (n,) not negative, summing to 1.
        count: number of draws.
        rng: source of randomness.

    Returns:
        (count,) indices in random order; index i occurs count * probabilities[i] times on average.
    """
    order = rng.permutation(len(probabilities))
    edges = np.cumsum(probabilities[order])
    points = (rng.random() + np.arange(count)) / count * edges[-1]
    chosen = order[np.minimum(np.searchsorted(edges, points, side="right"), len(order) - 1)]
    return rng.permutation(chosen)


class Replay:
    """Scores of labels by key, and draws by importance.

    Example:
        >>> replay = Replay()
        >>> replay.record(["a", "b"], [1.0, 3.0])
        >>> replay.probabilities(["a", "b"]).tolist()
        [0.25, 0.75]
    """

    def __init__(self) -> None:
        self._scores: dict[str, tuple[float, int]] = {}
        self._clock = 0

    def record(self, keys: Sequence[str], values: Sequence[float] | FloatArray) -> None:
        """Store scores under the present model."""
        self._clock += 1
        for key, value in zip(keys, values, strict=True):
            self._scores[key] = (float(value), self._clock)

    def stalest(self, keys: Sequence[str], count: int) -> list[int]:
        """Indices of the ``count`` keys whose scores are missing or oldest, in the order given."""
        ages = [self._scores.get(key, (0.0, 0))[1] for key in keys]
        return sorted(sorted(range(len(keys)), key=lambda i: (ages[i], i))[:count])

    def probabilities(self, keys: Sequence[str]) -> FloatArray:
        """(n,) probability of each key; one without a score counts as the average of those with one."""
        known = [self._scores[key][0] for key in keys if key in self._scores]
        typical = float(np.mean(known)) if known else 1.0
        values = np.array([self._scores.get(key, (typical, 0))[0] for key in keys])
        if not values.sum() > 0:
            return np.full(len(keys), 1.0 / max(len(keys), 1))
        return values / values.sum()

    def draw(self, keys: Sequence[str], count: int, rng: np.random.Generator) -> IntArray:
        """(count,) indices into ``keys``, drawn by importance; empty when there are no keys."""
        if not keys or not count:
            return np.zeros(0, dtype=np.int64)
        return draw(self.probabilities(keys), count, rng)

    def state(self) -> dict[str, Any]:
        """All scores as plain arrays."""
        text = "\n".join(self._scores).encode()
        return {
            "keys": np.frombuffer(text, dtype=np.uint8).copy(),
            "scores": np.array([score for score, _ in self._scores.values()], dtype=np.float64),
            "stamps": np.array([stamp for _, stamp in self._scores.values()], dtype=np.int64),
            "clock": self._clock,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave.

        Raises:
            TrainingError: the arrays do not belong together.
        """
        text = np.asarray(state["keys"], dtype=np.uint8).tobytes().decode()
        keys = text.split("\n") if text else []
        values, stamps = np.asarray(state["scores"]), np.asarray(state["stamps"])
        if not len(keys) == len(values) == len(stamps):
            raise TrainingError(
                f"replay state with {len(keys)} keys, {len(values)} scores and {len(stamps)} stamps; resume from an "
                "older checkpoint"
            )
        self._scores = {k: (float(v), int(t)) for k, v, t in zip(keys, values, stamps, strict=True)}
        self._clock = int(state["clock"])
