"""EMT that waits for a file before each calculation. Imported by worker processes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT

GATE = "IDEAL_TEST_GATE"
"""Environment variable with the file's name."""


class GatedEMT(EMT):
    """EMT that calculates nothing while the file exists."""

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        while GATE in os.environ and Path(os.environ[GATE]).exists():
            time.sleep(0.02)
        super().calculate(atoms, list(properties), list(system_changes))
