"""Writes lithium.data (a crystal with a vacancy) and uncertainty.safetensors (learned from warm perfect crystals)."""

from __future__ import annotations

from ase.build import bulk
from ase.io.lammpsdata import write_lammps_data

from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty.mahalanobis import SoapMahalanobis

perfect = bulk("Li", "bcc", a=3.45, cubic=True) * (4, 4, 4)
uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Li"], n_max=6, l_max=4))
for seed in range(8):
    warm = perfect.copy()
    warm.rattle(0.05 + 0.03 * seed, seed=seed)
    uncertainty.update(warm)
uncertainty.save("uncertainty.safetensors")

crystal = bulk("Li", "bcc", a=3.45, cubic=True) * (8, 8, 8)
del crystal[500]
write_lammps_data("lithium.data", crystal)
