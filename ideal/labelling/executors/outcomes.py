"""A thread that settles futures, so that what waits for one keeps no worker from its next task."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any


class Outcomes:
    """Values and errors on their way to futures, settled in the order of `put` by a thread of its own.

    Example:
        >>> outcomes = Outcomes()
        >>> outcomes.put(future, 3)
        >>> future.result()
        3
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Any, BaseException | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="labelling-outcomes", daemon=True)
        self._thread.start()

    def put(self, future: Future[Any], value: Any, error: BaseException | None = None) -> None:
        """Give a running future its value, or its error."""
        self._queue.put((future, value, error))

    def close(self) -> None:
        """Settle what was put so far and end the thread; safe to call twice, and from a future's callback."""
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while (outcome := self._queue.get()) is not None:
            future, value, error = outcome
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
