"""A process that makes cells for `ideal.embedding.pool`: jobs come by standard input, cells go by standard output.

    python -m ideal.embedding.worker

It ends when its input ends, so also when the process that started it was killed.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from typing import Any

from ideal.embedding.embed import embed
from ideal.errors import IdealError


def main() -> None:
    """Make cells until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends its workers in order
    jobs, cells = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not spoil the answers
    uncertainty: Any = None
    while True:
        try:
            job, config, news = pickle.load(jobs)
        except EOFError:
            return
        uncertainty = uncertainty if news is None else news
        start = time.perf_counter()
        answer: object
        try:
            answer = embed(
                job.atoms,
                job.centers,
                uncertainty,
                rng=job.seed,
                config=config,
                threshold=job.threshold,
                min_distances=job.min_distances,
            )
        except IdealError as error:
            answer = error
        except Exception:
            answer = traceback.format_exc()
        pickle.dump((answer, time.perf_counter() - start), cells)
        cells.flush()


if __name__ == "__main__":
    main()
