"""Writes copper.data (a crystal with a vacancy, for LAMMPS) and copper.extxyz (a perfect one, for the learner)."""

from __future__ import annotations

from ase.build import bulk
from ase.io import write
from ase.io.lammpsdata import write_lammps_data

crystal = bulk("Cu", cubic=True) * (6, 6, 6)
del crystal[400]
write_lammps_data("copper.data", crystal, masses=True)
write("copper.extxyz", bulk("Cu", cubic=True) * (2, 2, 2))
