"""tau from what the forces were: the running ratio of the norms of physical and uncertainty gradients.

    mean   tau = tau_r  sum ||F|| / sum ||dU/dr||                        van der Oord et al. 2023, eq. 12
    rms    tau = tau_r  sqrt(sum ||F||^2) / sqrt(sum ||dU/dr||^2)        Zaverkin et al. 2024, eq. 8

over the last ``window`` steps, or all. The same holds for stresses. (Eq. 12 is printed upside down; its text, "the
relative average strength of the biasing force", is what stands here.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ideal.config import BiasConfig
from ideal.errors import SamplerError


class NormRatio:
    """The running ratio of two norms.

    Args:
        window: how many of the last pairs count; None: all.
        average: "mean" or "rms".

    Example:
        >>> ratio = NormRatio(window=2, average="mean")
        >>> for physical, bias in ((9.0, 1.0), (4.0, 1.0), (8.0, 2.0)):
        ...     ratio.add(physical, bias)
        >>> ratio.value
        4.0
    """

    def __init__(self, window: int | None, average: str) -> None:
        self._window = window
        self._power = 2 if average == "rms" else 1
        self._pairs = np.zeros((0, 2))  # of a window
        self._sums = np.zeros(2)  # of all

    def add(self, physical: float, bias: float) -> None:
        """Take note of one step's norms.

        Raises:
            SamplerError: they are not finite.
        """
        pair = np.array([[physical, bias]]) ** self._power
        if not np.isfinite(pair).all():
            raise SamplerError(
                f"the norms of forces ({physical:g}) or of the uncertainty's gradient ({bias:g}) overflow"
            )
        if self._window is None:
            self._sums += pair[0]
        else:
            self._pairs = np.concatenate([self._pairs, pair])[-self._window :]

    @property
    def value(self) -> float:
        """The ratio; 0 before any uncertainty gradient was met."""
        physical, bias = self._sums if self._window is None else self._pairs.sum(axis=0)
        return float((physical / bias) ** (1 / self._power)) if bias > 0 else 0.0

    def state(self) -> dict[str, Any]:
        """The norms that count."""
        return {"pairs": self._pairs.copy(), "sums": self._sums.copy()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self._pairs = np.array(state["pairs"], dtype=np.float64).reshape(-1, 2)
        self._sums = np.array(state["sums"], dtype=np.float64)


class Strength:
    """tau and the tau of the stress, as a `BiasConfig` says.

    Args:
        config: the bias.
    """

    def __init__(self, config: BiasConfig) -> None:
        self._config = config
        self._forces = NormRatio(config.window, config.average)
        self._stresses = NormRatio(config.window, config.average)
        self._recorded = 0

    @property
    def is_off(self) -> bool:
        """Whether there is never a bias."""
        return not (self._config.strength if self._config.tau is None else self._config.tau) and not (
            self._config.stress_strength
        )

    @property
    def is_burning_in(self) -> bool:
        """Whether tau follows norms of which too few are known."""
        return self._config.tau is None and self._recorded < self._config.burn_in

    @property
    def wants_stress(self) -> bool:
        """Whether the norms of stresses are to be recorded."""
        return self._config.stress_strength is not None

    def record(self, forces: tuple[float, float], stresses: tuple[float, float] | None) -> None:
        """Take note of the norms of one step, each physical and of the uncertainty."""
        self._forces.add(*forces)
        if stresses is not None:
            self._stresses.add(*stresses)
        self._recorded += 1

    @property
    def tau(self) -> float:
        """eV per unit of the uncertainty; 0 during the burn-in."""
        if self._config.tau is not None:
            return self._config.tau
        return 0.0 if self.is_burning_in else self._config.strength * self._forces.value

    @property
    def stress_tau(self) -> float | None:
        """tau of the bias stress; None: the one of the forces."""
        strength = self._config.stress_strength
        if strength is None:
            return None
        return 0.0 if self._recorded < self._config.burn_in else strength * self._stresses.value

    def state(self) -> dict[str, Any]:
        """Everything that decides tau."""
        return {
            "bias.recorded": self._recorded,
            **{f"bias.forces.{key}": value for key, value in self._forces.state().items()},
            **{f"bias.stresses.{key}": value for key, value in self._stresses.state().items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self._recorded = int(state["bias.recorded"])
        for name, ratio in (("forces", self._forces), ("stresses", self._stresses)):
            ratio.restore({key: state[f"bias.{name}.{key}"] for key in ("pairs", "sums")})
