"""ASE calculators that misbehave on purpose; each leaves a mark file per calculation in the folder ``marks``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class Marked(Calculator):
    """Harmonic to the origin of each pair; writes ``marks/N.PID``."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]

    def __init__(self, marks: str, net_force: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.marks = Path(marks)
        self.net_force = net_force

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        (self.marks / f"{len(list(self.marks.iterdir()))}.{os.getpid()}").touch()
        self.act()
        shift = atoms.positions - atoms.positions.mean(axis=0)
        energy = 0.5 * float((shift**2).sum())
        self.results = {"energy": energy, "free_energy": energy, "forces": self.net_force - shift}

    def act(self) -> None:
        """What the calculation does on the way."""


class Meets(Marked):
    """Ends only when a second calculation runs at the same time."""

    def act(self) -> None:
        deadline = time.monotonic() + 200
        while len(list(self.marks.iterdir())) < 2:
            if time.monotonic() > deadline:
                raise RuntimeError("no second calculation within 200 s")
            time.sleep(0.02)


class Hangs(Marked):
    """Starts a program that ignores SIGTERM, writes its process id to ``child.pid`` here, and hangs.

    Not when the first atom is hydrogen.
    """

    def act(self) -> None:
        if self.atoms.numbers[0] == 1:
            return
        program = (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(300)"
        )
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        child.stdout.readline()
        (self.marks / "child").write_text(f"{child.pid} {os.getpid()}")
        (self.marks / "child").rename(self.marks / "child.pid")
        time.sleep(300)


class Dies(Marked):
    """Killed by SIGKILL, as by the kernel when memory is out, when the first atom is hydrogen."""

    def act(self) -> None:
        if self.atoms.numbers[0] == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class Exits(Marked):
    """Prints and calls sys.exit."""

    def act(self) -> None:
        print("last words of the code")
        sys.exit(3)


class DiskFull(Marked):
    """Meets a full disk."""

    def act(self) -> None:
        raise OSError(28, "No space left on device")


class NotANumber(Marked):
    """Returns NaN forces."""

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        self.results["forces"] = np.full_like(self.results["forces"], np.nan)


class Slow(Marked):
    """Takes a quarter of a second."""

    def act(self) -> None:
        time.sleep(0.25)


class LeavesMuch(Marked):
    """Fails and leaves a large file and a long log behind."""

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def act(self) -> None:
        Path("wave.dat").write_bytes(bytes(self.size))
        Path("much.out").write_text("x" * self.size + "\nthe end of it\n")
        raise RuntimeError("no convergence")


class Garbage(Marked):
    """Prints what no program should, in bytes that are no text, and then returns what makes no sense."""

    def act(self) -> None:
        noise = bytes(range(256)) * 40 + b'\n{"value": null}\n{"ready": 1}\n'
        os.write(1, noise)
        os.write(2, noise)
        raise ValueError("could not convert string to float: '\x00\xff'")
