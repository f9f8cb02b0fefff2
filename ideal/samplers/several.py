"""Samplers of several configurations: the images of a path, the replicas of a ladder.

Every one of them is looked at whenever the trajectory is checked. The sampler *shows* one as its ``atoms``: the most
uncertain one, which then asks for labels as the frame of any trajectory does, or the one it shows by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ase import Atoms

from ideal.samplers.base import Sampler


@runtime_checkable
class Several(Protocol):
    """A sampler of several configurations, one of which it shows."""

    @property
    def configurations(self) -> Sequence[Atoms]:
        """All of them in a fixed order; one of them is ``atoms``."""
        ...

    def show(self, index: int | None) -> None:
        """Make ``atoms`` the configuration of that index; None: the one that is shown by itself. Part of the state."""


@runtime_checkable
class Concluding(Protocol):
    """A sampler that has something to say at its end."""

    @property
    def conclusion(self) -> str:
        """How it ended, in a few words; empty before."""
        ...


def configurations(sampler: Sampler) -> Sequence[Atoms]:
    """Every configuration of a sampler; of most the one that they have."""
    return sampler.configurations if isinstance(sampler, Several) else (sampler.atoms,)


def conclusion(sampler: Sampler) -> str:
    """How a sampler ended; empty for one that only came to its last step."""
    return sampler.conclusion if isinstance(sampler, Concluding) else ""
