"""Descriptor, uncertainty and gradient against DScribe and featomic on the same frames; writes
``docs/benchmarks/soap.md``.

    pip install dscribe featomic
    python benchmarks/soap_speed.py --million

Times are CPU seconds of this process, the least of several repetitions; two threads are compared by wall time. Without
``--million`` the page keeps no line about the frame of a million atoms.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = "1"  # before the libraries that read them are imported

import numpy as np  # noqa: E402
from ase import Atoms  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.spacegroup import crystal  # noqa: E402

import ideal  # noqa: E402
from ideal import SoapMahalanobis, SoapPowerSpectrum, _core  # noqa: E402

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "soap.md"
SIZES = ((4, 3), (6, 4), (8, 6))
R_CUT, SIGMA = 5.0, 0.5
Row = list[str]


def lithium(repeat: int = 10, seed: int = 1) -> Atoms:
    """2 repeat^3 atoms, 63 neighbors each."""
    atoms = bulk("Li", "bcc", a=3.5, cubic=True) * (repeat, repeat, repeat)
    atoms.rattle(0.15, seed=seed)
    return atoms


def alumina(repeat: int = 4, seed: int = 1) -> Atoms:
    """15 repeat^3 atoms (even repeat), 159 neighbors each."""
    basis = [(0, 0, 0.352), (0.306, 0, 0.25)]
    cell = crystal(["Al", "O"], basis, spacegroup=167, cellpar=[4.76, 4.76, 12.99, 90, 90, 120])
    atoms = cell * (repeat, repeat, max(1, repeat // 2))
    atoms.rattle(0.1, seed=seed)
    return atoms


FRAMES = {"Li": lithium, "Al2O3": alumina}


def least(call: Callable[[], object], repetitions: int, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of the fastest call."""
    call()
    best = np.inf
    for _ in range(repetitions):
        start = clock()
        call()
        best = min(best, clock() - start)
    return best


def descriptor(frame: Atoms, n_max: int, l_max: int, **options: Any) -> SoapPowerSpectrum:
    return SoapPowerSpectrum(set(frame.symbols), r_cut=R_CUT, n_max=n_max, l_max=l_max, sigma=SIGMA, **options)


def trained(name: str, n_max: int, l_max: int, metric: str, **options: Any) -> SoapMahalanobis:
    frames = [FRAMES[name](seed=seed) for seed in (1, 2, 3)]
    uncertainty = SoapMahalanobis(descriptor(frames[0], n_max, l_max, **options), metric=metric)
    uncertainty.update(frames)
    return uncertainty


def dscribe_soap(frame: Atoms, n_max: int, l_max: int):
    from dscribe.descriptors import SOAP

    species = sorted(set(frame.symbols))
    return SOAP(species=species, r_cut=R_CUT, n_max=n_max, l_max=l_max, sigma=SIGMA, periodic=True)


def featomic_soap(n_max: int, l_max: int):
    from featomic import SoapPowerSpectrum as Featomic

    radial = {"type": "Gto", "max_radial": n_max - 1}  # it counts from 0
    return Featomic(
        cutoff={"radius": R_CUT, "smoothing": {"type": "ShiftedCosine", "width": SIGMA}},
        density={"type": "Gaussian", "width": SIGMA},
        basis={"type": "TensorProduct", "max_angular": l_max, "radial": radial},
    )


