"""Write the structures of the examples: copper with a vacancy, and where it is after one hop."""

from __future__ import annotations

from ase.build import bulk
from ase.io import write

crystal = bulk("Cu", cubic=True).repeat(2)
vacancy = crystal.copy()
del vacancy[0]
hopped = vacancy.copy()
hopped.positions[0] -= crystal.get_distance(0, 1, vector=True, mic=True)
write("vacancy.extxyz", vacancy)
write("hopped.extxyz", hopped)
