"""Core seconds of a step and of a check: LAMMPS as the sampler beside ASE's, the same model, the same crystal.

    python benchmarks/lammps_sampler.py [--output docs/benchmarks/lammps_sampler.md]

M3GNet S (2 blocks, 32 units, 5 Å) moves warm body-centered cubic lithium at constant energy; u is the SOAP-Mahalanobis
distance with 5 Å, n_max 6, l_max 4. Core time is that of this process and of LAMMPS', so that other work on the machine
counts little; repetitions of both samplers take turns, and the smallest time of each counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from ase import Atoms
from ase.build import bulk

from ideal.config import LammpsSamplerConfig, ModelConfig, MolecularDynamicsConfig
from ideal.models.calculator import IdealCalculator
from ideal.models.m3gnet import M3GNetPotential
from ideal.samplers import LammpsSampler, MolecularDynamics
from ideal.samplers.base import observation
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty.mahalanobis import SoapMahalanobis

SIZES = (3, 6, 9)
STEPS = 10
REPETITIONS = 3
SCRIPT = "units metal\nread_data ${data}\nfix move all nve\ntimestep 0.001\nthermo 100\n"


@dataclass(frozen=True)
class Row:
    """Smallest core seconds at one size, (ASE, LAMMPS)."""

    n_atoms: int
    step: tuple[float, float]
    check: tuple[float, float]
    state: tuple[float, float]


def core_seconds(children: list[int]) -> float:
    """Of this process and of the main threads of others that run."""
    elsewhere = sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in children)
    return time.process_time() + 1e-9 * elsewhere


def measure(action: Callable[[], object], children: list[int]) -> float:
    start = core_seconds(children)
    action()
    return core_seconds(children) - start


def crystal(cells: int) -> Atoms:
    atoms = bulk("Li", "bcc", a=3.45, cubic=True) * (cells, cells, cells)
    atoms.rattle(0.08, seed=1)
    return atoms


def row(cells: int, folder: Path) -> Row:
    atoms = crystal(cells)
    potential = M3GNetPotential.new(ModelConfig(), ["Li"], seed=0)
    potential.set_normalization({"Li": -1.9}, energy_scale=0.2)
    known = SoapMahalanobis(SoapPowerSpectrum(["Li"], r_cut=5.0, n_max=6, l_max=4))
    known.update(crystal(4))
    (folder / "in.nve").write_text(SCRIPT)
    calculator = IdealCalculator(potential)
    ase = MolecularDynamics(atoms, calculator, MolecularDynamicsConfig(ensemble="nve", steps=10**6), 0, max_force=1e9)
    config = LammpsSamplerConfig(input=folder / "in.nve", steps=10**6)
    lammps = LammpsSampler(
        atoms, calculator, config, 0, max_force=1e9, uncertainty=known, folder=folder / f"lammps{cells}"
    )
    lammps.observe(known)
    children = [lammps._session._ranks._process.pid]  # type: ignore[union-attr]
    ase.advance(1)
    times: dict[str, list[float]] = {}

    def take(name: str, action: Callable[[], object], share: int = 1) -> None:
        times.setdefault(name, []).append(measure(action, children) / share)

    for _ in range(REPETITIONS):
        take("ase step", lambda: ase.advance(STEPS), STEPS)
        take("lammps step", lambda: lammps.advance(STEPS), STEPS)
        take("ase check", lambda: observation(ase.atoms, known.atomic(ase.atoms)))
        take("lammps check", lambda: lammps.observe(known))
        take("ase state", ase.state)
        take("lammps state", lambda: (lammps.state(), lammps.observe(known)))
    lammps.close()
    best = {name: min(values) for name, values in times.items()}
    best["lammps state"] -= best["lammps check"]
    pairs = [(best[f"ase {what}"], best[f"lammps {what}"]) for what in ("step", "check", "state")]
    return Row(len(atoms), *pairs)


def table(rows: list[Row]) -> str:
    lines = [
        "| atoms | step: ASE | LAMMPS | ratio | check: ASE | LAMMPS | state: ASE | LAMMPS |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for item in rows:
        ms = [f"{1000 * value:.1f} ms" for pair in (item.step, item.check, item.state) for value in pair]
        ratio = item.step[1] / item.step[0]
        lines.append(f"| {item.n_atoms:,} | {ms[0]} | {ms[1]} | {ratio:.2f} | {' | '.join(ms[2:])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the page there")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(cells, Path(folder)) for cells in SIZES]
    text = (
        f"# LAMMPS as a sampler beside ASE\n\n{__doc__}\n"
        f"Measured on {os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}, one thread, one rank, "
        f"smallest of {REPETITIONS}.\n\n{table(rows)}\n\n"
        "A step is one of ten that are taken at once. A check is u of every atom and the energy; with LAMMPS no frame "
        "is gathered. A state is what a checkpoint takes: with LAMMPS a restart file, and lists and forces anew.\n"
    )
    print(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
