"""How many labels a run has asked for and got."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LabelCounters:
    """Labels of the dynamics; those of the initial data are counted apart.

    Attributes:
        asked: cells sent to the reference code, audits included; what ``engine.max_labels`` limits.
        done: labels that arrived.
        failed: calculations without a trustworthy result.
        refused: selected atoms that could not be embedded, or whose cell is known already.
        audits: of those asked, cells around atoms that were drawn from the ones held for certain.
        audits_missing: drawn atoms that the audit lacks: their cell was refused or is known already, or its label
            failed. Many of them bias the estimates.
        initial: labels known at the start.
        initial_failed: initial structures whose calculation failed.
    """

    asked: int = 0
    done: int = 0
    failed: int = 0
    refused: int = 0
    audits: int = 0
    audits_missing: int = 0
    initial: int = 0
    initial_failed: int = 0
