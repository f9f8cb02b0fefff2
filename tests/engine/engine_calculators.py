"""EMT with what the tests need: a log of the calculations, a delay, chosen failures. Imported by worker processes."""

from __future__ import annotations

import hashlib
import os
import signal
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
        gate: file; no calculation ends while there is one.
    """

    def __init__(self, seconds: float = 0.0, failing: float = 0.0, gate: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds
        self.failing = failing
        self.gate = gate

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        assert atoms is not None
        digest = structure_digest(atoms)
        time.sleep(self.seconds)
        while self.gate and Path(self.gate).exists():
            time.sleep(0.02)
        if int(digest[:8], 16) < self.failing * 0x100000000:
            raise RuntimeError(f"refused to converge on {digest[:8]}")
        super().calculate(atoms, list(properties), list(system_changes))
        descriptor = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, f"{digest}\n".encode())
        finally:
            os.close(descriptor)


class FaultyEMT(LoggedEMT):
    """EMT that goes wrong in a different way for every fourth structure or so, chosen by the structure's hash.

    Args:
        faults: what happens, taken in turn: "killed", "hung", "garbage", "unconverged", "absurd".
        share: part of the structures that something happens to.

    One that hangs leaves a file ``hung-...`` beside the calculation's folder first.
    """

    def __init__(self, faults: Sequence[str] = (), share: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.faults, self.share = tuple(faults), share

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        assert atoms is not None
        digest = structure_digest(atoms)
        fault = ""
        if int(digest[:8], 16) < self.share * 0x100000000:
            fault = self.faults[int(digest[8:16], 16) % len(self.faults)]
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hung":
            (Path("..") / f"hung-{digest}").touch()
            time.sleep(600)
        if fault == "garbage":
            os.write(1, bytes(range(256)) * 20 + b'{"value": 1}\n')
            raise ValueError("could not convert string to float")
        if fault == "unconverged":
            raise RuntimeError("the SCF did not converge in 60 iterations")
        super().calculate(atoms, properties, system_changes)
        if fault == "absurd":
            self.results["forces"] = self.results["forces"] + 1e4


class ShiftedEMT(LoggedEMT):
    """EMT whose energies count from another zero: ``shift`` eV per atom higher."""

    def __init__(self, shift: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shift = shift

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        for name in ("energy", "free_energy"):
            self.results[name] += self.shift * len(atoms)
