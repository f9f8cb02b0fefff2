"""Write the structures of the examples: copper with a vacancy, relaxed with EMT, and where it is after one hop."""

from __future__ import annotations

from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from ase.optimize import FIRE

crystal = bulk("Cu", cubic=True).repeat(2)
vacancy = crystal.copy()
del vacancy[0]
hopped = vacancy.copy()
hopped.positions[0] -= crystal.get_distance(0, 1, vector=True, mic=True)
for name, atoms in (("vacancy", vacancy), ("hopped", hopped)):
    atoms.calc = EMT()
    FIRE(atoms, logfile=None).run(fmax=0.01)
    atoms.calc = None
    write(f"{name}.extxyz", atoms)
