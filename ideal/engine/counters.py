"""How many labels a run has asked for and got."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LabelCounters:
    """Labels of the dynamics; those of the initial data are counted apart.

    Attributes:
        asked: cells sent to the reference code; what ``engine.max_labels`` limits.
        done: labels that arrived.
        failed: calculations without a trustworthy result.
        refused: selected atoms that could not be embedded, or whose cell is known already.
        initial: labels known at the start.
        initial_failed: initial structures whose calculation failed.
    """

    asked: int = 0
    done: int = 0
    failed: int = 0
    refused: int = 0
    initial: int = 0
    initial_failed: int = 0
