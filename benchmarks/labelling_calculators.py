"""Calculators for the benchmarks of labelling; worker processes import them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes


class Sleeping(Calculator):
    """Harmonic forces after a fixed time.

    Args:
        seconds: how long a calculation takes.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]

    def __init__(self, seconds: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        time.sleep(self.seconds)
        shift = self.atoms.positions - self.atoms.positions.mean(axis=0)
        energy = 0.5 * float((shift**2).sum())
        self.results = {"energy": energy, "free_energy": energy, "forces": -shift, "stress": np.zeros(6)}
