"""The barrier of the hop by EMT itself, to compare with what the run of neb.yaml found (its folder as argument)."""

from __future__ import annotations

import sys
from pathlib import Path

from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import read
from ase.mep import NEB
from ase.optimize import FIRE


def barrier(images: list[Atoms]) -> float:
    """Highest energy of a path above its first end, eV, by EMT."""
    for image in images:
        image.calc = EMT()
    energies = [image.get_potential_energy() for image in images]
    return max(energies) - energies[0]


first, last = (read(f"{name}.extxyz") for name in ("vacancy", "hopped"))
images = [first, *(first.copy() for _ in range(7)), last]
band = NEB(images, climb=True, method="improvedtangent")
band.interpolate("idpp", mic=True)
barrier(images)
FIRE(band, logfile=None).run(fmax=0.05)
print(f"EMT's own path: {barrier(images):.3f} eV")
if len(sys.argv) > 1:
    files = sorted((Path(sys.argv[1]) / "trajectories" / "hop").glob("*.extxyz"))
    found = [read(file) for file in files]
    print(f"EMT along the path of the run: {barrier(found):.3f} eV")
