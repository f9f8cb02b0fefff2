"""A trajectory that somebody else moves, as the engine sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ideal.errors import SamplerError
from ideal.lammps.serve.requests import Ask, Check, Neighborhood


class ClientSampler:
    """Stands at the last step that a client told.

    Args:
        client: identifies the simulation.

    Attributes:
        atoms: the first neighborhood of the last request; empty before any.
        neighborhoods: all of them.
        request: number of the last request; 0 before any.
        labels_before: labels that the trajectory had learned when it asked last.
        finished: whether the client has said good-bye.

    Example:
        >>> sampler = ClientSampler("0123456789abcdef")
        >>> sampler.take(ask)
        >>> sampler.step
        1200
    """

    def __init__(self, client: str) -> None:
        self.client = client
        self.atoms = Atoms()
        self.neighborhoods: tuple[Neighborhood, ...] = ()
        self.request = 0
        self.labels_before = 0
        self.finished = False
        self._step = 0
        self._time_fs = 0.0
        self._temperature = 0.0

    @property
    def step(self) -> int:
        """MD step."""
        return self._step

    @property
    def time_fs(self) -> float:
        """Simulated time, fs."""
        return self._time_fs

    @property
    def temperature(self) -> float:
        """Temperature in K; 0 where the client has not told any."""
        return self._temperature

    def advance(self, n: int) -> None:
        """Refused.

        Raises:
            SamplerError: always; the client moves the atoms.
        """
        raise SamplerError(f"this trajectory is moved by its client {self.client}, not by the engine")

    def set_calculator(self, calculator: BaseCalculator) -> None:
        """Nothing to do: the client gets the weights with its answer."""

    def note(self, check: Check) -> None:
        """Take over where the client stands."""
        self._step, self._time_fs = check.step, check.time_fs
        self._temperature = 0.0 if check.temperature is None else check.temperature

    def take(self, ask: Ask, labels: int) -> None:
        """Take over a request; ``labels`` were learned before."""
        self.note(ask.check)
        self.request, self.neighborhoods, self.labels_before = ask.request, ask.neighborhoods, labels
        self.atoms = ask.neighborhoods[0].atoms

    def state(self) -> dict[str, Any]:
        """All but the neighborhoods: what is made of them is part of the trajectory's state."""
        return {
            "client": self.client,
            "request": self.request,
            "labels_before": self.labels_before,
            "finished": self.finished,
            "step": self._step,
            "time_fs": self._time_fs,
            "temperature": self._temperature,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.client, self.request, self.finished = state["client"], state["request"], state["finished"]
        self.labels_before = state["labels_before"]
        self._step, self._time_fs = state["step"], state["time_fs"]
        self._temperature = state["temperature"]
