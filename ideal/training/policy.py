"""How fast training goes, when it stops, and which weights it keeps.

- Within one training the rate rises over a short warm-up and falls by a cosine to a hundredth.
- An update that does not help is undone, the optimizer's memory is cleared, and it is tried again at half the rate.
  AMSGrad never forgets its largest gradient: after one outlier all later steps are short, and clearing the memory is
  what lets the model leave a place where it is stuck (aims-PAX, Henkes et al. 2025, section S5B). `RatePolicy` keeps
  the lower rate for the updates that follow and lets it recover with those that help.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ideal.models.base import TrainablePotential

FINAL_RATE = 0.01
"""Last learning rate of a training relative to its peak."""

WARM_UP = 0.05
"""Part of a training in which the rate rises."""

_RECOVERY = 1.5
_SLOWEST = 1 / 16


def cosine(done: float, warm_up: float = WARM_UP) -> float:
    """Learning rate relative to its peak when the part ``done`` (0 to 1) of a training is over.

    Example:
        >>> round(cosine(0.05), 3), round(cosine(1.0), 3)
        (1.0, 0.01)
    """
    if done < warm_up:
        return FINAL_RATE + (1 - FINAL_RATE) * done / warm_up
    phase = min((done - warm_up) / (1 - warm_up), 1.0)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * phase))


@dataclass(frozen=True)
class Pace:
    """How the next step is taken.

    Attributes:
        rate: learning rate.
        fallen: how far it has fallen from its peak, 0 (also before the peak) to 1 (at the end).
    """

    rate: float
    fallen: float


def pace(peak: float, done: float, warm_up: float = WARM_UP) -> Pace:
    """The pace when the part ``done`` (0 to 1) of a training with this peak rate is over.

    Example:
        >>> pace(1e-3, 1.0)
        Pace(rate=1e-05, fallen=1.0)
    """
    relative = cosine(done, warm_up)
    return Pace(peak * relative, 0.0 if done < warm_up else (1 - relative) / (1 - FINAL_RATE))


class RatePolicy:
    """Factor on the learning rate of updates: halved by one that did not help, recovering with those that do.

    Attributes:
        factor: in (0, 1].

    Example:
        >>> policy = RatePolicy()
        >>> policy.failed()
        >>> policy.factor
        0.5
    """

    def __init__(self) -> None:
        self.factor = 1.0

    def failed(self) -> None:
        """An attempt did not help."""
        self.factor = max(_SLOWEST, 0.5 * self.factor)

    def helped(self) -> None:
        """An attempt helped."""
        self.factor = min(1.0, _RECOVERY * self.factor)


class Keeper:
    """Remembers the best weights seen, and the first ones.

    Args:
        potential: its weights now are the first.
        value: their loss.
        allowance: of a training that begins from other weights: the best of them replace the first ones when their
            loss is below ``allowance * value``. None: the training begins from the first ones, which a look must beat.

    Attributes:
        refused: looks at weights of a lower loss that the gate did not let through.
    """

    def __init__(self, potential: TrainablePotential, value: float, allowance: float | None = None) -> None:
        self._potential = potential
        self._first = self._best = potential.weights()
        self._references = potential.reference_energies
        self._first_value = value
        self._best_value = value if allowance is None else math.inf
        self._limit = value * (1.0 if allowance is None else allowance)
        self._last_value = value
        self.refused = 0

    @property
    def best_is_first(self) -> bool:
        """True as long as nothing was seen that is good enough to replace the first weights."""
        return not self._best_value < self._limit

    def look(self, value: float, weights: Mapping[str, Tensor], passes_gate: bool = True) -> bool:
        """Judge weights by their loss.

        Args:
            value: the loss.
            weights: what has it.
            passes_gate: false: the validation labels forbid to keep them.

        Returns:
            Whether they are the best so far.
        """
        self._last_value = value
        better = value < self._best_value
        self.refused += better and not passes_gate
        if not (better and passes_gate):
            return False
        self._best, self._best_value = dict(weights), value
        return True

    def restore_best(self) -> None:
        """Put the best weights back."""
        self._potential.set_weights(self._best)

    def restore_first(self) -> None:
        """Put the first weights and reference energies back."""
        self._potential.set_weights(self._first)
        self._potential.set_normalization(self._references)

    @property
    def reason(self) -> str:
        """Why the first weights were kept; empty when they were not."""
        if not self.best_is_first:
            return ""
        why = f"the loss on the labels that judge went from {self._first_value:.4g} to {self._last_value:.4g}"
        if self._limit > self._first_value:
            why += f", allowed were {self._limit:.4g}"
        if self.refused:
            why += ", with a larger loss on the validation labels than before"
        return f"{why}; the model was put back"
