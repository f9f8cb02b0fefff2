"""EMT with what the tests need: a log of the calculations, a delay, chosen failures. Imported by worker processes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT

LOG = Path("..") / "calculated.txt"
"""A calculation runs in a folder of its own; this is beside it, the same for all of a run."""


def structure_digest(atoms: Atoms) -> str:
    """Name of a structure in the log."""
    return hashlib.sha256(np.rint(atoms.positions * 1e8).astype("<i8").tobytes()).hexdigest()


class LoggedEMT(EMT):
    """EMT that appends a line to ``calculated.txt`` beside the calculation's folder when it is complete.

    Args:
        seconds: how long a calculation takes at least.
        failing: part of the structures (chosen by their hash) whose calculation fails.
    """

    def __init__(self, seconds: float = 0.0, failing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds
        self.failing = failing

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        assert atoms is not None
        digest = structure_digest(atoms)
        time.sleep(self.seconds)
        if int(digest[:8], 16) < self.failing * 0x100000000:
            raise RuntimeError(f"refused to converge on {digest[:8]}")
        super().calculate(atoms, list(properties), list(system_changes))
        descriptor = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, f"{digest}\n".encode())
        finally:
            os.close(descriptor)
