"""The running average of the weights, which is what is judged, used and saved.

    a_t = d_t a_(t-1) + (1 - d_t) w_t,    d_t = min(decay, (1 + t) / (10 + t)),    a_0 = w_0

The steps of an optimizer scatter about the minimum; their average lies closer to it. The decay grows with the number of
steps, so that the average of a short update follows its steps instead of the weights before.

Decay 0.99 as aims-PAX (Henkes et al. 2025, section IV); the growth as in TensorFlow's ExponentialMovingAverage.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ideal.models.base import TrainablePotential


class WeightAverage:
    """Averages a potential's weights over optimizer steps.

    Args:
        potential: its weights now are the first average.
        decay: of the old average per step, 0 <= decay < 1; 0: the average is the present weights.

    Example:
        >>> average = WeightAverage(potential, decay=0.99)
        >>> optimizer.step()
        >>> average.follow()
        >>> with average.applied():
        ...     potential.evaluate(atoms)
    """

    def __init__(self, potential: TrainablePotential, decay: float) -> None:
        self._potential = potential
        self._decay = decay
        self._steps = 0
        self._parameters = dict(potential.named_parameters())
        self._average = potential.weights()

    @torch.no_grad()
    def follow(self) -> None:
        """Take the present weights into the average; to be called after every step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        average: list[Tensor] = [self._average[name] for name in self._parameters]
        torch._foreach_lerp_(average, [p.detach() for p in self._parameters.values()], 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the average."""
        return {name: value.clone() for name, value in self._average.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the potential have the averaged weights within the block."""
        present = self._potential.weights()
        self._potential.set_weights(self._average)
        try:
            yield
        finally:
            self._potential.set_weights(present)
