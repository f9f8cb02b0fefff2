"""What happens between the learner and its clients, beside the events of every run (`ideal.engine.events`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ideal.engine.events import Event


@dataclass(frozen=True)
class Serving(Event):
    """Clients can connect; ``elements`` and ``threshold`` (of u) are what the run has now."""

    name: ClassVar[str] = "serving"

    host: str
    port: int
    elements: Sequence[str]
    threshold: float


@dataclass(frozen=True)
class ClientConnected(Event):
    """A client has shown the token. ``steps``: where its run ends; ``again``: it was here before."""

    name: ClassVar[str] = "client_connected"

    trajectory: str
    address: str
    steps: int
    again: bool


@dataclass(frozen=True)
class ClientLeft(Event):
    """The connection to a client is over; what it asked for is learned all the same."""

    name: ClassVar[str] = "client_left"

    trajectory: str
    reason: str


@dataclass(frozen=True)
class ClientRefused(Event):
    """Somebody without the token, or who does not speak the protocol; ``count`` since the last of these events."""

    name: ClassVar[str] = "client_refused"

    address: str
    reason: str
    count: int


@dataclass(frozen=True)
class ClientAnswered(Event):
    """A client got distribution, threshold and (``model``) weights; ``learned``: labels of its request."""

    name: ClassVar[str] = "client_answered"

    trajectory: str
    step: int
    request: int
    learned: int
    model: bool
    text: str
