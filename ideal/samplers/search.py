"""The part that all searches for a stationary point share: steps, convergence, rolling back.

A step first asks whether the search is at its end on the present surface, and moves only where it is not. After
`set_calculator` (the model has learned) it is no longer at its end before one more step has looked, so that a search
ends only where the model that is now known says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError

from ideal.config import SearchSection
from ideal.errors import SamplerError
from ideal.samplers.structures import check_same_atoms

REMEDY = "start from a better structure, lower sampler.max_move or check that the model knows such environments"


class Search(ABC):
    """A sampler that goes to a stationary point of the energy.

    Args:
        config: tolerance and largest number of steps.
        max_force: largest force on a free atom, eV/Å.
        name: of the trajectory, for messages.

    Attributes:
        atoms: the present configuration.
    """

    kind: ClassVar[str]
    atoms: Atoms

    def __init__(self, config: SearchSection, max_force: float, name: str) -> None:
        self.name = name
        self.max_force = max_force
        self._section = config
        self._step = 0
        self._converged = False

    # --- what the engine reads ----------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Steps of the optimizer so far."""
        return self._step

    @property
    def time_fs(self) -> float:
        """0: a search takes no time."""
        return 0.0

    @property
    def temperature(self) -> float:
        """0: nothing moves thermally."""
        return 0.0

    @property
    def finished(self) -> bool:
        """Whether it has converged or taken all its steps."""
        return self._converged or self._step >= self._section.steps

    @property
    def converged(self) -> bool:
        """Whether the last step found the search at its end on the present surface."""
        return self._converged

    @property
    def conclusion(self) -> str:
        """How it ended, in a few words; empty before."""
        if not self.finished:
            return ""
        how = "converged" if self._converged else f"not converged in {self._step} steps"
        return f"{how}, {self._outcome()}"

    # --- moving -------------------------------------------------------------------------------------------------------

    def advance(self, n: int) -> None:
        """Take up to ``n`` steps, fewer when it converges before.

        Raises:
            SamplerError: a value is not finite or a force exceeds its limit; the search is back at the last good step.
        """
        for _ in range(n):
            if self.finished:
                return
            good = self.state()
            try:
                self._take_step(f"trajectory {self.name!r} at step {self._step + 1}")
            except BaseException:
                self.restore(good)
                raise

    def _take_step(self, where: str) -> None:
        try:
            self._check(where)
            if not self._is_converged():
                with np.errstate(over="ignore", invalid="ignore"):  # what overflows is reported by the check
                    self._move()
                self._check(where)
            self._converged = self._is_converged()
        except PropertyNotImplementedError as error:
            raise SamplerError(f"{where}: the calculator cannot give what is needed ({error})") from None
        self._step += 1

    def set_calculator(self, calculator: BaseCalculator) -> None:
        """Go on with another calculator from the same positions; one more step looks whether it is still converged."""
        self._converged = False
        self._use(calculator)

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides the future: arrays, numbers and text."""
        return {
            "kind": self.kind,
            "step": self._step,
            "converged": self._converged,
            "numbers": self.atoms.numbers.copy(),
            **self._variables(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned, here or in another process.

        Raises:
            SamplerError: the state belongs to another structure or search.
        """
        check_same_atoms(state, self.atoms, self.kind, self.name)
        self._set_variables(state)
        self._step, self._converged = int(state["step"]), bool(state["converged"])

    # --- what each search adds ----------------------------------------------------------------------------------------

    @abstractmethod
    def _use(self, calculator: BaseCalculator) -> None:
        """Give the configurations a calculator."""

    @abstractmethod
    def _move(self) -> None:
        """Take one step of the optimizer."""

    @abstractmethod
    def _check(self, where: str) -> None:
        """Raise SamplerError where a value left the range."""

    @abstractmethod
    def _is_converged(self) -> bool:
        """Whether the present surface says that this is the end."""

    @abstractmethod
    def _outcome(self) -> str:
        """Where it ended, in a few words."""

    @abstractmethod
    def _variables(self) -> dict[str, Any]:
        """What else decides the future."""

    @abstractmethod
    def _set_variables(self, state: Mapping[str, Any]) -> None:
        """Set what `_variables` returned."""
