"""Descriptor, uncertainty and gradient against DScribe on the same frames; writes ``docs/benchmarks/soap.md``.

    python benchmarks/soap_speed.py

CPU seconds of this process (one thread), best of several repetitions.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from dscribe.descriptors import SOAP

from ideal import SoapMahalanobis, SoapPowerSpectrum

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "soap.md"
SIZES = ((4, 3), (6, 4), (8, 6))


def lithium() -> Atoms:
    atoms = bulk("Li", "bcc", a=3.5, cubic=True).repeat(10)
    atoms.rattle(0.15, seed=1)
    return atoms


def alumina() -> Atoms:
    basis = [(0, 0, 0.352), (0.306, 0, 0.25)]
    atoms = crystal(["Al", "O"], basis, spacegroup=167, cellpar=[4.76, 4.76, 12.99, 90, 90, 120]).repeat((4, 4, 2))
    atoms.rattle(0.1, seed=1)
    return atoms


def microseconds_per_atom(call: Callable[[], object], n_atoms: int, repetitions: int = 5) -> float:
    """Best CPU time of one call."""
    best = np.inf
    for _ in range(repetitions):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best / n_atoms * 1e6


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def main() -> None:
    rows = []
    for name, frame in (("Li", lithium()), ("Al2O3", alumina())):
        species = sorted(set(frame.get_chemical_symbols()))
        for n_max, l_max in SIZES:
            reference = SOAP(species=species, r_cut=5.0, n_max=n_max, l_max=l_max, sigma=0.5, periodic=True)
            soap = SoapPowerSpectrum(species, r_cut=5.0, n_max=n_max, l_max=l_max, sigma=0.5)
            uncertainty = SoapMahalanobis(soap)
            uncertainty.update([frame])
            n_atoms = len(frame)
            peer = microseconds_per_atom(partial(reference.create, frame), n_atoms, 3)
            ours = microseconds_per_atom(partial(soap.create, frame), n_atoms)
            with_u = microseconds_per_atom(partial(uncertainty.atomic, frame), n_atoms)
            gradient = microseconds_per_atom(partial(uncertainty.gradient, frame), n_atoms)
            rows.append(
                f"| {name}, {n_atoms} atoms | {n_max}, {l_max} | {peer:.1f} | {ours:.1f} | {with_u:.1f} "
                f"| {gradient:.1f} | {peer / with_u:.1f} |"
            )
            print(rows[-1], flush=True)
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("ideal-md", "dscribe", "numpy"))
    PAGE.write_text(
        "# Descriptor and uncertainty against DScribe\n\n"
        "µs per atom, one thread, float64, r_cut 5 Å, sigma 0.5 Å, `taper: true`. DScribe: `SOAP.create()` alone;\n"
        "ours: the descriptor, u of every atom (descriptor and full metric), and the gradient of the summed\n"
        "uncertainty with respect to positions and strain. The last column is DScribe's descriptor over our u.\n\n"
        "    python benchmarks/soap_speed.py\n\n"
        f"Machine: {processor()}, {len(os.sched_getaffinity(0))} cores. {versions}.\n\n"
        "| frame | n_max, l_max | DScribe create | ours: create | ours: u | ours: u and gradient | ratio |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
