"""Ctrl-C and SIGTERM: the first one asks the run to stop at the next safe place, the second stops it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Whether the user or the scheduler asked the run to stop.

    Attributes:
        signal_name: "SIGINT" or "SIGTERM" once asked, else empty.

    Example:
        >>> stop = StopRequest()
        >>> with stop.listening():
        ...     while not stop.signal_name:
        ...         ...
    """

    def __init__(self) -> None:
        self.signal_name = ""

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note the signals within the block; outside Python's main thread, where that is impossible, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: FrameType | None) -> None:
            if self.signal_name:
                raise KeyboardInterrupt
            self.signal_name = signal.Signals(number).name

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class InterruptedRun(Exception):  # noqa: N818
    """Leaves the loop after a `StopRequest`; never leaves `ideal.engine.engine.Engine.run`."""