def speed_rows() -> Iterator[tuple[Row, Row]]:
    """Rows of the tables of values and of gradients, µs per atom."""
    for name, make in FRAMES.items():
        frame = make()
        small = make(4) if name == "Li" else make(2)  # featomic's gradients take 1 MB per atom and more
        n, n_small = len(frame), len(small)
        for n_max, l_max in SIZES:
            theirs, rust = dscribe_soap(frame, n_max, l_max), featomic_soap(n_max, l_max)
            soap = descriptor(frame, n_max, l_max)
            full, low = (trained(name, n_max, l_max, metric) for metric in ("full", "low_rank"))
            create = least(partial(theirs.create, frame), 3) / n * 1e6
            values = least(partial(rust.compute, small), 3) / n_small * 1e6
            own = least(partial(soap.create, frame), 7) / n * 1e6
            u_full = least(partial(full.atomic, frame), 7) / n * 1e6
            u_low = least(partial(low.atomic, frame), 7) / n * 1e6
            # A threshold that few atoms are near: the 0.99 quantile.
            screen = least(partial(low.screen, frame, float(np.quantile(low.atomic(frame), 0.99))), 7) / n * 1e6
            ranks = ", ".join(str(rank) for rank in low.ranks.values())
            head = [f"{name}, {n} atoms", f"{n_max}, {l_max}"]
            times = [f"{t:.1f}" for t in (create, values, own, u_full, u_low, screen)]
            ratios = [f"{create / t:.1f}" for t in (u_full, u_low, screen)]
            first = [*head, *times, ranks, *ratios]

            include = [0, n // 2]
            derivatives = partial(
                theirs.derivatives, frame, include=include, method="numerical", return_descriptor=False
            )
            numerical = least(derivatives, 1) / len(include) * 1e6
            positions = least(partial(rust.compute, small, gradients=["positions"]), 2) / n_small * 1e6
            grad_full = least(partial(full.gradient, frame), 5) / n * 1e6
            grad_low = least(partial(low.gradient, frame), 5) / n * 1e6
            inner = trained(name, n_max, l_max, "full", outer_support=False)
            grad_inner = least(partial(inner.gradient, frame), 5) / n * 1e6
            second = [*head, f"{numerical:,.0f}", f"{positions:.0f}"]
            second += [f"{t:.1f}" for t in (grad_full, grad_low, grad_inner)]
            second += [f"{numerical / grad_full:.0f}"]
            second += [f"{positions / t:.0f}" for t in (grad_full, grad_low, grad_inner)]
            print(" | ".join(first), "||", " | ".join(second[2:]), flush=True)
            yield first, second


def thread_rows() -> Iterator[Row]:
    """Wall time with one thread over wall time with two, (8, 6), full metric."""
    for name, make in FRAMES.items():
        frame = make(12) if name == "Li" else make(6)
        one, two = (trained(name, 8, 6, "full", threads=threads) for threads in (1, 2))
        row = [f"{name}, {len(frame)} atoms"]
        for method in ("atomic", "gradient"):
            single = least(partial(getattr(one, method), frame), 12, time.perf_counter)
            double = least(partial(getattr(two, method), frame), 12, time.perf_counter)
            row.append(f"{single / double:.2f}")
        difference = np.abs(two.atomic(frame) / one.atomic(frame) - 1).max()
        row.append(f"{difference:.0e}")
        print(" | ".join(row), flush=True)
        yield row


def resident(key: str) -> float:
    """MB; key: VmRSS (now), VmHWM (peak since the last reset)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def neighbors_per_atom(frame: Atoms, support: float) -> float:
    return len(frame) / frame.cell.volume * 4 / 3 * np.pi * support**3 - 1


def operations(soap: SoapPowerSpectrum, neighbors: float) -> float:
    """Floating-point operations of u per atom, one species, full metric: what the algorithm asks for, no overhead."""
    n, harmonics, features = soap.n_max, (soap.l_max + 1) ** 2, soap.n_features
    radial = 2 * 6 * (soap.l_max + 1) * n  # six terms of a spline per function
    angular = 5 * harmonics
    accumulation = 2 * harmonics * n
    return neighbors * (radial + angular + accumulation) + 2 * harmonics * n**2 + features**2


def measure(task: str, size: int) -> None:
    """In a process of its own: time, peak memory above the frame, share of what a matrix product reaches."""
    uncertainty = trained("Li", 8, 6, "full")
    frame = lithium(size, seed=9)
    call = partial(getattr(uncertainty, task), frame)
    uncertainty.atomic(frame[:10])
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.process_time()
    call()
    seconds = time.process_time() - start
    peak = resident("VmHWM") - before
    if task == "atomic":
        seconds = min(seconds, least(call, 1))
    a = np.random.default_rng(0).normal(size=(1500, 1500))
    product = 2 * 1500**3 / least(lambda: a @ a, 5)
    work = operations(uncertainty.soap, neighbors_per_atom(frame, uncertainty.soap.support)) * len(frame)
    print(len(frame), seconds, peak, work / seconds / 1e9, product / 1e9)


def in_own_process(task: str, size: int) -> list[float]:
    command = [sys.executable, __file__, "--measure", task, str(size)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(word) for word in output.split()]


def memory_rows() -> Iterator[Row]:
    for size in (20, 40):
        n, _, peak, _, _ = in_own_process("gradient", size)
        yield [f"{n:,.0f}", f"{peak:.0f}", f"{peak * 2**20 / n:.0f}"]
        print(" | ".join(["gradient memory", *[f"{n:.0f}", f"{peak:.1f}"]]), flush=True)


def million_text() -> str:
    n, seconds, peak, rate, product = in_own_process("atomic", 80)
    return (
        "## One million atoms\n\n"
        f"u of {n:,.0f} Li atoms, (8, 6), full metric, float64, one thread: {seconds:.1f} core-seconds, "
        f"{peak:.0f} MB above the frame.\n"
        f"Counted operations (`operations` in the script: six spline terms per radial function, 49 harmonics, their "
        f"products,\nthe power spectrum, a triangular product with 252 features): {rate:.1f} GFLOP/s; NumPy's matrix "
        f"product of 1500 rows reaches\n{product:.1f} GFLOP/s on the same core at the same time, so the evaluation "
        f"runs at {rate / product:.0%} of it.\n"
    )


def table(header: str, rows: list[Row]) -> str:
    columns = header.split(", ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--million", action="store_true", help="also u of a million atoms")
    parser.add_argument("--measure", nargs=2, metavar=("TASK", "SIZE"), help="one measurement in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], int(arguments.measure[1]))
        return
    values, gradients = zip(*speed_rows(), strict=True)
    packages = ", ".join(f"{p} {version(p)}" for p in ("dscribe", "featomic", "numpy"))
    text = (
        "# Descriptor and uncertainty against DScribe and featomic\n\n"
        "    pip install dscribe featomic\n"
        f"    python benchmarks/soap_speed.py{' --million' if arguments.million else ''}\n\n"
        f"Machine: {processor()}, {len(os.sched_getaffinity(0))} cores, {_core.instruction_set()} kernels. "
        f"ideal {ideal.__version__}, {packages}.\n"
        "float64, periodic cells, r_cut 5 Å, sigma 0.5 Å, GTO basis; ours with `taper: true`. featomic ends its "
        "support at r_cut\nand sees 2.6 times fewer neighbors. CPU time of one thread, the least of several "
        "repetitions.\n\n"
        "## Values, µs per atom\n\n"
        "DScribe and featomic: the descriptor alone. u: descriptor and uncertainty, with the full metric and with low "
        "rank +\nresidual (rank per species). Screen: float32 with low rank + residual, float64 wherever that cannot "
        "tell on which\nside of the threshold (the 0.99 quantile) an atom is.\n\n"
        + table(
            "frame, n_max; l_max, DScribe create, featomic, ours: create, ours: u full, ours: u low rank, "
            "ours: screen, rank, DScribe / u full, DScribe / u low rank, DScribe / screen",
            list(values),
        )
        + "## Uncertainty with gradient and strain, µs per atom\n\n"
        "DScribe: derivatives by finite differences, the only ones it has in periodic cells, per atom displaced. "
        "featomic:\ngradients with respect to positions. Ours: u and the derivative of sum u^2 with respect to all "
        "positions and strain;\nsame neighbors: full metric, with the support ending at r_cut as featomic's does.\n\n"
        + table(
            "frame, n_max; l_max, DScribe derivatives, featomic gradients, ours: full, ours: low rank, "
            "ours: same neighbors, DScribe / full, featomic / full, featomic / low rank, featomic / same neighbors",
            list(gradients),
        )
    )
    if len(os.sched_getaffinity(0)) > 1:
        text += "## Two threads\n\nWall time of one thread over that of two, (8, 6), full metric.\n\n"
        text += table("frame, u, u and gradient, largest relative difference of u", list(thread_rows()))
    text += "## Memory of the gradient\n\nPeak above the frame, Li (8, 6), full metric.\n\n"
    text += table("atoms, MB, bytes per atom", list(memory_rows()))
    if arguments.million:
        text += million_text()
    PAGE.write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
