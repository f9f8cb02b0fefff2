"""``pair_style ideal``: time and memory beside the Python program, growth with the number of atoms, two ranks, the
price of watching; writes two sections of ``docs/benchmarks/lammps.md``.

    python benchmarks/lammps_pair.py                        what is not yet in runs/lammps_pair.json
    python benchmarks/lammps_pair.py --parts sizes --again  one part, measured anew
    python benchmarks/lammps_pair.py --again                all (a quarter of an hour on idle cores)

Parts: sizes (S, M, P beside Python), growth (memory), ranks (strong scaling, 64 ranks estimated), watching. Times are
CPU seconds; what is compared takes turns in one run and the least of the repetitions counts, so that other processes on
the same cores disturb little.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before the libraries that read them are imported

import numpy as np  # noqa: E402
from ase import Atoms  # noqa: E402
from ase.build import bulk  # noqa: E402
from lammps_runs import ROOT, distribution, machine, plugin, put_section, run, table, write_data  # noqa: E402

from ideal.config import ModelConfig  # noqa: E402
from ideal.models.m3gnet import M3GNetPotential  # noqa: E402

RESULTS = ROOT / "runs" / "lammps_pair.json"
SIZES = {"S": (2, 32, 3), "M": (3, 64, 3), "P": (4, 128, 4)}
CELLS = {"S": 12, "M": 8, "P": 8}  # edges of the box in cubic cells of two atoms
GROWTH = (16, 32, 50)
MILLION, MILLION_BOX = 1_058_420, 286.6
FLOPS, BANDWIDTH = 20e12, 3e12  # of a GPU, for the estimate
GHOST_REACH = 8.0  # Å; comm_modify below
REPETITIONS = 3
SOAPS = ((4, 3), (8, 6))
HEAD = """units metal
atom_style atomic
atom_modify map yes
neighbor 1.0 bin
read_data li.data
comm_modify cutoff 8.0
plugin load {plugin}
pair_style ideal
pair_coeff * * model/model.safetensors Li
velocity all create 300 1
fix move all nve
thermo 1000
"""
Result = dict[str, Any]


def lithium(folder: Path, cells: int, size: str) -> tuple[Atoms, M3GNetPotential]:
    """Rattled bcc lithium and a seeded model, saved for LAMMPS."""
    atoms = bulk("Li", "bcc", a=3.51, cubic=True) * (cells, cells, cells)
    atoms.rattle(0.15, seed=0)
    write_data(atoms, folder / "li.data", 6.94)
    blocks, units, n = SIZES[size]
    config = ModelConfig(n_blocks=blocks, units=units, max_n=n, max_l=n, device="cpu")
    potential = M3GNetPotential.new(config, ["Li"], seed=0)
    potential.set_normalization({"Li": -1.9}, energy_scale=20.0)
    potential.save(folder / "model")
    return atoms, potential


def head() -> str:
    return HEAD.format(plugin=plugin())


def sizes(folder: Path) -> Result:
    """CPU µs per atom and step: LAMMPS (energy, forces) and Python (energy, forces, stress), in turns."""
    found: Result = {}
    for size, cells in CELLS.items():
        atoms, potential = lithium(folder, cells, size)
        steps = {"S": 15, "M": 10, "P": 3}[size]
        times: dict[str, list[float]] = {"lammps": [], "python": []}
        potential.evaluate(atoms)
        for _ in range(REPETITIONS):
            cost = run(head() + f"run {steps}\n", folder)
            times["lammps"].append(cost.loops[0].pair / steps)
            started = time.process_time()
            potential.evaluate(atoms)
            times["python"].append(time.process_time() - started)
        found[size] = {name: 1e6 * min(values) / len(atoms) for name, values in times.items()}
        found[size]["atoms"] = len(atoms)
        print(size, found[size], flush=True)
    return found


def growth(folder: Path) -> Result:
    """Memory and time of S with the number of atoms, one rank."""
    rows = []
    for cells in GROWTH:
        atoms, _ = lithium(folder, cells, "S")
        cost = run(head() + "run 2\n", folder)
        loop = cost.loops[0]
        rows.append([len(atoms), cost.mib, 1e6 * loop.pair / loop.steps / len(atoms)])
        print(rows[-1], flush=True)
    return {"rows": rows}


def ranks(folder: Path) -> Result:
    """The same box on one rank and on two, in turns."""
    atoms, _ = lithium(folder, 24, "S")
    cases: dict[int, list[list[float]]] = {1: [], 2: []}
    for _ in range(REPETITIONS):
        for n, values in cases.items():
            cost = run(head() + "run 5\n", folder, n)
            loop = cost.loops[0]
            values.append([loop.seconds / loop.steps, loop.pair / loop.steps, cost.mib])
            print(n, values[-1], flush=True)
    best = {str(n): min(values) for n, values in cases.items()}
    return {"atoms": len(atoms), "box": float(atoms.cell.lengths()[0]), **best}


def watching(folder: Path) -> Result:
    """A run of S as it is, and watched every ten steps; the difference is in the fix's share of the loop."""
    atoms, _ = lithium(folder, 12, "S")
    frames = []
    for seed in range(8):
        warm = bulk("Li", "bcc", a=3.51, cubic=True) * (5, 5, 5)
        warm.rattle(0.05 + 0.02 * seed, seed=seed)
        frames.append(warm)
    found: Result = {"atoms": len(atoms)}
    steps = 20
    for soap in SOAPS:
        distribution("Li", frames, soap, folder / "u.safetensors")
        watch = head() + "fix watch all ideal 10 u.safetensors Li threshold 1000\n"
        shares = []
        for _ in range(REPETITIONS):
            plain = run(head() + f"run {steps}\n", folder).loops[0]
            watched = run(watch + f"run {steps}\n", folder).loops[0]
            check = (watched.modify - plain.modify) / (steps // 10)
            shares.append([(watched.modify - plain.modify) / plain.seconds, 1e6 * check / len(atoms)])
            print(soap, shares[-1], 1e6 * plain.seconds / steps / len(atoms), flush=True)
        found[str(soap)] = np.median(shares, axis=0).tolist()
    return found


# --- the page ---------------------------------------------------------------------------------------------------------


def pair_section(results: Result) -> str:
    """Time and memory."""
    rows = []
    for size, row in results["sizes"].items():
        ratio = row["python"] / row["lammps"]
        rows.append([size, str(row["atoms"]), f"{row['lammps']:.0f}", f"{row['python']:.0f}", f"{ratio:.2f}"])
    grown = [[f"{n:,}", f"{mib:,.0f}", f"{cost:.0f}"] for n, mib, cost in results["growth"]["rows"]]
    (n0, mib0, _), (n1, mib1, _) = results["growth"]["rows"][-2:]
    slope = (mib1 - mib0) / (n1 - n0)
    predicted = (mib1 + slope * (MILLION - n1)) / 1024
    return "\n".join(
        [
            "## pair_style ideal",
            "",
            "    python benchmarks/lammps_pair.py --again",
            "",
            machine(),
            "Rattled bcc lithium, 20 neighbors within 5 Å; S: 2 blocks, 32 units, max_n = max_l = 3; M: 3, 64, 3;",
            "P: 4, 128, 4; weights seeded. float32, one rank, CPU µs per atom and step. Python:",
            "`M3GNetPotential.evaluate` (with stress) of the same frame with the same weights, in turns with LAMMPS.",
            *([results["note"]] if "note" in results else []),
            "",
            table("| size | atoms | LAMMPS | Python | Python / LAMMPS |", rows),
            "Memory of the process (S, one rank) with the number of atoms, crystals:",
            "",
            table("| atoms | MiB | µs per atom and step |", grown),
            f"The last two rows give {1024 * slope:.1f} KiB per atom, and {predicted:.1f} GiB for {MILLION:,} atoms.",
            "What they really take, with `fix ideal` and the ghosts of two ranks, is in the next section.",
        ]
    )


def scaling_section(results: Result) -> str:
    """Ranks, and what watching costs."""
    part = results["ranks"]
    one, two = part["1"], part["2"]
    efficiency = one[0] / two[0]
    rows = [
        [n, f"{1e6 * row[0] / part['atoms']:.1f}", f"{row[0] / int(n):.3f}", f"{row[2]:.0f}"]
        for n, row in (("1", one), ("2", two))
    ]
    watched = results["watching"]
    overhead = [
        [f"({key.strip('()')})", f"{row[1]:.1f}", f"{100 * row[0]:.1f} %", "2 %", "met" if row[0] <= 0.02 else "missed"]
        for key, row in watched.items()
        if key != "atoms"
    ]
    return "\n".join(
        [
            "## Ranks, and the price of watching",
            "",
            "    python benchmarks/lammps_pair.py --again",
            "",
            f"M3GNet S, {part['atoms']:,} atoms in a cube of {part['box']:.1f} Å: CPU time of all ranks per atom and",
            "step, seconds per step if every rank had a core of its own, memory of a rank.",
            "",
            table("| ranks | µs per atom and step | s per step | MiB per rank |", rows),
            f"Two ranks do the work of {2 * efficiency:.2f} (efficiency {100 * efficiency:.0f} %), by CPU time.",
            "The rest is ghosts. What a rank waits for the other is in it only as far as MPI polls.",
            "",
            estimate(results),
            "",
            f"Watching every 10 steps beside M3GNet S ({watched['atoms']:,} atoms, one rank, full metric):",
            "",
            table("| n_max, l_max | µs per atom and check | overhead | aim | |", overhead),
        ]
    )


def ghosts(edges: tuple[float, float, float], reach: float = GHOST_REACH) -> float:
    """Ghost atoms per local atom of a part of the box (edges in Å)."""
    return float(np.prod([1 + 2 * reach / edge for edge in edges])) - 1


def operations(size: str, n_edges: float) -> tuple[float, float]:
    """Floating-point operations of energy and forces; bytes if every intermediate is written and read once."""
    blocks, units, _ = SIZES[size]
    per_edge = 2 * (2 * units**2 + 4 * units**2) + 16 * 2 * units + 2 * 16 * units  # products of one forward pass
    passes = 3 * (blocks - 1) + 2  # forward, again, backward; the last block only once forward
    intermediates = 50 * units  # floats of an edge within a block
    return 2.0 * n_edges * per_edge * passes, 8.0 * n_edges * intermediates * passes


def estimate(results: Result) -> str:
    """64 ranks and one GPU, from what was measured; the assumptions are in the text."""
    part = results["ranks"]
    box, half, edge = part["box"], part["box"] / 2, MILLION_BOX / 4
    per_atom = 1e6 * part["1"][0] / part["atoms"]
    more = ghosts((half, box, box)) - ghosts((box, box, box))
    per_ghost = max(0.0, 1e6 * (part["2"][0] - part["1"][0]) / part["atoms"] / more)
    local, share = MILLION / 64, ghosts((edge, edge, edge))
    seconds = 1e-6 * local * (per_atom + per_ghost * (share - ghosts((box, box, box))))
    volume = 1e-6 * local * share * (2 * 32 * 4 + 2 * 24)
    flops, traffic = operations("S", 20.0 * MILLION)
    apart, overlapped = flops / FLOPS + traffic / BANDWIDTH, max(flops / FLOPS, traffic / BANDWIDTH)
    lines = [
        "**Estimated, not measured.**",
        "",
        f"64 ranks: the million atoms in 4 x 4 x 4 parts of {edge:.0f} Å, {local:,.0f} atoms and {local * share:,.0f}",
        f"ghosts each (ghosts reach {GHOST_REACH:g} Å). An atom costs {per_atom:.0f} µs and a ghost {per_ghost:.1f} µs",
        f"(from one and two ranks above): {seconds:.2f} s a step. For every ghost 32 floats go each way between the",
        f"two blocks, and position and force: {volume:.1f} MB a rank and step, {volume / 5:.1f} ms at 5 GB/s. Assumed:",
        "cores like this one, not slowed by others that use the same memory, and equal loads.",
        "",
        f"One GPU: a step is {1e-12 * flops:.1f} Tflop in float32, and {1e-12 * traffic:.1f} TB if every intermediate",
        f"goes through memory once. At {1e-12 * FLOPS:g} Tflop/s and {1e-12 * BANDWIDTH:g} TB/s (a third of an H100's",
        f"peak, most of its bandwidth) that is {apart:.1f} s a step, {overlapped:.1f} s where both overlap.",
        "There is no GPU version of this style; a GPU runs the Python program, not timed there for this page.",
    ]
    return "\n".join(lines)


def save(results: Result) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1))


def main() -> None:
    """Parts that are missing, then the page."""
    parts: dict[str, Callable[[Path], Result]] = {
        "sizes": sizes,
        "growth": growth,
        "ranks": ranks,
        "watching": watching,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--again", action="store_true", help="measure anew")
    parser.add_argument("--note", help="a remark for the page, such as what else the machine was doing")
    arguments = parser.parse_args()
    results: Result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if arguments.note is not None:
        results["note"] = arguments.note
    for name in arguments.parts:
        if name in results and not arguments.again:
            continue
        with tempfile.TemporaryDirectory() as folder:
            results[name] = partial(parts[name], Path(folder))()
        save(results)
    save(results)
    if {"sizes", "growth"} <= results.keys():
        put_section("pair", pair_section(results))
    if {"ranks", "watching"} <= results.keys():
        put_section("scaling", scaling_section(results))


if __name__ == "__main__":
    main()
