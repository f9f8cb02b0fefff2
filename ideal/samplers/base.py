"""What the engine asks of a sampler.

A sampler owns one configuration and moves it step by step. Its whole state can be read and set again, in
another process too, and the continued trajectory is bitwise the uninterrupted one. To add a sampler, write a
class with these members, its configuration with a ``type`` of its own, a line in
`ideal.config_trajectory.SamplerConfig` and one in `ideal.samplers.make_sampler`.

A sampler that follows the uncertainty gets it from `make_sampler`. It is one object for the life of the
sampler and learns in place; after every learning, of model or uncertainty, the engine calls `set_calculator`,
and whatever was cached of either is void from then on. A resumed run makes new samplers with the loaded
uncertainty and restores their state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ideal.records import FloatArray
from ideal.uncertainty.base import AtomwiseUncertainty


class Sampler(Protocol):
    """Moves one configuration."""

    @property
    def atoms(self) -> Atoms:
        """The present configuration with momenta, constraints and the calculator of the physical surface.

        Read it, do not change it.
        """

    @property
    def step(self) -> int:
        """Steps taken so far."""

    @property
    def time_fs(self) -> float:
        """Simulated time in fs."""

    @property
    def temperature(self) -> float:
        """Instantaneous temperature in K, net translation (where it is conserved) left out."""

    @property
    def finished(self) -> bool:
        """Whether every step that was asked for is taken."""

    def advance(self, n: int) -> None:
        """Take up to ``n`` steps, fewer when the sampler finishes before.

        ``advance(a)`` followed by ``advance(b)`` equals ``advance(a + b)`` bitwise.

        Raises:
            SamplerError: temperature or force left the allowed range; ``atoms`` is back at the last good
                step.
        """

    def set_calculator(self, calculator: BaseCalculator) -> None:
        """Go on with another calculator (an updated model) from the same positions and momenta."""

    def state(self) -> dict[str, Any]:
        """Everything that decides the future: numpy arrays, numbers and strings, never pickled objects."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned.

        Raises:
            SamplerError: the state belongs to another structure or ensemble.
        """


@runtime_checkable
class Reseedable(Protocol):
    """A sampler that can leave a state on another way than before, so that the engine may restart it from there.

    One without it is given up where it goes wrong: it would only repeat itself.
    """

    def reseed(self, seed: int) -> None:
        """Go on with random numbers that follow from ``seed``; velocities are drawn anew."""


@runtime_checkable
class Observed(Protocol):
    """A sampler with numbers of its own that belong to a frame, such as tau or acceptance ratios."""

    def observables(self) -> dict[str, float]:
        """Names and values here and now; letters, digits and ``_`` in names."""
        ...


def observables(sampler: Sampler) -> dict[str, float]:
    """What a sampler observes beside temperature and energy; empty for one that observes nothing."""
    return sampler.observables() if isinstance(sampler, Observed) else {}


class Observation(NamedTuple):
    """What a check sees of a frame.

    Attributes:
        u: (n_atoms,) uncertainty.
        potential_energy: eV.
        kinetic_energy: eV.
        volume: Å³; None without a cell.
    """

    u: FloatArray
    potential_energy: float
    kinetic_energy: float
    volume: float | None


def observation(atoms: Atoms, u: FloatArray) -> Observation:
    """What a check sees of a configuration here.

    Raises:
        TrainingError: its energy cannot be evaluated.
    """
    volume = float(atoms.get_volume()) if atoms.cell.rank == 3 else None
    return Observation(u, float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy()), volume)


@runtime_checkable
class Remote(Protocol):
    """A sampler whose atoms are not in this process: it is asked for many steps at once, and scores its frame itself.

    ``atoms`` may be costly there; it is read only where something is uncertain, audited or written.
    """

    def observe(self, uncertainty: AtomwiseUncertainty) -> Observation:
        """Score the present frame there where it is.

        Raises:
            SamplerError, UncertaintyError: it cannot be scored.
        """
        ...

    def close(self) -> None:
        """Give back what it holds outside of this process."""
